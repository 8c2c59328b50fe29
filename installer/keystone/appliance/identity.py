"""Which machine of a site this one is, and the first files of its state partition. Pure.

The site file describes a Primer, join.yaml a worker. Network files (systemd.network(5)) match the
MAC address, so that a new interface name after a kernel upgrade or a moved card changes nothing.
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
    """The site that a machine belongs to: a Site for a Primer, a Join for a worker."""

    @property
    def name(self) -> str: ...  # noqa: D102 see Site
    @property
    def networks(self) -> Networks: ...  # noqa: D102 see Site
    @property
    def ssh(self) -> Ssh: ...  # noqa: D102 see Site
    @property
    def system_floor(self) -> int: ...  # noqa: D102 see Site


class Member(Protocol):
    """The entry of a machine: a Node, or a Worker, whose address may come from DHCP (None).

    where: the file and the list with the entry, for messages.
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
    """What identifies this machine.

    serial: the system's serial number (DMI), "" without one. macs: of its network cards, in lower
    case. disks: serial numbers of its disks.
    """

    serial: str
    macs: tuple[str, ...]
    disks: tuple[str, ...] = ()

    def describe(self) -> str:
        """Serial number and MAC addresses in one line."""
        serial = f"serial number {self.serial}" if self.serial else "no serial number in firmware"
        cards = f"MAC {', '.join(self.macs)}" if self.macs else "no network card"
        return f"{serial}, {cards}"


@dataclass(frozen=True)
class Card:
    """A network card. name: of its interface. driver: the kernel's. cable: it has a link."""

    name: str
    driver: str
    cable: bool

    def describe(self) -> str:
        """Interface, driver and link in one line."""
        return f"{self.name}, {self.driver}, {'cable' if self.cable else 'no cable'}"


def is_it(member: Member, hardware: Hardware) -> bool:
    """Whether the entry describes this machine, by serial number or by one of its MACs."""
    machine = member.machine
    return machine is not None and bool(
        (machine.serial and machine.serial == hardware.serial)
        or set(machine.macs) & set(hardware.macs)
    )


def who(site: Site | None, join: Join | None, hardware: Hardware) -> Node | Worker | None:
    """The Primer of the site, or the worker of join.yaml, that describes this machine.

    None if a person has to decide: there is no site file, and join.yaml has a token for any
    machine. Raises RefusedError if no entry, or more than one, describes this machine.
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
            f"this machine ({here}) matches {' and '.join(member.name for member in found)}",
            hint=f"make the entries in {places} distinct",
        )
    if not site and join and join.free:
        return None
    raise _unknown(site, join, hardware)


def _unknown(site: Site | None, join: Join | None, hardware: Hardware) -> RefusedError:
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
            + (
                f"; for its tokens without a machine ({len(join.free)}), install guided"
                if join.free
                else ""
            )
        )
    here = hardware.describe()
    return RefusedError(f"this machine ({here}) is {' and '.join(what)}", hint=". Or ".join(hints))


def system_disk(node: Member, hardware: Hardware) -> str:
    """The serial number of the disk for the system.

    It is the disk that the file names, or else the only disk that is not for the pool. Raises
    RefusedError if there is not exactly one.
    """
    if node.system_disk:
        return node.system_disk
    pool = {disk.serial for disk in node.disks}
    left = [serial for serial in hardware.disks if serial not in pool]
    if len(left) == 1:
        return left[0]
    besides = " besides those for the pool" if pool else ""
    raise RefusedError(
        f"{node.name}: cannot choose the disk for the system: this machine has "
        f"{', '.join(left) or 'no disk'}{besides}",
        hint=f"name the disk in {node.where}.systemDisk",
    )


def card(node: Member, cards: Mapping[str, Card]) -> str:
    """The MAC of the card that gets the machine's address; "" without a card.

    It is the card that the file names, or else the only card, or else the only card with a cable.
    cards: by MAC. Raises RefusedError if that is ambiguous.
    """
    named = [mac for mac in cards if node.machine and mac in node.machine.macs]
    left = named or list(cards)
    plugged = [mac for mac in left if cards[mac].cable]
    found = left if len(left) <= 1 else plugged
    if len(found) <= 1 and (found or not left):
        return found[0] if found else ""
    shown = ", ".join(f"{mac} ({cards[mac].describe()})" for mac in left)
    raise RefusedError(
        f"{node.name}: cannot choose the network card for "
        f"{node.address or 'the address from DHCP'}: {len(plugged)} of {shown} have a cable",
        hint=f"name the card in {node.where}.machine.macs, or connect only that one",
    )


def state(site: Place, node: Member, mac: str) -> Mapping[str, tuple[str, int]]:
    """The first files of the new system's state partition: text and mode by path.

    mac: of the card that gets the address; "" for any card.
    """
    # Without Kind=!* this would also match each pod's veth and remove it from its bridge.
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
    """The section [Network] and later ones. A DHCP server identifies the card by its MAC."""
    if node.address is None:
        return (
            "DHCP=ipv4\nLinkLocalAddressing=ipv6\n\n"
            "[DHCPv4]\nClientIdentifier=mac\nUseHostname=no\n"
        )
    gateway = f"Gateway={site.networks.gateway}\n" if site.networks.gateway else ""
    length = site.networks.nodes.prefixlen
    return f"Address={node.address}/{length}\n{gateway}LinkLocalAddressing=ipv6\n"
