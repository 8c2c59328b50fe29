"""The role containerd: images come only from the Primers; containers run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testinfra.host import Host

PULL = "ctr --namespace k8s.io images pull --hosts-dir /etc/containerd/certs.d"
BUSYBOX = "docker.io/library/busybox:1.37"


def test_image_is_pulled_from_a_primer_and_runs(host: Host) -> None:
    host.check_output(f"{PULL} {BUSYBOX}")
    run = "ctr --namespace k8s.io run --rm --runc-systemd-cgroup"
    printed = host.check_output(
        f"{run} --cgroup system.slice:molecule:one {BUSYBOX} one echo it runs"
    )
    assert printed == "it runs"


def test_image_that_is_not_in_the_bundle_is_not_found(host: Host) -> None:
    answer = host.run(f"{PULL} docker.io/library/alpine:latest")
    assert answer.rc != 0
    assert "not found" in answer.stderr


def test_configuration_has_the_sandbox_image_of_the_bundle(
    host: Host, role_variables: dict[str, Any]
) -> None:
    dumped = host.check_output("containerd config dump")
    assert role_variables["containerd_sandbox_image"] in dumped
    assert (
        "restrict_oom_score_adj = true" in dumped or role_variables["containerd_lowers_oom_score"]
    )


def test_cni_plugins_are_installed(host: Host) -> None:
    for name in ("bridge", "host-local", "loopback", "portmap"):
        assert host.file(f"/opt/cni/bin/{name}").mode == 0o755
