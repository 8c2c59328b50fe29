"""Whether the site and its machines are those that etcd has records of. Pure.

A machine that lost its disks, or another machine, must not take a Primer's place by itself: its
member would vote again without the votes it gave, and a person may only have plugged in the wrong
one. `node replace` says that the change is wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone.cluster import known
from keystone.install.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from keystone.cluster.known import Known
    from keystone.install.state import State
    from keystone.site.model import Node, Site


def wanted(state: State) -> dict[str, str]:
    """Return the records that etcd must have, by key."""
    records = {
        f"{known.PRIMERS}{node.name}": known.dump(known.of(node, state.facts[node.name]))
        for node in state.site.primers
    }
    return {known.SITE: known.dump(known.settled(state.site)), **records}


def missing(state: State) -> bool:
    """Return whether etcd lacks a record, or has an older one."""
    kept: Mapping[str, str] = state.etcd.kept if state.etcd else {}
    return any(kept.get(key) != text for key, text in wanted(state).items())


def strangers(state: State) -> dict[str, tuple[str, ...]]:
    """Return the Primers whose machine is not the known one, each with the differences."""
    found = {}
    for node in state.site.primers:
        before = state.known.get(node.name)
        now = known.of(node, state.facts[node.name])
        if before and (differences := before.differs(now)):
            found[node.name] = differences
    return found


def leaving(site: Site, records: Mapping[str, Known]) -> dict[str, Known]:
    """Return the records of Primers that the site file does not name any more."""
    here = {node.name for node in site.primers}
    return {name: record for name, record in records.items() if name not in here}


def findings(state: State) -> Iterator[Finding]:
    """Find what forbids a run: another machine, another name, another address, other networks."""
    yield from fixed(state.site, state.etcd.kept if state.etcd else {})
    others = [one for one in (*_others(state), *_blank(state)) if one[0] not in state.replacing]
    names = " ".join(dict.fromkeys((*state.replacing, *(name for name, _ in others))))
    for name, what in others:
        yield Finding(
            "refused", name, what,
            "bring the known machine or its disks back; if they are lost for good: "
            f"keystone-install node replace {names}",
        )  # fmt: skip
    yield from _control_planes(state)
    if len(state.site.primers) % 2 == 0:
        yield Finding(
            "warning", ", ".join(node.name for node in state.site.primers),
            f"are {len(state.site.primers)} members of etcd: they tolerate no more failures than "
            f"{len(state.site.primers) - 1}",
            "add a Primer as soon as there is one; it may only vote (controlPlane: false, "
            "kubelet: false)",
        )  # fmt: skip


def _others(state: State) -> Iterator[tuple[str, str]]:
    for name, differences in strangers(state).items():
        yield name, f"is not the machine that this site knows as {name}: {'; '.join(differences)}"


def _blank(state: State) -> Iterator[tuple[str, str]]:
    """Find members of etcd whose machine has lost their data."""
    silent = {one.name for one in state.members if not (one.healthy or one.answers)}
    for node in state.site.primers:
        if node.name in silent and not state.facts[node.name].standing.member:
            now = known.of(node, state.facts[node.name]).described()
            yield node.name, f"is a member of etcd, and its machine has no data of etcd ({now})"


def fixed(site: Site, kept: Mapping[str, str]) -> Iterator[Finding]:
    """Find what the site file changes of an existing site, and cannot change. No host is needed."""
    yield from _settled(site, kept)
    yield from _places(site, known.primers(kept))


def _settled(site: Site, kept: Mapping[str, str]) -> Iterator[Finding]:
    before, now = known.site(kept), known.settled(site)
    names = {"name": "metadata.name"}
    for key, value in now.items():
        if key in before and before[key] != value:
            where = names.get(key, f"spec.networks.{key}")
            yield Finding(
                "refused", "the site file",
                f"{where} is {value}, but this site was made with {before[key]}",
                f"write {before[key]} again: an existing cluster cannot change it",
            )  # fmt: skip


def _places(site: Site, records: Mapping[str, Known]) -> Iterator[Finding]:
    """Find Primers with another address than before, and addresses under another name."""
    gone = {one.address: name for name, one in leaving(site, records).items()}
    for node in site.primers:
        before, address = records.get(node.name), str(node.address)
        if before and before.address != address:
            yield Finding(
                "refused", node.name,
                f"has address {address} in the site file, but {before.address} in this site",
                f"write {before.address} again; to move it, remove it from the site file first, "
                "and add it in another run",
            )  # fmt: skip
        if before:
            yield from _parts(node, before)
        if not before and address in gone:
            yield Finding(
                "refused", node.name,
                f"has the address of {gone[address]}, a Primer of this site: the site file renames "
                "it",
                f"write {gone[address]} again; to give the machine another name, remove it from "
                "the site file first, and add it in another run",
            )  # fmt: skip


def _parts(node: Node, before: Known) -> Iterator[Finding]:
    """Find parts that a Primer has and shall not have: nothing takes them from a running one."""
    parts = {
        "controlPlane": before.control_plane and not node.control_plane,
        "kubelet": before.kubelet and not node.kubelet,
    }
    for name in (name for name, taken in parts.items() if taken):
        yield Finding(
            "refused", node.name,
            f"has {name}: false in the site file, and runs with {name}: true",
            f"write {name}: true again; to change it, remove {node.name} from the site file first, "
            "and add it in another run",
        )  # fmt: skip


def _control_planes(state: State) -> Iterator[Finding]:
    """Find a site file that takes away every API server before another one has joined."""
    old = [name for name, one in leaving(state.site, state.known).items() if one.control_plane]
    if old and not state.running:
        yield Finding(
            "refused", ", ".join(old),
            "run the API, and the site file names none of them",
            f"keep {old[0]} in the site file until another control plane has joined",
        )  # fmt: skip
