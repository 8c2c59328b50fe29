"""Raft's timing for what a site's network and disks can do. Pure.

etcd.io, "Tuning": the heartbeat is about the largest round trip between members, the election
timeout at least ten times that, and equal on all members. A leader that waits for its disk sends no
heartbeat meanwhile, so a slow disk counts like a slow network.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from keystone.cluster.etcd import Timing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

STEPS = (Timing(100, 1000), Timing(250, 2500), Timing(500, 5000), Timing(1000, 10000))
"""The only values: each change restarts every member, so small differences cause none."""
QUANTILE = 0.99
STALLS = 4
"""An election timeout survives this many of the slowest hundredth of a disk's syncs."""
LOWER = 0.5
"""A lower step is taken only if twice the measured values would fit it."""
ROUND_TRIPS = "etcd_network_peer_round_trip_time_seconds"
SYNCS = "etcd_disk_wal_fsync_duration_seconds"
ENOUGH = {ROUND_TRIPS: 60, SYNCS: 5000}
"""Measurements since the member's start; fewer say nothing. A round trip is measured twice a
minute, a sync at every write."""


@dataclass(frozen=True)
class Measured:
    """What one member measured since it started; milliseconds, of which 99 % took no longer.

    round_trip_ms: to the slowest other member; 0 if there are too few measurements.
    """

    round_trip_ms: float = 0.0
    sync_ms: float = 0.0

    def describe(self) -> str:
        """Say both for people."""
        return f"round trip {self.round_trip_ms:.0f} ms, sync of the disk {self.sync_ms:.0f} ms"


def measure(metrics: str) -> Measured:
    """Return what a member's metrics say (Prometheus' text format, on port 2381)."""
    trips, syncs = (
        max((_slow(one) for one in _histograms(metrics, name) if one[-1][1] >= ENOUGH[name]),
            default=0.0)
        for name in (ROUND_TRIPS, SYNCS)
    )  # fmt: skip
    return Measured(trips, syncs)


def dump(measured: Measured) -> str:
    """Return the measurements as JSON."""
    return json.dumps(asdict(measured)) + "\n"


def load(text: str) -> Measured | None:
    """Read what `dump` wrote; None for nothing, and for anything else."""
    try:
        found = json.loads(text)
        return Measured(float(found["round_trip_ms"]), float(found["sync_ms"]))
    except (ValueError, TypeError, LookupError):
        return None


def choose(now: Timing, measured: Iterable[Measured], floor: Timing) -> Timing:
    """Return the step for all members: `now` unless the measurements demand another one.

    floor: never less than this. Nothing measured: no change.
    """
    current = max((now, floor), key=lambda one: one.heartbeat)
    seen = worst(measured)
    if not seen.round_trip_ms and not seen.sync_ms:
        return current
    allowed = [step for step in STEPS if step.heartbeat >= floor.heartbeat] or [floor]
    wanted = next((step for step in allowed if fits(step, seen)), allowed[-1])
    if wanted.heartbeat > current.heartbeat:
        return wanted
    doubled = Measured(seen.round_trip_ms / LOWER, seen.sync_ms / LOWER)
    easy = next((step for step in allowed if fits(step, doubled)), allowed[-1])
    return min((easy, current), key=lambda one: one.heartbeat)


def fits(step: Timing, seen: Measured) -> bool:
    """Return whether members with these measurements hold elections only when they must."""
    return seen.round_trip_ms <= step.heartbeat and STALLS * seen.sync_ms <= step.election


def worst(measured: Iterable[Measured]) -> Measured:
    """Return the slowest of all members."""
    every = tuple(measured)
    return Measured(
        max((one.round_trip_ms for one in every), default=0.0),
        max((one.sync_ms for one in every), default=0.0),
    )


_LINE = re.compile(r'^(\w+)_bucket\{(.*)le="([^"]+)"\} (\S+)$', re.MULTILINE)


def _histograms(metrics: str, name: str) -> list[list[tuple[float, float]]]:
    """Return each histogram of this name as (upper limit in seconds, count up to it), sorted."""
    found: dict[str, list[tuple[float, float]]] = {}
    for metric, labels, limit, count in _LINE.findall(metrics):
        if metric == name:
            found.setdefault(labels, []).append((float(limit), float(count)))
    return [sorted(buckets) for buckets in found.values()]


def _slow(buckets: Sequence[tuple[float, float]]) -> float:
    """Return the duration in milliseconds that QUANTILE of all do not exceed.

    Interpolated within a bucket, as histogram_quantile of Prometheus does.
    """
    rank, below, under = QUANTILE * buckets[-1][1], 0.0, 0.0
    for limit, count in buckets:
        if count >= rank:
            if limit == float("inf"):
                return below * 1000
            part = (rank - under) / (count - under)
            return (below + (limit - below) * part) * 1000
        below, under = limit, count
    return below * 1000
