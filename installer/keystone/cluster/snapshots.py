"""Snapshots of etcd: their description, which are kept, whether one is due. Pure.

A snapshot is a file of `etcdctl snapshot save` with a description (JSON) beside it.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

LADDER = (
    (dt.timedelta(minutes=5), 12),
    (dt.timedelta(hours=1), 24),
    (dt.timedelta(days=1), 7),
)
"""Kept on every Primer: one snapshot for each of so many spans of this length."""
SUFFIX = ".db"
DESCRIPTION = ".json"


@dataclass(frozen=True)
class Snapshot:
    """One snapshot. taken: when, in UTC. size: bytes. cluster: etcd's cluster id, hexadecimal.

    site: fingerprint of the root certificate of the site that it was taken from. etcd: version.
    """

    taken: dt.datetime
    revision: int
    size: int
    sha256: str
    cluster: str
    site: str
    etcd: str

    @property
    def name(self) -> str:
        """Its file name without a suffix: sorts by time."""
        return f"etcd-{self.taken:%Y%m%dT%H%M%SZ}-r{self.revision}"


def dump(snapshot: Snapshot) -> str:
    """The JSON beside the snapshot."""
    document = {**asdict(snapshot), "taken": snapshot.taken.isoformat(timespec="seconds")}
    return json.dumps(document, indent=1) + "\n"


def load(text: str) -> Snapshot:
    """Read what `dump` wrote. Raises ValueError for anything else."""
    document = json.loads(text)
    if not isinstance(document, dict):
        raise ValueError("a JSON object is expected")  # noqa: TRY004 one error for all of it
    taken = dt.datetime.fromisoformat(_text(document, "taken"))
    if taken.tzinfo is None:
        raise ValueError("taken: a time without a zone")
    return Snapshot(
        taken.astimezone(dt.UTC),
        _number(document, "revision"),
        _number(document, "size"),
        *(_text(document, key) for key in ("sha256", "cluster", "site", "etcd")),
    )


def _text(document: dict[str, object], key: str) -> str:
    value = document.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{key}: a text is expected")  # noqa: TRY004 one error for all of it
    return value


def _number(document: dict[str, object], key: str) -> int:
    value = document.get(key)
    if type(value) is not int or value < 0:
        raise ValueError(f"{key}: a number of 0 or more is expected")
    return value


def is_due(newest: Snapshot | None, revision: int, cluster: str) -> bool:
    """A snapshot is due where the database changed since the newest, or is another cluster's."""
    return newest is None or (newest.revision, newest.cluster) != (revision, cluster)


def newest(snapshots: Iterable[Snapshot]) -> Snapshot | None:
    """The one with the highest revision: a clock that jumped cannot make an old one newest.

    A restored cluster continues above the highest revision that was ever there (see `restore`).
    """
    return max(snapshots, key=lambda one: (one.revision, one.taken), default=None)


def revision_before(snapshots: Iterable[Snapshot], cluster: str, moment: dt.datetime) -> int:
    """Return the revision that a cluster had at a moment, or shortly before; 0 if unknown."""
    known = (one.revision for one in snapshots if one.cluster == cluster and one.taken <= moment)
    return max(known, default=0)


def to_keep(snapshots: Iterable[Snapshot]) -> frozenset[str]:
    """Names of those to keep: for each rung of the ladder the newest of each of its spans.

    The newest of all is always kept, so a machine that was off for a month still has its last ones.
    """
    by_time = sorted(snapshots, key=lambda one: (one.taken, one.revision), reverse=True)
    kept: set[Snapshot] = set()
    for span, count in LADDER:
        spans: dict[int, Snapshot] = {}
        for one in by_time:
            spans.setdefault(int(one.taken.timestamp() // span.total_seconds()), one)
        kept.update(list(spans.values())[:count])
    if (last := newest(by_time)) is not None:
        kept.add(last)
    return frozenset(one.name for one in kept)


def to_free(snapshots: Iterable[Snapshot], needed: int, free: int) -> tuple[str, ...]:
    """Names of the oldest to remove until `needed` bytes fit into `free`; the newest two stay."""
    oldest = sorted(snapshots, key=lambda one: (one.revision, one.taken))
    removed = []
    for one in oldest[:-2]:
        if free >= needed:
            break
        removed.append(one.name)
        free += one.size
    return tuple(removed)
