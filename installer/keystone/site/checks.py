"""Checks of a site file that a schema cannot express: counts, duplicates, networks, quorum.

Every check accepts a spec with other mistakes, so that all mistakes of a file are reported at once:
it skips values of the wrong type, which the schema reports.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from itertools import combinations
from typing import TYPE_CHECKING, Any

from keystone import host_keys, log
from keystone.mistakes import dotted
from keystone.site import bech32

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from keystone.documents import Document
    from keystone.mistakes import Mistakes, Position

QUORUMS = (1, 3, 5)
"""Two members tolerate no more failures than one, four no more than three (etcd FAQ)."""
EVEN = (2, 4)
"""Accepted with evenQuorum, for the time between the loss of a Primer and its replacement."""

DISKS = {"mirror": 2, "single": 1, "directory": 0}
"""Number of disks of each Primer, by layout."""

DEFAULT_NETWORKS = {"pods": "10.244.0.0/16", "services": "10.96.0.0/16"}

LARGEST_PREFIX = {"nodes": 30, "pods": 20, "services": 24}
"""Each node gets a /24 of the pods' network."""

SMALLEST_PREFIX = {"pods": 8, "services": 12}
"""Limits of kubeadm (ValidatePodSubnetNodeMask, ValidateServiceSubnetSize): a node's /24 has at
most 16 bits more than the pods' mask, and services have at most 20 bits."""

NOT_FOR_MACHINES = {
    IPv4Network("0.0.0.0/8"): '"this network" (RFC 791)',
    IPv4Network("127.0.0.0/8"): "loopback",
    IPv4Network("169.254.0.0/16"): "link-local (RFC 3927)",
    IPv4Network("224.0.0.0/4"): "multicast",
    IPv4Network("240.0.0.0/4"): "reserved (RFC 1112)",
}
"""Networks that no machine, pod or service can use; kubeadm accepts global unicast addresses."""

LONGEST_NAME = 51
"""Characters: a common name has at most 64 (RFC 5280, ub-common-name), and certificates have the
common names "NAME health check" and "system:node:NAME"."""

LONGEST_LIFETIME = dt.timedelta(days=90)
"""Of leaf certificates."""

SHORTEST_LIFETIMES = {False: dt.timedelta(hours=1), True: dt.timedelta(minutes=8)}
"""On a site in use and on a trial site: the timer that renews them runs every five minutes."""

_NUMBER = "([0-9]+|0x[0-9a-f]*)"

RESERVED = {
    "localhost": "is a name of every machine",
    "all": "is Ansible's name for all machines",
    "ungrouped": "is Ansible's name for machines without a group",
    "kubernetes": "is the name of the API inside the cluster",
}


@dataclass(frozen=True)
class _Entry:
    """An entry of a list of machines that is a mapping."""

    at: Position
    value: Mapping[str, Any]

    def text(self, key: str) -> str:
        value = self.value.get(key)
        return value if isinstance(value, str) else ""


def check(document: Document, mistakes: Mistakes) -> None:
    """Add all mistakes that the schema cannot find; see documents.load."""
    networks = check_machines(document, "primers", mistakes)
    _overlaps(networks, mistakes)
    primers = list(_entries(document, "primers"))
    _quorum(document, mistakes)
    _lifetime(document, mistakes)
    _disks(document, primers, mistakes)
    _trial(document, mistakes)
    _control_planes(primers, mistakes)
    _host_keys(primers, mistakes)
    _recipients(document, mistakes)


def _recipients(document: Document, mistakes: Mistakes) -> None:
    listed = _section(document, "backup").get("recipients")
    for index, text in enumerate(listed if isinstance(listed, list) else []):
        at = ("spec", "backup", "recipients", index)
        if isinstance(text, str) and not mistakes.touches(*at) and not bech32.is_valid(text):
            mistakes.add(at, "not a public key: a character is wrong", "copy the whole line again")


def duration(text: str) -> dt.timedelta:
    """Return the duration of "90d", "12h" or "30m"."""
    unit = {"d": "days", "h": "hours", "m": "minutes"}[text[-1]]
    return dt.timedelta(**{unit: int(text[:-1])})


def _lifetime(document: Document, mistakes: Mistakes) -> None:
    trust = document.spec.get("trust")
    text = trust.get("certificateLifetime", "") if isinstance(trust, dict) else ""
    if not isinstance(text, str) or not re.fullmatch(r"[1-9][0-9]{0,2}[dhm]", text):
        return
    trial = document.spec.get("trial") is True
    if not SHORTEST_LIFETIMES[trial] <= duration(text) <= LONGEST_LIFETIME:
        shortest = "8m" if trial else "1h"
        at = ("spec", "trust", "certificateLifetime")
        mistakes.add(at, f"{text} is not between {shortest} and 90d")


