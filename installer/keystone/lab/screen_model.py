"""What the live screen knows: events in, a frozen model out.

An event is a line of the log (keystone.log has its form), with when and from whom it was heard. It
may come from another machine: `parse` takes what has the form it should have and drops the rest.
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
"""Steps, hosts, phases, bars that are remembered: whoever sends more is not to fill our memory."""
TAIL = 60
"""Messages that are remembered."""
RECENT = 20
"""Finished steps that are remembered."""


@dataclass(frozen=True)
class Event:
    """One line that was said. at: seconds since the run began. source: who said it, "" for us."""

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
class Stretch:
    """Something that takes time: a part, a phase or a step. begin, end: seconds since the start."""

    name: str
    state: str = WAITING
    begin: float = 0.0
    end: float | None = None
    source: str = ""
    sentence: str = ""

    def spent(self, now: float) -> float:
        """Seconds that it took, or has taken by now."""
        return max((now if self.end is None else self.end) - self.begin, 0.0)


@dataclass(frozen=True)
class Bar:
    """Work of known size, in whatever unit."""

    source: str
    name: str
    done: float
    total: float


@dataclass(frozen=True)
class HostNow:
    """What a machine does, or did last. state: running, or the status of that task."""

    name: str
    doing: str
    state: str
    since: float


@dataclass(frozen=True)
class Said:
    """A message for people, which may have several lines. kind: of the event it came with."""

    at: float
    source: str
    level: str
    text: str
    kind: str = ""


@dataclass(frozen=True)
class Model:
    """The run as it stands. phases: of the part that runs now, empty when it has none."""

    title: str
    parts: tuple[Stretch, ...] = ()
    phases: tuple[Stretch, ...] = ()
    steps: tuple[Stretch, ...] = ()
    recent: tuple[Stretch, ...] = ()
    bars: tuple[Bar, ...] = ()
    hosts: tuple[HostNow, ...] = ()
    said: tuple[Said, ...] = ()
    details: Mapping[str, tuple[Stretch, ...]] = field(default_factory=dict)
    """Phases of parts that ended."""

    @property
    def running(self) -> tuple[Stretch, ...]:
        """Parts that run now."""
        return tuple(part for part in self.parts if part.state == RUNNING)

    @property
    def failed(self) -> tuple[Stretch, ...]:
        """Parts that did not end well."""
        return tuple(part for part in self.parts if part.state == FAILED)


def new(title: str, parts: tuple[str, ...]) -> Model:
    """A run that has not begun. parts: names in their order; others are added as they begin."""
    return Model(title, tuple(Stretch(name) for name in parts))


def decode(at: float, source: str, line: str) -> Event:
    """A line of a program that was asked for JSON lines; whatever is none is a message."""
    try:
        value = json.loads(line) if line.startswith("{") else None
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict) and isinstance(value.get("message"), str):
        return parse(at, source, value)
    return Event(at, _word(source), message=plain(line.rstrip()))


def parse(at: float, source: str, line: Mapping[str, object]) -> Event:
    """An object of the log as an event; fields of another kind than theirs are left out."""
    words = ("level", "step", "part", "phase", "host", "role", "task", "status", "bar")
    lists = ("phases", "sentences", "hosts")
    values: dict[str, Any] = {name: _word(line[name]) for name in words if name in line}
    values |= {name: _words(line[name]) for name in lists if name in line}
    values |= {name: _number(line[name]) for name in ("done", "total") if name in line}
    if source:
        values.pop("part", None)  # parts are ours to begin and end
    message = line.get("message")
    values["message"] = plain(message.rstrip()) if isinstance(message, str) else ""
    return Event(at, _word(source), kind=_word(line.get("event")), **values)


def _word(value: object) -> str:
    """A name: one line, whatever was sent."""
    return " ".join(plain(value).split()) if isinstance(value, str) else ""


def _words(value: object) -> tuple[str, ...]:
    return tuple(_word(item) for item in value) if isinstance(value, list | tuple) else ()


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and 0 <= value < 1 << 62 else 0.0


def heard(model: Model, event: Event) -> Model:
    """The model after one more event. Pure."""
    if event.message and event.kind != "progress" and event.level not in ("event", "debug"):
        said = Said(event.at, event.source, event.level, event.message, event.kind)
        model = replace(model, said=(*model.said, said)[-TAIL:])
    change = _CHANGES.get(event.kind)
    return change(model, event) if change else model


def _start(model: Model, event: Event) -> Model:
    if event.part:
        return _part_begins(model, event)
    begun = Stretch(event.step, RUNNING, event.at, source=event.source)
    if event.phase:
        return replace(model, phases=_put(model.phases, replace(begun, name=event.phase)))
    return replace(model, steps=(*model.steps, begun)[-MOST:])


def _part_begins(model: Model, event: Event) -> Model:
    if not model.running:  # what stands there belongs to the part before
        model = replace(model, phases=(), steps=(), recent=(), bars=(), hosts=())
    return replace(model, parts=_put(model.parts, Stretch(event.part, RUNNING, event.at)))


def _put(stretches: tuple[Stretch, ...], one: Stretch) -> tuple[Stretch, ...]:
    """The same, with one in the place of the one of its name, whose sentence it keeps."""
    if all(old.name != one.name for old in stretches):
        return (*stretches, one)[:MOST]
    return tuple(
        replace(one, sentence=one.sentence or old.sentence) if old.name == one.name else old
        for old in stretches
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


def _ended(stretches: tuple[Stretch, ...], name: str, state: str, at: float) -> tuple[Stretch, ...]:
    return tuple(
        replace(one, state=state, end=at) if one.name == name and one.state == RUNNING else one
        for one in stretches
    )


def _rest(hosts: tuple[HostNow, ...], state: str) -> tuple[HostNow, ...]:
    """Hosts whose last task nobody reported on: it ended with the phase it was of."""
    return tuple(replace(h, state=state) if h.state == RUNNING else h for h in hosts)


def _phases(model: Model, event: Event) -> Model:
    sentences = (*event.sentences, *("" for _ in event.phases))
    return replace(
        model,
        phases=tuple(
            Stretch(name, sentence=sentence)
            for name, sentence in zip(event.phases[:MOST], sentences, strict=False)
        ),
    )


def _unchanged(model: Model, event: Event) -> Model:
    return replace(
        model, phases=_put(model.phases, Stretch(event.phase, UNCHANGED, event.at, event.at))
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
    hosts |= {name: HostNow(name, _word(doing), RUNNING, event.at) for name in names if name}
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
    """A program ended: what it left open ended with it."""
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
