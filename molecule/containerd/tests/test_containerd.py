"""What the role containerd leaves: images come from the Primers, or not at all; containers run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testinfra.host import Host

PULL = "ctr --namespace k8s.io images pull --hosts-dir /etc/containerd/certs.d"
BUSYBOX = "docker.io/library/busybox:1.37"


def test_an_image_comes_from_a_primer_and_runs(host: Host) -> None:
    host.check_output(f"{PULL} {BUSYBOX}")
    run = "ctr --namespace k8s.io run --rm --runc-systemd-cgroup"
    said = host.check_output(f"{run} --cgroup system.slice:molecule:one {BUSYBOX} one echo it runs")
    assert said == "it runs"


def test_what_the_bundle_does_not_hold_is_nowhere(host: Host) -> None:
    answer = host.run(f"{PULL} docker.io/library/alpine:latest")
    assert answer.rc != 0
    assert "not found" in answer.stderr


def test_the_sandbox_is_the_bundles(host: Host, told: dict[str, Any]) -> None:
    dumped = host.check_output("containerd config dump")
    assert told["containerd_sandbox_image"] in dumped
    assert "restrict_oom_score_adj = true" in dumped or told["containerd_lowers_oom_score"]


def test_network_plugins_are_there(host: Host) -> None:
    for name in ("bridge", "host-local", "loopback", "portmap"):
        assert host.file(f"/opt/cni/bin/{name}").mode == 0o755