def _host_keys(primers: list[_Entry], mistakes: Mistakes) -> None:
    for primer in primers:
        line, at = primer.text("hostKey"), (*primer.at, "hostKey")
        if line and not mistakes.touches(*at) and (wrong := host_keys.mistake(line)):
            mistakes.add(
                at, f"invalid SSH host key: {wrong}", "copy the line of ssh_host_*_key.pub"
            )


def check_machines(document: Document, key: str, mistakes: Mistakes) -> dict[str, IPv4Network]:
    """Add the mistakes of spec.networks and of the machines in spec.<key>; return the networks."""
    networks = _networks(document, mistakes)
    listed = list(_entries(document, key))
    _names(listed, mistakes)
    _addresses(listed, networks, mistakes)
    _gateway(document, listed, networks, mistakes)
    _machines(listed, mistakes)
    return networks


def _entries(document: Document, key: str) -> Iterator[_Entry]:
    listed = document.spec.get(key)
    for index, value in enumerate(listed if isinstance(listed, list) else []):
        if isinstance(value, dict):
            yield _Entry(("spec", key, index), value)


def _section(document: Document, name: str) -> Mapping[str, Any]:
    section = document.spec.get(name)
    return section if isinstance(section, dict) else {}


def _networks(document: Document, mistakes: Mistakes) -> dict[str, IPv4Network]:
    given = {**DEFAULT_NETWORKS, **_section(document, "networks")}
    found = {}
    for name, longest in LARGEST_PREFIX.items():
        at, text = ("spec", "networks", name), given.get(name)
        if not isinstance(text, str) or mistakes.touches(*at):
            continue
        try:
            network = IPv4Network(text, strict=False)
        except ValueError as error:
            mistakes.add(at, f'"{text}" is not an IPv4 network: {error}')
            continue
        if str(network) != text:
            mistakes.add(at, f'"{text}" has bits outside its mask', f'write "{network}"')
        if network.prefixlen > longest:
            mistakes.add(at, f"{network} is too small", f"/{longest} or wider")
        shortest = SMALLEST_PREFIX.get(name, 0)
        if network.prefixlen < shortest:
            why = f"{network} is too large: kubeadm refuses it"
            mistakes.add(at, why, f"/{shortest} or narrower")
        for other, what in NOT_FOR_MACHINES.items():
            if network.overlaps(other):
                mistakes.add(
                    at, f"{network} overlaps {other}, which is {what}",
                    "choose private addresses (RFC 1918)",
                )  # fmt: skip
        found[name] = network
    return found


def _overlaps(networks: Mapping[str, IPv4Network], mistakes: Mistakes) -> None:
    for (one, first), (other, second) in combinations(networks.items(), 2):
        if first.overlaps(second):
            mistakes.add(
                ("spec", "networks", other),
                f"{other} {second} overlaps {one} {first}",
                "choose ranges that have no address in common",
            )


def _quorum(document: Document, mistakes: Mistakes) -> None:
    listed = document.spec.get("primers")
    count = len(listed) if isinstance(listed, list) else 0
    even = count in EVEN and document.spec.get("evenQuorum") is True
    if count and count not in QUORUMS and not even:
        why = (
            "lose the quorum when one of them fails, so two are worse than one"
            if count == 2  # noqa: PLR2004 the most common mistake
            else f"tolerate no more failures than {count - 1}"
            if count % 2 == 0
            else "are more than Keystone supports"
        )
        hint = "list 1, 3 or 5"
        if count in EVEN:
            hint += "; while one is lost, set spec.evenQuorum: true"
        mistakes.add(("spec", "primers"), f"{count} Primers {why}", hint)


def _names(primers: list[_Entry], mistakes: Mistakes) -> None:
    _duplicates([(p.text("name"), (*p.at, "name")) for p in primers], "name", mistakes)
    for primer in primers:
        wrong = unusable(primer.text("name"))
        if wrong:
            mistakes.add((*primer.at, "name"), wrong, "choose another name")


def unusable(name: str) -> str:
    """Return why Ansible, kubeadm, resolvers or X.509 cannot use a machine's name, or ""."""
    if name in RESERVED:
        return f'"{name}" {RESERVED[name]}'
    if re.fullmatch(rf"{_NUMBER}(\.{_NUMBER})*", name):
        return f'"{name}" is read as an address (inet_aton(3))'
    if len(name) > LONGEST_NAME:
        return f'"{name}" is too long for a certificate: {len(name)} of {LONGEST_NAME} characters'
    return ""


def _duplicates(values: list[tuple[str, Position]], what: str, mistakes: Mistakes) -> None:
    first: dict[str, Position] = {}
    for value, at in values:
        if value and value in first:
            owner = dotted(first[value][1:3])
            mistakes.add(at, f'duplicate {what} "{value}": {owner} already has it')
        first.setdefault(value, at)


