"""What a load was told, and whether the data that is there agrees with it. Pure.

A history has one JSON record a line, as tests/life/register writes them. Each register has one
writer, which gives it the values 1, 2, 3 ...; kinds of records:

start      verb: "etcd" or "api". From here on the records count.
ack        a write that was acknowledged: register, value, revision
failed     a request that failed twice
read       a read by the writer itself: it must find the value that was acknowledged last, or later
seen       a change that the watch reported
compacted  the watch was told that its revision is gone; "listed": what it read then instead
reopened   the watch ended, and was opened after the last revision that it had seen
final      a register at the end; "entries": which of its writes are there at the end
end        all was read
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MILLISECOND = 1_000_000
REQUESTS = ("ack", "read", "failed")


@dataclass(frozen=True, order=True)
class Write:
    """An acknowledged write. ended: when it was acknowledged, nanoseconds since 1970."""

    register: int
    value: int
    ended: int = 0


@dataclass(frozen=True)
class Stall:
    """A time without an acknowledgement for one register: from the request to the next success.

    Both in nanoseconds since 1970.
    """

    began: int
    ended: int

    @property
    def milliseconds(self) -> int:
        """How long it lasted."""
        return (self.ended - self.began) // MILLISECOND


@dataclass(frozen=True)
class Verdict:
    """What a history shows. wrong: sentences about everything that must not be, lost writes aside.

    failed: requests that failed twice. lost: writes that were acknowledged and are not there.
    """

    requests: int
    retried: int
    failed: int
    writes: int
    lost: tuple[Write, ...]
    stalls: tuple[Stall, ...]
    compactions: int
    reopened: int
    wrong: tuple[str, ...]

    def longest(self, without: Sequence[tuple[int, int]] = ()) -> int:
        """The longest stall in milliseconds, without those that touch one of these times."""
        counted = [
            stall.milliseconds
            for stall in self.stalls
            if not any(stall.began < end and stall.ended > begin for begin, end in without)
        ]
        return max(counted, default=0)

    @property
    def lost_seconds(self) -> float:
        """From the first lost write to the last one, in seconds."""
        times = [write.ended for write in self.lost]
        return (max(times) - min(times)) / 1e9 if times else 0.0

    def line(self) -> str:
        """The numbers in one line."""
        return (
            f"{self.requests} requests, {self.writes} writes acknowledged, {len(self.lost)} of them"
            f" lost, {self.retried} retried, {self.failed} failed after one retry, longest stall "
            f"{self.longest()} ms, watch reopened {self.reopened} times, {self.compactions} "
            f"compactions"
        )


def parse(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Return the records; a last line that was cut by a kill is left out."""
    return [json.loads(line) for line in lines if line.endswith("\n")]


def check(records: Sequence[dict[str, Any]]) -> Verdict:
    """Compare what was acknowledged with what is there, and with what the watch saw."""
    kinds = defaultdict(list)
    for record in records:
        kinds[record["kind"]].append(record)
    watched = any(record.get("verb") == "etcd" for record in kinds["start"])
    acked = [Write(r["register"], r["value"], r["ended"]) for r in kinds["ack"]]
    there = _there(kinds)
    final = {r["register"]: r.get("value", 0) for r in kinds["final"]}
    lost = tuple(
        write
        for write in sorted(acked)
        if final.get(write.register, 0) < write.value
        or (watched and write.value not in there[write.register])
    )
    wrong = [*_unfinished(kinds), *_backwards(records)]
    if watched:
        gone = frozenset(lost)
        wrong += _unseen(records, [write for write in acked if write not in gone])
    requests = [r for r in records if r["kind"] in REQUESTS]
    return Verdict(
        requests=len(requests),
        retried=sum(r.get("attempts", 1) > 1 for r in requests),
        failed=len(kinds["failed"]),
        writes=len(acked),
        lost=lost,
        stalls=_stalls(requests),
        compactions=len(kinds["compacted"]),
        reopened=len(kinds["reopened"]),
        wrong=tuple(wrong),
    )


def _there(kinds: dict[str, list[dict[str, Any]]]) -> dict[int, set[int]]:
    found: dict[int, set[int]] = defaultdict(set)
    for record in kinds["entries"]:
        found[record["register"]].update(record.get("values", ()))
    return found


def _unfinished(kinds: dict[str, list[dict[str, Any]]]) -> list[str]:
    found = [f"no record {kind!r}" for kind in ("start", "end") if not kinds[kind]]
    return found if kinds["ack"] else [*found, "no write was acknowledged"]


def _backwards(records: Sequence[dict[str, Any]]) -> list[str]:
    """Revisions of acknowledged writes that do not grow, and reads of an older value."""
    wrong: list[str] = []
    last: dict[int, tuple[int, int]] = {}
    for record in records:
        register = record["register"]
        value, revision = last.get(register, (0, 0))
        if record["kind"] == "ack":
            if record["revision"] <= revision:
                wrong.append(
                    f"register {register}: value {record['value']} was acknowledged at revision "
                    f"{record['revision']}, after value {value} at {revision}"
                )
            last[register] = (record["value"], record["revision"])
        if record["kind"] == "read" and record.get("value", 0) < value:
            wrong.append(
                f"register {register}: value {record.get('value', 0)} was read after value "
                f"{value} was acknowledged"
            )
    return wrong


def _unseen(records: Sequence[dict[str, Any]], kept: Sequence[Write]) -> list[str]:
    """Events of the watch that are out of order, and writes that it did not report.

    A value that was read after a compaction stands for those before it.
    """
    wrong: list[str] = []
    seen: dict[int, set[int]] = defaultdict(set)
    listed: dict[int, int] = {}
    last, highest = 0, defaultdict[int, int](int)
    for record in records:
        register, value = record["register"], record.get("value", 0)
        if record["kind"] == "seen":
            if record["revision"] <= last or (value and value <= highest[register]):
                wrong.append(
                    f"the watch reported register {register} = {value} at revision "
                    f"{record['revision']}, after {highest[register]} at {last}"
                )
            seen[register].add(value)
            last, highest[register] = record["revision"], value
        if record["kind"] == "listed":
            listed[register] = highest[register] = value
            last = max(last, record["revision"])
    missed = [
        write
        for write in kept
        if write.value not in seen[write.register] and write.value > listed.get(write.register, 0)
    ]
    if missed:
        first = missed[0]
        wrong.append(
            f"the watch did not report {len(missed)} acknowledged writes, the first one "
            f"register {first.register} = {first.value}"
        )
    return wrong


def _stalls(requests: Sequence[dict[str, Any]]) -> tuple[Stall, ...]:
    """For each success, the time since its writer's first request that waited for it began."""
    waiting: dict[int, int] = {}
    stalls = []
    for record in requests:
        # Through the API, one writer writes one register after another.
        writer = record["register"] if not record.get("verb") else -1
        began = waiting.pop(writer, record["began"])
        if record["kind"] == "failed":
            waiting[writer] = began
        else:
            stalls.append(Stall(began, record["ended"]))
    # A writer that never had an answer again stalls until the last record.
    end = max((record["ended"] for record in requests), default=0)
    return (*stalls, *(Stall(began, end) for began in waiting.values()))
