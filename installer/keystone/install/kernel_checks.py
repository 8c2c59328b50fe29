"""Preflight of what a host cannot change when it is a container: its kernel. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone.ansible.roles.kernel import SYSCTLS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystone.install.findings import Finding, Look

WANTED = {
    "overlay": "images are unpacked as layers of it",
    "br_netfilter": "a pod reaches a Service whose other end is on its own node through it",
    "nf_conntrack": "Services are connections that it remembers",
    "nf_tables": "kube-proxy writes its rules there",
    "vxlan": "the pod network crosses nodes in it",
}
"""Part of the kernel: what for. All but br_netfilter are loaded by the kernel when first used."""
ON_THE_HOST = "on the machine that carries this container"


def kind(look: Look) -> Iterator[Finding]:
    """A machine of its own, unless the site is a trial site."""
    if look.facts.container and not look.profile.containers:
        yield look.failed(
            f"is a container ({look.facts.virtualization}): its kernel, clock and disks are "
            "another machine's",
            "take a machine or a virtual machine; for trying and testing only: spec.trial: true",
        )


def parts(look: Look) -> Iterator[Finding]:
    """The parts of the kernel that a container can only find there."""
    if not (look.profile.containers and look.facts.container):
        return  # where a module can be loaded, it is loaded
    for name, purpose in WANTED.items():
        state = look.facts.kernel_parts.get(name, "")
        if state == "missing":
            yield look.failed(
                f"its kernel {look.facts.kernel} has no {name}: {purpose}",
                f"use another kernel {ON_THE_HOST}",
            )
        elif state == "module" and name == "br_netfilter":
            yield look.failed(
                f"its kernel has not loaded {name}: {purpose}",
                f"{ON_THE_HOST}: modprobe {name}",
            )
        elif not state:
            yield look.warning(
                f"cannot see whether its kernel has {name}: {purpose}",
                f"{ON_THE_HOST}: modprobe {name}",
            )


def settings(look: Look) -> Iterator[Finding]:
    """Settings outside the network namespace are looked at where they are not made."""
    made = look.profile.settings(SYSCTLS)
    for name, value in look.facts.settings.items():
        wanted = SYSCTLS.get(name, 0)
        if name not in made and value < wanted:
            where = f"{ON_THE_HOST}: " if look.facts.container else ""
            yield look.warning(
                f"its setting {name} is {value}, less than {wanted}, and is not changed",
                f"{where}sysctl -w {name}={wanted}",
            )