def _addresses(
    primers: list[_Entry], networks: Mapping[str, IPv4Network], mistakes: Mistakes
) -> None:
    _duplicates([(p.text("address"), (*p.at, "address")) for p in primers], "address", mistakes)
    nodes = networks.get("nodes")
    for primer in primers:
        at, text = (*primer.at, "address"), primer.text("address")
        if not text or mistakes.touches(*at):
            continue
        try:
            address = IPv4Address(text)
        except ValueError as error:
            mistakes.add(at, f'"{text}" is not an IPv4 address: {error}')
            continue
        if nodes is None:
            continue
        if address not in nodes:
            mistakes.add(at, f"{address} is outside networks.nodes {nodes}")
        elif address in (nodes.network_address, nodes.broadcast_address):
            mistakes.add(
                at, f"{address} is the first or last address of {nodes}: no machine can use it"
            )


def _gateway(
    document: Document,
    primers: list[_Entry],
    networks: Mapping[str, IPv4Network],
    mistakes: Mistakes,
) -> None:
    at, text = ("spec", "networks", "gateway"), _section(document, "networks").get("gateway")
    nodes = networks.get("nodes")
    if not isinstance(text, str) or nodes is None or mistakes.touches(*at):
        return
    try:
        address = IPv4Address(text)
    except ValueError as error:
        mistakes.add(at, f'"{text}" is not an IPv4 address: {error}')
        return
    if address not in nodes:
        mistakes.add(at, f"{text} is outside networks.nodes {nodes}")
    elif address in (nodes.network_address, nodes.broadcast_address):
        mistakes.add(at, f"{text} is the first or last address of {nodes}: no machine can use it")
    if text in [primer.text("address") for primer in primers]:
        what = {"primers": "a Primer", "workers": "a worker"}[str(primers[0].at[1])]
        mistakes.add(at, f"{text} is the address of {what}")


def _machines(primers: list[_Entry], mistakes: Mistakes) -> None:
    """Add a mistake for each machine that two entries name."""
    serials: list[tuple[str, Position]] = []
    macs: list[tuple[str, Position]] = []
    for primer in primers:
        machine = primer.value.get("machine")
        if not isinstance(machine, dict):
            continue
        at = (*primer.at, "machine")
        if isinstance(machine.get("serial"), str):
            serials.append((machine["serial"], (*at, "serial")))
        listed = machine.get("macs")
        for index, mac in enumerate(listed if isinstance(listed, list) else []):
            if isinstance(mac, str):
                macs.append((mac, (*at, "macs", index)))
    _duplicates(serials, "machine's serial number", mistakes)
    _duplicates(macs, "MAC address", mistakes)


def _disks(document: Document, primers: list[_Entry], mistakes: Mistakes) -> None:
    layout = _section(document, "storage").get("layout", "mirror")
    wanted = DISKS.get(layout) if isinstance(layout, str) else None
    serials: list[tuple[str, Position]] = []
    for primer in primers:
        if wanted != 0 and "disks" not in primer.value:
            mistakes.add(primer.at, 'the key "disks" is missing')
        disks = primer.value.get("disks")
        if not isinstance(disks, list):
            continue
        if wanted is not None and len(disks) != wanted:
            mistakes.add(
                (*primer.at, "disks"),
                f"layout {layout} needs {log.count(wanted, 'disk') if wanted else 'no disks'}, "
                f"not {len(disks)}",
                f"{'list their serial numbers' if wanted else 'remove disks'}, "
                "or change spec.storage.layout",
            )
        for index, disk in enumerate(disks):
            if isinstance(disk, dict) and isinstance(disk.get("serial"), str):
                serials.append((disk["serial"], (*primer.at, "disks", index, "serial")))
        serials.append((primer.text("systemDisk"), (*primer.at, "systemDisk")))
    _duplicates(serials, "serial", mistakes)


def _trial(document: Document, mistakes: Mistakes) -> None:
    """Add mistakes for settings that only a trial site may have."""
    if document.spec.get("trial") is True or mistakes.touches("spec", "trial"):
        return
    if _section(document, "storage").get("layout") == "directory":
        mistakes.add(
            ("spec", "storage", "layout"),
            "layout directory is for trial sites only: folders are not for production",
            "for tests add spec.trial: true; for production use layout mirror",
        )


def _control_planes(primers: list[_Entry], mistakes: Mistakes) -> None:
    if primers and all(primer.value.get("controlPlane", True) is False for primer in primers):
        mistakes.add(
            ("spec", "primers"), "no Primer has controlPlane: true", "set it on at least one Primer"
        )
