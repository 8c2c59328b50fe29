"""What a site knows of its Primers: a record of each in etcd, which every Primer can read.

A machine that comes under a known name with another identity is recognised by its record, and a
Primer that the site file does not name any more is found by it until it has left. etcd has the
records, because all Primers then agree, and because its snapshots hold them. Pure.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from keystone import host_keys
from keystone.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.hosts.facts import HostFacts
    from keystone.site.model import Node, Site

ROOT = "/keystone/"
PRIMERS = f"{ROOT}primers/"
SITE = f"{ROOT}networks"
REMOVED = f"{ROOT}removed"
"""The Primer whose member was removed last. Nobody reads it: that it is written matters."""
LEAVES = f"{ROOT}leaves/"
"""Certificates of etcd that each Primer has, which only itself knows otherwise: "<name> <end>" by
serial number. The timer there writes it, so that they can be revoked when that Primer is lost."""


@dataclass(frozen=True)
class Known:
    """One Primer. host_key: its SSH host key, without comment. disks: serials of its pool's disks.

    machine_id: of machine-id(5).
    """

    address: str
    machine_id: str
    host_key: str
    disks: tuple[str, ...] = ()
    control_plane: bool = True
    kubelet: bool = True

    def described(self) -> str:
        """Say which machine it is."""
        disks = f", disks {' '.join(self.disks)}" if self.disks else ""
        return f"machine id {self.machine_id}, SSH host key {_print(self.host_key)}{disks}"

    def differs(self, now: Known) -> tuple[str, ...]:
        """Say how the machine `now` is another one than this, a phrase for each difference.

        A disk of a mirror may be replaced: only other disks altogether mean another machine.
        """
        found = []
        if now.machine_id != self.machine_id:
            found.append(f"machine id {now.machine_id} (known: {self.machine_id})")
        if now.host_key != self.host_key:
            found.append(f"SSH host key {_print(now.host_key)} (known: {_print(self.host_key)})")
        if self.disks and not set(self.disks) & set(now.disks):
            theirs = " ".join(now.disks) or "none"
            found.append(f"disks {theirs} (known: {' '.join(self.disks)})")
        return tuple(found)


def _print(line: str) -> str:
    return host_keys.fingerprint(line) if line else "none"


def of(node: Node, seen: HostFacts) -> Known:
    """Return the record of the machine that was observed under the node's name."""
    there = {disk.serial for disk in seen.disks}
    return Known(
        address=str(node.address),
        machine_id=seen.machine_id,
        host_key=host_keys.key(seen.host_key),
        disks=tuple(disk.serial for disk in node.disks if disk.serial in there),
        control_plane=node.control_plane,
        kubelet=node.kubelet,
    )


def settled(site: Site) -> dict[str, str]:
    """Return what of a site can never change, because the cluster was made with it."""
    networks = site.networks
    return {
        "name": site.name,
        "pods": str(networks.pods),
        "services": str(networks.services),
        "clusterDomain": networks.cluster_domain,
    }


def dump(value: Known | Mapping[str, str]) -> str:
    """Return the text of a record; equal records, equal text."""
    plain = asdict(value) if isinstance(value, Known) else dict(value)
    return json.dumps(plain, sort_keys=True)


def primers(kept: Mapping[str, str]) -> dict[str, Known]:
    """Read the records of all Primers, by name. Raises HostError for an invalid one."""
    return {
        key.removeprefix(PRIMERS): _known(key, text)
        for key, text in sorted(kept.items())
        if key.startswith(PRIMERS)
    }


def leaves(kept: Mapping[str, str], host: str) -> dict[str, str]:
    """Read the certificates of a Primer, "<name> <end>" by serial number. Raises HostError."""
    key = f"{LEAVES}{host}"
    found = _object(key, kept.get(key, "{}"))
    for serial, text in found.items():
        name, _, end = str(text).partition(" ")
        try:
            int(serial, 16)
            aware = dt.datetime.fromisoformat(end).tzinfo is not None
        except ValueError as error:
            raise _invalid(key, error) from error
        if not name or not aware:
            raise _invalid(key, f"{serial}: no name, or no time zone")
    return found


def site(kept: Mapping[str, str]) -> dict[str, str]:
    """Read what `settled` returned when the site was made; empty for a site without it."""
    return _object(SITE, kept[SITE]) if SITE in kept else {}


def _known(key: str, text: str) -> Known:
    found = _object(key, text)
    try:
        if unknown := set(found) - {field.name for field in fields(Known)}:
            raise TypeError(f"unknown: {', '.join(sorted(unknown))}")
        return Known(**{**found, "disks": tuple(found.get("disks", ()))})
    except TypeError as error:
        raise _invalid(key, error) from error


def _object(key: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise _invalid(key, error) from error
    if not isinstance(found, dict):
        raise _invalid(key, "not an object")
    return found


def _invalid(key: str, why: object) -> HostError:
    return HostError(
        f"etcd, key {key}: not a record of Keystone: {why}",
        hint=f"if nobody else wrote it, remove it: etcdctl del {key}; the next run writes it anew",
    )
