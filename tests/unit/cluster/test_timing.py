"""Raft's timing from measurements: only a few steps, and no change without need."""

from __future__ import annotations

from itertools import product

import pytest

from keystone.cluster.etcd import Timing
from keystone.cluster.timing import (
    ROUND_TRIPS,
    STEPS,
    SYNCS,
    Measured,
    choose,
    dump,
    load,
    measure,
)

NORMAL, SECOND, THIRD, SLOW = STEPS


@pytest.mark.parametrize(
    ("now", "trip", "sync", "floor", "expected"),
    [
        (NORMAL, 0, 0, NORMAL, NORMAL),  # nothing measured
        (NORMAL, 1, 5, NORMAL, NORMAL),  # a LAN with NVMe
        (NORMAL, 100, 250, NORMAL, NORMAL),  # the limits of the default
        (NORMAL, 101, 1, NORMAL, SECOND),
        (NORMAL, 1, 251, NORMAL, SECOND),
        (NORMAL, 400, 1, NORMAL, THIRD),
        (NORMAL, 9000, 9000, NORMAL, SLOW),  # no step is slow enough: the slowest
        (SECOND, 99, 1, NORMAL, SECOND),  # it would fit, but not with room: no change
        (SECOND, 50, 125, NORMAL, NORMAL),
        (SECOND, 0, 0, NORMAL, SECOND),  # members have just restarted: no change
        (SLOW, 1, 1, NORMAL, NORMAL),
        (NORMAL, 1, 1, SLOW, SLOW),  # an emulated site
        (SLOW, 1, 1, SLOW, SLOW),
        (Timing(300, 3000), 1, 1, NORMAL, NORMAL),  # changed by hand
    ],
)
def test_choose(now: Timing, trip: float, sync: float, floor: Timing, expected: Timing) -> None:
    measured = [Measured(1, 1), Measured(trip, sync)] if trip or sync else [Measured()]
    assert choose(now, measured, floor) == expected


def test_chosen_timing_stays_chosen() -> None:
    """A second run with the same measurements has nothing to do."""
    for trip, sync, now in product(range(0, 3000, 13), (0, 1, 100, 260, 700, 3000), STEPS):
        once = choose(now, [Measured(trip, sync)], NORMAL)
        assert choose(once, [Measured(trip, sync)], NORMAL) == once, (trip, sync, now)


def test_every_step_obeys_etcd() -> None:
    for step in STEPS:
        assert step.election == 10 * step.heartbeat <= 50_000


def histogram(name: str, labels: str, counts: dict[str, int]) -> str:
    lines = [f'{name}_bucket{{{labels}le="{limit}"}} {n}' for limit, n in counts.items()]
    return "\n".join([f"# TYPE {name} histogram", *lines, f"{name}_count{{}} 1", ""])


def test_measure_takes_the_slowest_peer_and_interpolates() -> None:
    text = (
        histogram(ROUND_TRIPS, 'To="a",', {"0.0001": 0, "0.0512": 100, "0.1024": 100, "+Inf": 100})
        + histogram(ROUND_TRIPS, 'To="b",', {"0.1024": 0, "0.2048": 100, "+Inf": 100})
        + histogram(SYNCS, "", {"0.001": 9000, "0.002": 9900, "0.004": 10000, "+Inf": 10000})
        + histogram("etcd_other", "", {"10": 0, "+Inf": 99999})
    )
    found = measure(text)
    assert found.round_trip_ms == pytest.approx(102.4 + 0.99 * 102.4)
    assert found.sync_ms == pytest.approx(2.0)


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", histogram(SYNCS, "", {"8.192": 4999, "+Inf": 4999}),
     histogram(ROUND_TRIPS, 'To="a",', {"3.2": 59, "+Inf": 59})],
    ids=["empty", "no metrics", "few syncs", "few round trips"],
)  # fmt: skip
def test_few_measurements_say_nothing(text: str) -> None:
    assert measure(text) == Measured()


def test_slower_than_every_bucket_is_the_last_limit() -> None:
    assert measure(histogram(SYNCS, "", {"8.192": 0, "+Inf": 9999})).sync_ms == 8192


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"round_trip_ms": []}', "null"])
def test_invalid_measurements_are_none(text: str) -> None:
    assert load(text) is None


def test_dump_and_load() -> None:
    assert load(dump(Measured(1.5, 2.5))) == Measured(1.5, 2.5)
