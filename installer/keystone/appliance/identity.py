"""Which of a site's machines this one is, and what its state begins with. Pure.

A Primer is described by the site file, a worker by join.yaml.

Networks as systemd.network(5) has them: bound to the MAC address, so that another name of the
interface after a new kernel or a moved card changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from keystone.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ipaddress import IPv4Address

    from keystone.join.join_yaml import Join, Worker
    from keystone.site.model import Disk, Machine, Networks, Node, Site, Ssh


class Place(Protocol):
    """What a machine becomes a part of: a Site, or the Join of one."""

    @property
    def name(self) -> str: ...  # noqa: D102 see Site
    @property
    def networks(self) -> Networks: ...  # noqa: D102 see Site
    @property
    def ssh(self) -> Ssh: ...  # noqa: D102 see Site
    @property
    def system_floor(self) -> int: ...  # noqa: D102 see Site


class Member(Protocol):
    """What a machine becomes: a Node, or a Worker, whose address may be DHCP's.

    where: the file and the list that describe it, for messages.
    """

    @property
    def where(self) -> str: ...  # noqa: D102 see above
    @property
    def name(self) -> str: ...  # noqa: D102 see Node
    @property
    def address(self) -> IPv4Address | None: ...  # noqa: D102 see Node
    @property
    def disks(self) -> tuple[Disk, ...]: ...  # noqa: D102 see Node
    @property
    def machine(self) -> Machine | None: ...  # noqa: D102 see Node
    @property
    def system_disk(self) -> str: ...  # noqa: D102 see Node


@dataclass(frozen=True)
class Hardware:
    """What this machine says of itself.

    serial: the system's, of DMI. macs: of its network cards, in lower case. disks: their serial
    numbers.
    """

    serial: str
    macs: tuple[str, ...]
    disks: tuple[str, ...] = ()

    def describe(self) -> str:
        """What it can be told from others by, in a few words."""
        serial = f"serial number {self.serial}" if self.serial else "no serial number in firmware"
        cards = f"MAC {', '.join(self.macs)}" if self.macs else "no network card"
        return f"{serial}, {cards}"


@dataclass(frozen=True)
class Card:
    """A network card. name: the interface's. driver: the kernel's. cable: whether there is one."""

    name: str
    driver: str
    cable: bool

    def describe(self) -> str:
        """In a few words."""
        return f"{self.name}, {self.driver}, {'cable' if self.cable else 'no cable'}"


def is_it(member: Member, hardware: Hardware) -> bool:
    """Whether the description is of this machine: its serial number, or one of its MACs."""
    machine = member.machine
    return machine is not None and bool(
        (machine.serial and machine.serial == hardware.serial)
        or set(machine.macs) & set(hardware.macs)
    )


def who(site: Site | None, join: Join | None, hardware: Hardware) -> Node | Worker | None:
    """The Primer of the site, or the worker of join.yaml, that this machine is.

    None where a person decides: there is no site file, and join.yaml has a token for any machine.
    Raises RefusedError when it is none of them, or more than one.
    """
    primers = site.primers if site else ()
    workers = join.workers if join else ()
    every: tuple[Node | Worker, ...] = (*primers, *workers)
    found = [member for member in every if is_it(member, hardware)]
    if len(found) == 1:
        return found[0]
    here = hardware.describe()
    if found:
        places = " and in ".join(dict.fromkeys(f"{member.where}.machine" for member in found))
        raise RefusedError(
            f"this machine ({here}) is {' and '.join(member.name for member in found)} at once",
            hint=f"correct it in {places}",
        )
    if not site and join and join.free:
        return None
    raise _nobody(site, join, hardware)


def _nobody(site: Site | None, join: Join | None, hardware: Hardware) -> RefusedError:
    what, hints = [], []
    its = "its serial number or MAC" if hardware.serial else "its MAC"
    if site:
        what.append(f"no Primer of site {site.name}")
        known = [node.name for node in site.primers if node.machine]
        hints.append(
            f"add {its} to spec.primers[].machine"
            + (f"; the site file describes {', '.join(known)}" if known else "")
        )
    if join:
        what.append("no worker of join.yaml")
        known = [worker.name for worker in join.workers if worker.machine]
        hints.append(
            f"for a worker: keystone-install token create --to, with {its}"
            + (f"; join.yaml describes {', '.join(known)}" if known else "")
            + (f"; tokens for any machine are taken by hand: {len(join.free)}" if join.free else "")
        )
    here = hardware.describe()
    return RefusedError(f"this machine ({here}) is {' and '.join(what)}", hint=". Or ".join(hints))


def system_disk(node: Member, hardware: Hardware) -> str:
    """The serial number of the disk that the system is written to.

    The one that the file names, or the only disk that is not the pool's. Raises RefusedError.
    """
    if node.system_disk:
        return node.system_disk
    pool = {disk.serial for disk in node.disks}
    left = [serial for serial in hardware.disks if serial not in pool]
    if len(left) == 1:
        return left[0]
    these = "disks that are not the pool's" if pool else "disks"
    raise RefusedError(
        f"{node.name}: {len(left)} {these} ({', '.join(left) or 'none'}), so which is the "
        "system's is not clear",
        hint=f"name it in {node.where}.systemDisk",
    )


def card(node: Member, cards: Mapping[str, Card]) -> str:
    """The MAC of the card that has the machine's address; "" where there is no card.

    The one that the file names, or the only one, or of several the only one with a cable. cards: by
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
        f"{node.address or 'the address of DHCP'} is not clear",
        hint=f"name it in {node.where}.machine.macs; or plug in that one only",
    )


def state(site: Place, node: Member, mac: str) -> Mapping[str, tuple[str, int]]:
    """Files that the new system's state begins with: text and mode by path.

    mac: of the card that has the address; "" for any that comes.
    """
    # Without "no kind" it would match each pod's veth too, and take it out of its bridge.
    match = f"MACAddress={mac}" if mac else "Kind=!*\nType=ether"
    network = f"# Keystone, site {site.name}\n[Match]\n{match}\n\n[Network]\n{_network(site, node)}"
    files = {
        "etc/hostname": (f"{node.name}\n", 0o644),
        "etc/systemd/network/10-keystone.network": (network, 0o644),
    }
    if site.ssh.authorized_keys:
        keys = "".join(f"{key}\n" for key in site.ssh.authorized_keys)
        files["root/.ssh/authorized_keys"] = (keys, 0o600)
    return files


def _network(site: Place, node: Member) -> str:
    """The section [Network] and what follows it. A DHCP server knows the card by its MAC."""
    if node.address is None:
        return (
            "DHCP=ipv4\nLinkLocalAddressing=ipv6\n\n"
            "[DHCPv4]\nClientIdentifier=mac\nUseHostname=no\n"
        )
    gateway = f"Gateway={site.networks.gateway}\n" if site.networks.gateway else ""
    length = site.networks.nodes.prefixlen
    return f"Address={node.address}/{length}\n{gateway}LinkLocalAddressing=ipv6\n"
