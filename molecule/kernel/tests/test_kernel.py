"""The role kernel: files with the modules and settings that Kubernetes needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testinfra.host import Host

MODULES = "/etc/modules-load.d/keystone-kubernetes.conf"
SETTINGS = "/etc/sysctl.d/90-keystone-kubernetes.conf"


def test_modules_are_configured(host: Host, role_variables: dict[str, Any]) -> None:
    assert host.file(MODULES).content_string.split() == role_variables["kernel_modules"]


def test_kernel_accepts_the_settings(host: Host, role_variables: dict[str, Any]) -> None:
    host.check_output(
        f"modprobe --quiet --all $(cat {MODULES}); /usr/lib/systemd/systemd-sysctl {SETTINGS}"
    )
    names = list(role_variables["kernel_sysctls"])
    values = host.check_output("sysctl --values " + " ".join(names)).split()
    assert dict(zip(names, map(int, values), strict=True)) == role_variables["kernel_sysctls"]
