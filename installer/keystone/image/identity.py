"""Which of a site's Primers this machine is, and what its state begins with. Pure.

Networks as systemd.network(5) has them: bound to the MAC address, so that another name of the
interface after a new kernel or a moved card changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.site import Node, Site


@dataclass(frozen=True)
class Hardware:
    """What this machine says of itself.

    serial: the system's, of DMI. macs: of its network cards, in lower case. disks: their serial
    numbers.
    """

    serial: str
    macs: tuple[str, ...]
    disks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Card:
    """A network card. name: the interface's. driver: the kernel's. cable: whether there is one."""

    name: str
    driver: str
    cable: bool

    def describe(self) -> str:
        """In a few words."""
        return f"{self.name}, {self.driver}, {'cable' if self.cable else 'no cable'}"


def who(site: Site, hardware: Hardware) -> Node:
    """The Primer that this machine is, by its serial number or one of its MAC addresses.

    Raises RefusedError when it is none of them, or more than one.
    """
    found = [
        node
        for node in site.primers
        if (machine := node.machine)
        and (
            (machine.serial and machine.serial == hardware.serial)
            or set(machine.macs) & set(hardware.macs)
        )
    ]
    if len(found) == 1:
        return found[0]
    here = f"serial number {hardware.serial or 'unknown'}, MAC {', '.join(hardware.macs) or 'none'}"
    if found:
        raise RefusedError(
            f"this machine ({here}) is {' and '.join(node.name for node in found)} at once",
            hint="correct spec.primers[].machine in the site file",
        )
    known = [node.name for node in site.primers if node.machine]
    raise RefusedError(
        f"this machine ({here}) is no Primer of site {site.name}",
        hint="add its serial number or MAC to spec.primers[].machine"
        + (f"; the site file describes {', '.join(known)}" if known else ""),
    )


def system_disk(node: Node, hardware: Hardware) -> str:
    """The serial number of the disk that the system is written to.

    The one that the site names, or the only disk that is not the pool's. Raises RefusedError.
    """
    if node.system_disk:
        return node.system_disk
    pool = {disk.serial for disk in node.disks}
    left = [serial for serial in hardware.disks if serial not in pool]
    if len(left) == 1:
        return left[0]
    raise RefusedError(
        f"{node.name}: {len(left)} disks that are not the pool's ({', '.join(left) or 'none'}), "
        "so which is the system's is not clear",
        hint="name it in the site file: primers[].systemDisk",
    )


def card(node: Node, cards: Mapping[str, Card]) -> str:
    """The MAC of the card that has the Primer's address; "" where there is no card.

    The one that the site names, or the only one, or of several the only one with a cable. cards: by
    MAC. Raises RefusedError.
    """
    named = [mac for mac in cards if node.machine and mac in node.machine.macs]
    left = named or list(cards)
    plugged = [mac for mac in left if cards[mac].cable]
    found = left if len(left) <= 1 else plugged
    if len(found) <= 1 and (found or not left):
        return found[0] if found else ""
    shown = ", ".join(f"{mac} ({cards[mac].describe()})" for mac in left)
    raise RefusedError(
        f"{node.name}: {len(plugged)} network cards with a cable of {shown}, so which has "
        f"{node.address} is not clear",
        hint="name it in the site file: primers[].machine.macs; or plug in that one only",
    )


def state(site: Site, node: Node, mac: str) -> Mapping[str, tuple[str, int]]:
    """Files that the new system's state begins with: text and mode by path.

    mac: of the card that has the address; "" for any that comes.
    """
    # Without "no kind" it would match each pod's veth too, and take it out of its bridge.
    match = f"MACAddress={mac}" if mac else "Kind=!*\nType=ether"
    gateway = f"Gateway={site.networks.gateway}\n" if site.networks.gateway else ""
    length = site.networks.nodes.prefixlen
    network = (
        f"# Keystone, site {site.name}\n[Match]\n{match}\n\n[Network]\n"
        f"Address={node.address}/{length}\n{gateway}LinkLocalAddressing=ipv6\n"
    )
    files = {
        "etc/hostname": (f"{node.name}\n", 0o644),
        "etc/systemd/network/10-keystone.network": (network, 0o644),
    }
    if site.ssh.authorized_keys:
        keys = "".join(f"{key}\n" for key in site.ssh.authorized_keys)
        files["root/.ssh/authorized_keys"] = (keys, 0o600)
    return files
