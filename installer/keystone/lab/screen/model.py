"""The model of the live screen: a frozen state of the run, changed by events. Pure functions.

An event is a line of the log (fields: keystone.log) with its time and source. It may come from
another machine, so `parse` uses only fields of the right type and drops the others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from keystone.log import plain

RUNNING, DONE, FAILED, WAITING = "running", "done", "failed", "waiting"
UNCHANGED = "unchanged"
MOST = 50
"""Most steps, hosts, phases and bars to keep, so that a machine cannot fill our memory."""
TAIL = 60
"""Messages to keep."""
RECENT = 20
"""Finished steps to keep."""


@dataclass(frozen=True)
class Event:
    """One line of the log. at: seconds since the run began. source: its sender, "" for us."""

    at: float
    source: str
    kind: str = ""
    level: str = "info"
    message: str = ""
    step: str = ""
    part: str = ""
    phase: str = ""
    phases: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    host: str = ""
    role: str = ""
    task: str = ""
    status: str = ""
    bar: str = ""
    done: float = 0.0
    total: float = 0.0


@dataclass(frozen=True)
class Interval:
    """A part, a phase or a step of the run. begin, end: seconds since the run began."""

    name: str
    state: str = WAITING
    begin: float = 0.0
    end: float | None = None
    source: str = ""
    sentence: str = ""

    def spent(self, now: float) -> float:
        """Seconds that it took, or has taken until `now`."""
        return max((now if self.end is None else self.end) - self.begin, 0.0)


@dataclass(frozen=True)
class Bar:
    """A progress bar. done, total: in any unit."""

    source: str
    name: str
    done: float
    total: float


@dataclass(frozen=True)
class HostState:
    """The current or last task of a machine. state: running, or the result of the task."""

    name: str
    doing: str
    state: str
    since: float


@dataclass(frozen=True)
class Message:
    """A message for people, of one or more lines. kind: of its event."""

    at: float
    source: str
    level: str
    text: str
    kind: str = ""


@dataclass(frozen=True)
class Model:
    """The state of the run. phases: of the part that runs now, empty if it has none."""

    title: str
    parts: tuple[Interval, ...] = ()
    phases: tuple[Interval, ...] = ()
    steps: tuple[Interval, ...] = ()
    recent: tuple[Interval, ...] = ()
    bars: tuple[Bar, ...] = ()
    hosts: tuple[HostState, ...] = ()
    messages: tuple[Message, ...] = ()
    details: Mapping[str, tuple[Interval, ...]] = field(default_factory=dict)
    """Phases of parts that have ended, by part."""

    @property
    def running(self) -> tuple[Interval, ...]:
        """The parts that run now."""
        return tuple(part for part in self.parts if part.state == RUNNING)

    @property
    def failed(self) -> tuple[Interval, ...]:
        """The parts that failed."""
        return tuple(part for part in self.parts if part.state == FAILED)


def new(title: str, parts: tuple[str, ...]) -> Model:
    """A run that has not begun. parts: names in order; others are added when they begin."""
    return Model(title, tuple(Interval(name) for name in parts))


def decode(at: float, source: str, line: str) -> Event:
    """Decode a line of a program that should print JSON lines; any other line is a message."""
    try:
        value = json.loads(line) if line.startswith("{") else None
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict) and isinstance(value.get("message"), str):
        return parse(at, source, value)
    return Event(at, _word(source), message=plain(line.rstrip()))


def parse(at: float, source: str, line: Mapping[str, object]) -> Event:
    """Make an event from an object of the log; fields of a wrong type are left out."""
    words = ("level", "step", "part", "phase", "host", "role", "task", "status", "bar")
    lists = ("phases", "sentences", "hosts")
    values: dict[str, Any] = {name: _word(line[name]) for name in words if name in line}
    values |= {name: _words(line[name]) for name in lists if name in line}
    values |= {name: _number(line[name]) for name in ("done", "total") if name in line}
    if source:
        values.pop("part", None)  # only this program begins and ends parts
    message = line.get("message")
    values["message"] = plain(message.rstrip()) if isinstance(message, str) else ""
    return Event(at, _word(source), kind=_word(line.get("event")), **values)


def _word(value: object) -> str:
    """A name as one line; "" for anything but text."""
    return " ".join(plain(value).split()) if isinstance(value, str) else ""


def _words(value: object) -> tuple[str, ...]:
    return tuple(_word(item) for item in value) if isinstance(value, list | tuple) else ()


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and 0 <= value < 1 << 62 else 0.0


def update(model: Model, event: Event) -> Model:
    """The model after one more event."""
    if event.message and event.kind != "progress" and event.level not in ("event", "debug"):
        message = Message(event.at, event.source, event.level, event.message, event.kind)
        model = replace(model, messages=(*model.messages, message)[-TAIL:])
    change = _CHANGES.get(event.kind)
    return change(model, event) if change else model


def _start(model: Model, event: Event) -> Model:
    if event.part:
        return _part_begins(model, event)
    begun = Interval(event.step, RUNNING, event.at, source=event.source)
    if event.phase:
        return replace(model, phases=_put(model.phases, replace(begun, name=event.phase)))
    return replace(model, steps=(*model.steps, begun)[-MOST:])


def _part_begins(model: Model, event: Event) -> Model:
    if not model.running:  # what is shown belongs to the previous part
        model = replace(model, phases=(), steps=(), recent=(), bars=(), hosts=())
    return replace(model, parts=_put(model.parts, Interval(event.part, RUNNING, event.at)))


def _put(intervals: tuple[Interval, ...], one: Interval) -> tuple[Interval, ...]:
    """Replace the interval of the same name, keeping its sentence, or append."""
    if all(old.name != one.name for old in intervals):
        return (*intervals, one)[:MOST]
    return tuple(
        replace(one, sentence=one.sentence or old.sentence) if old.name == one.name else old
        for old in intervals
    )


def _end(model: Model, event: Event) -> Model:
    state = FAILED if event.kind == "failed" else DONE
    if event.part:
        parts = _ended(model.parts, event.part, state, event.at)
        details = {**model.details, event.part: model.phases} if model.phases else model.details
        return replace(model, parts=parts, details=details)
    if event.phase:
        hosts = _rest(model.hosts, state)
        return replace(
            model, phases=_ended(model.phases, event.phase, state, event.at), hosts=hosts
        )
    left = list(model.steps)
    for step in model.steps:
        if (step.source, step.name) == (event.source, event.step):
            left.remove(step)
            done = replace(step, state=state, end=event.at)
            return replace(model, steps=tuple(left), recent=(*model.recent, done)[-RECENT:])
    return model


def _ended(
    intervals: tuple[Interval, ...], name: str, state: str, at: float
) -> tuple[Interval, ...]:
    return tuple(
        replace(one, state=state, end=at) if one.name == name and one.state == RUNNING else one
        for one in intervals
    )


def _rest(hosts: tuple[HostState, ...], state: str) -> tuple[HostState, ...]:
    """End tasks of hosts without a result, because their phase has ended."""
    return tuple(replace(h, state=state) if h.state == RUNNING else h for h in hosts)


def _phases(model: Model, event: Event) -> Model:
    sentences = (*event.sentences, *("" for _ in event.phases))
    return replace(
        model,
        phases=tuple(
            Interval(name, sentence=sentence)
            for name, sentence in zip(event.phases[:MOST], sentences, strict=False)
        ),
    )


def _unchanged(model: Model, event: Event) -> Model:
    return replace(
        model, phases=_put(model.phases, Interval(event.phase, UNCHANGED, event.at, event.at))
    )


def _progress(model: Model, event: Event) -> Model:
    mine = (event.source, event.bar)
    others = tuple(bar for bar in model.bars if (bar.source, bar.name) != mine)
    if event.done >= event.total:
        return replace(model, bars=others)
    return replace(model, bars=(*others, Bar(*mine, event.done, event.total))[-MOST:])


def _action(model: Model, event: Event) -> Model:
    doing = event.message.removeprefix(" ".join(event.hosts) + ": ")
    return _busy(model, event, event.hosts or (event.source,), doing)


def _task(model: Model, event: Event) -> Model:
    doing = f"{event.role}: {event.task}" if event.role else event.task
    return _busy(model, event, event.hosts, doing)


def _busy(model: Model, event: Event, names: tuple[str, ...], doing: str) -> Model:
    hosts = {host.name: host for host in model.hosts}
    hosts |= {name: HostState(name, _word(doing), RUNNING, event.at) for name in names if name}
    return replace(model, hosts=tuple(hosts[name] for name in sorted(hosts)[:MOST]))


def _result(model: Model, event: Event) -> Model:
    return replace(
        model,
        hosts=tuple(
            replace(host, state=event.status) if host.name == event.host else host
            for host in model.hosts
        ),
    )


def _gone(model: Model, event: Event) -> Model:
    """A program ended: remove its unfinished steps and bars."""
    return replace(
        model,
        steps=tuple(step for step in model.steps if step.source != event.source),
        bars=tuple(bar for bar in model.bars if bar.source != event.source),
    )


_CHANGES: Mapping[str, Callable[[Model, Event], Model]] = {
    "start": _start,
    "end": _end,
    "failed": _end,
    "phases": _phases,
    "unchanged": _unchanged,
    "progress": _progress,
    "action": _action,
    "task": _task,
    "result": _result,
    "gone": _gone,
}
