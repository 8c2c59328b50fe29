"""Preflight checks of the kernel, which a host cannot change if it is a container. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone.ansible.roles.kernel import SYSCTLS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystone.install.findings import Finding, HostCheck

WANTED = {
    "overlay": "containerd mounts image layers with it",
    "br_netfilter": "a pod needs it to reach a Service that runs on its own node",
    "nf_conntrack": "it tracks the connections to Services",
    "nf_tables": "kube-proxy writes its rules with it",
    "vxlan": "the pod network uses it between nodes",
}
"""Kernel part: its purpose. The kernel loads all but br_netfilter when they are first used."""
ON_THE_HOST = "on the machine that carries this container"


def kind(host: HostCheck) -> Iterator[Finding]:
    """The host is a machine, not a container, unless the site is a trial site."""
    if host.facts.container and not host.profile.containers:
        yield host.failed(
            f"is a container ({host.facts.virtualization}): its kernel, clock and disks belong to "
            "another machine",
            "use a physical or virtual machine; only for trials and tests: spec.trial: true",
        )


def parts(host: HostCheck) -> Iterator[Finding]:
    """A container's kernel has all the parts that a container cannot load itself."""
    if not (host.profile.containers and host.facts.container):
        return  # the role `kernel` loads them where modules can be loaded
    for name, purpose in WANTED.items():
        state = host.facts.kernel_parts.get(name, "")
        if state == "missing":
            yield host.failed(
                f"has a kernel ({host.facts.kernel}) without {name}: {purpose}",
                f"use another kernel {ON_THE_HOST}",
            )
        elif state == "module" and name == "br_netfilter":
            yield host.failed(
                f"has a kernel that has not loaded {name}: {purpose}",
                f"{ON_THE_HOST}: modprobe {name}",
            )
        elif not state:
            yield host.warning(
                f"does not show whether its kernel has {name}: {purpose}",
                f"{ON_THE_HOST}: modprobe {name}",
            )


def settings(host: HostCheck) -> Iterator[Finding]:
    """Kernel settings that Keystone does not change on this host are high enough."""
    made = host.profile.settings(SYSCTLS)
    for name, value in host.facts.settings.items():
        wanted = SYSCTLS.get(name, 0)
        if name not in made and value < wanted:
            where = f"{ON_THE_HOST}: " if host.facts.container else ""
            yield host.warning(
                f"has setting {name} = {value}, less than {wanted}; Keystone does not change it",
                f"{where}sysctl -w {name}={wanted}",
            )
