"""What the role kernel leaves: what Kubernetes wants of the kernel, for whoever starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testinfra.host import Host

MODULES = "/etc/modules-load.d/keystone-kubernetes.conf"
SETTINGS = "/etc/sysctl.d/90-keystone-kubernetes.conf"


def test_modules_are_named(host: Host, told: dict[str, Any]) -> None:
    assert host.file(MODULES).content_string.split() == told["kernel_modules"]


def test_settings_are_taken_as_they_are_written(host: Host, told: dict[str, Any]) -> None:
    host.check_output(
        f"modprobe --quiet --all $(cat {MODULES}); /usr/lib/systemd/systemd-sysctl {SETTINGS}"
    )
    names = list(told["kernel_sysctls"])
    values = host.check_output("sysctl --values " + " ".join(names)).split()
    assert dict(zip(names, map(int, values), strict=True)) == told["kernel_sysctls"]
