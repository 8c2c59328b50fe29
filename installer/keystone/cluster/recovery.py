"""Decide what a lost quorum is restored from, and on which hosts. Pure.

A member without a majority still serves its database for a snapshot. All hosts are restored from
one file into a new cluster (etcd.io, "Disaster recovery"); old data folders are moved, not removed.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from keystone.cluster import etcd, snapshots
from keystone.cluster.snapshots import Snapshot
from keystone.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keystone.site.model import Node


STEP = 10**9
"""Added to the revision at least, so that no cache sees it go backwards (etcd-io/etcd#16028)."""


@dataclass(frozen=True)
class Order:
    """One restore, the same on every host.

    id: names it, and the new cluster. sha256: of the snapshot. peers: peer URLs by member. bump:
    added to the snapshot's revision.
    """

    id: str
    sha256: str
    peers: Mapping[str, str]
    bump: int


@dataclass(frozen=True)
class MemberState:
    """The etcd member on one Primer, and what could be restored from there.

    revision: of the running member's database, None when it does not run. serves: it answers
    reads, so a majority answers. order: a restore that is prepared or done here and not finished.
    last: id of the last restore that was finished here, "" for none.
    """

    revision: int | None = None
    serves: bool = False
    order: Order | None = None
    last: str = ""
    snapshots: tuple[Snapshot, ...] = ()

    @property
    def highest(self) -> int:
        """The highest revision that is known here."""
        return max(self.revision or 0, *(one.revision for one in self.snapshots), 0)


@dataclass(frozen=True)
class Source:
    """What to restore from. host: "" for a file given here.

    file: path of that file, or name of a snapshot on the host; "" for a running member's data.
    """

    host: str
    file: str
    what: str


def as_document(state: MemberState) -> dict[str, Any]:
    """Return the JSON that a host answers with."""
    order = asdict(state.order) if state.order else None
    return {
        **vars(state),
        "order": order,
        "snapshots": [snapshots.dump(one) for one in state.snapshots],
    }


def parse(document: Mapping[str, Any]) -> MemberState:
    """Read `as_document`. Raises ValueError, TypeError or KeyError for anything else."""
    return MemberState(
        document["revision"],
        document["serves"],
        Order(**document["order"]) if document["order"] else None,
        document["last"],
        tuple(snapshots.load(text) for text in document["snapshots"]),
    )


def unfinished(states: Mapping[str, MemberState]) -> Order | None:
    """Return the order of a restore that an earlier run began, None if there is none.

    Raises RefusedError when hosts hold different ones, or when one of its hosts does not answer.
    """
    orders = {state.order.id: state.order for state in states.values() if state.order}
    if len(orders) > 1:
        held = [f"{name}: {one.order.id}" for name, one in states.items() if one.order]
        raise RefusedError(
            f"different restores of etcd were begun on these hosts: {', '.join(held)}",
            hint="decide for one: on the other hosts remove /var/lib/etcd/restore",
        )
    order = next(iter(orders.values()), None)
    if order and (absent := [name for name in order.peers if name not in states]):
        raise RefusedError(
            f"restore {order.id} was begun on more hosts, and these do not answer: "
            f"{', '.join(absent)}",
            hint="make them answer and run the same command again; to abandon the restore, remove "
            "/var/lib/etcd/restore on each Primer where /var/lib/etcd/restore/data exists",
        )
    return order


def require_lost(states: Mapping[str, MemberState]) -> None:
    """Raise RefusedError while the quorum serves: a restore would take its newest writes away."""
    serving = [name for name, state in states.items() if state.serves]
    if serving:
        raise RefusedError(
            f"the etcd quorum serves ({', '.join(serving)}): a restore would lose what was written "
            "since the snapshot",
            hint="a single lost member is replaced by running keystone-install again; to go back "
            "to an older state on purpose, add --roll-back",
        )


def require_newest(file: str, revision: int, states: Mapping[str, MemberState]) -> None:
    """Raise RefusedError if a Primer has newer data than a snapshot file with this revision."""
    name, state = max(states.items(), key=lambda item: item[1].highest)
    if state.highest > revision:
        raise RefusedError(
            f"{file}: older (revision {revision}) than the newest data that is known, on {name} "
            f"(revision {state.highest}): a restore would lose what was written between",
            hint="nothing was changed; without --snapshot the newest data is restored; to go back "
            "to this state on purpose, add --roll-back",
        )


def choose(states: Mapping[str, MemberState]) -> Source:
    """Return the newest data: a running member's, else the newest snapshot of any host.

    Raises RefusedError when there is none.
    """
    sources = [
        (state.revision, Source(name, "", "the data of its running member"))
        for name, state in states.items()
        if state.revision is not None
    ]
    sources += [
        (one.revision, Source(name, one.name, f"the snapshot of {one.taken:%Y-%m-%d %H:%M:%S} UTC"))
        for name, state in states.items()
        for one in state.snapshots
    ]
    if not sources:
        raise RefusedError(
            "no Primer that answers has data of etcd or a snapshot",
            hint="give one: keystone-install etcd restore --snapshot FILE, from a backup",
        )
    # Of equal ones the running member's, which is listed first.
    return max(sources, key=lambda one: one[0])[1]


def order(
    sha256: str, revision: int, nodes: Sequence[Node], states: Mapping[str, MemberState]
) -> Order:
    """Return the order to restore the snapshot with this revision as members on these nodes.

    The new cluster's revision is higher than any that is known: the newest snapshot is always the
    one with the highest revision, whatever clocks say. Each host's last restore is part of the id,
    so restoring the same file once more is another restore.
    """
    peers = {node.name: etcd.peer_url(node) for node in nodes}
    highest = max(state.highest for state in states.values())
    bump = STEP + max(0, highest - revision)
    words = [sha256, str(bump), *(f"{name} {states[name].last}" for name in sorted(peers))]
    return Order(hashlib.sha256("\n".join(words).encode()).hexdigest()[:12], sha256, peers, bump)
