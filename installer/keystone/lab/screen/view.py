"""Draw the model of a run: one pure function for the live screen, one for its end.

Colours are the sixteen that every terminal has (ECMA-48), by name, so that the palette of the
terminal applies. Each state also has its own symbol, for people who do not see colours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from keystone.lab.screen.model import DONE, FAILED, RUNNING, UNCHANGED, WAITING, Interval, Message
from keystone.log import duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keystone.lab.screen.model import Bar, HostState, Model

SYMBOLS = {WAITING: "·", DONE: "✓", UNCHANGED: "=", FAILED: "✗"}
SPINNER = "|/-\\"
STYLES = {WAITING: "dim", RUNNING: "bold cyan", DONE: "green", UNCHANGED: "dim", FAILED: "bold red"}
HOSTS = {
    RUNNING: "cyan", DONE: "dim", "ok": "dim", "skipped": "dim", "changed": "green",
    FAILED: "bold red", "unreachable": "bold red",
}  # fmt: skip
LEVELS = {"warning": "yellow", "error": "bold red"}
PARTS_WIDTH = 34
WIDE = 110
"""Columns from which phases are shown with their sentences."""
LEAST_TAIL = 4
TENTHS = 10
"""Seconds below which `duration` shows tenths."""
LAST_MESSAGES = 15
"""Messages of a failed part to show at the end."""


def render(model: Model, now: float, width: int, height: int, *, log: str = "") -> RenderableType:
    """The live screen, at most `height` lines of `width` columns. now: seconds since the start.

    log: path of the file with the complete log, "" without one.
    """
    aside = _aside(model, now, width - PARTS_WIDTH - 3)
    body = max(len(model.parts), len(model.phases), min(len(aside), 8))
    where = _where(model, now)
    # Always leave room for the title, two or three rules, and the last lines.
    where = where[: max(height - 4 - body - LEAST_TAIL, 0)]
    body = min(body, height - 3 - LEAST_TAIL)
    left = height - 2 - body - (len(where) + 1 if where else 0) - 1
    rows: list[RenderableType] = [_title(model, now), Rule(style="dim")]
    rows.append(_columns(_around(_parts(model, now), model.parts, body), aside[:body], body))
    if where:
        rows += [_rule("tasks by machine"), _grid_hosts(where)]
    rows.append(_rule(f"complete log: {log}" if log else "last lines"))
    rows += _tail(model.messages, left)
    return Group(*rows)


def closing(model: Model, now: float) -> RenderableType:
    """What stays on the terminal after a failed run: its parts, and the last lines in full."""
    rows: list[RenderableType] = [_title(model, now), Rule(style="dim"), *_parts(model, now)]
    names = ", ".join(part.name for part in model.failed)
    rows.append(_rule(f"last lines of: {names}" if names else "last lines"))
    began = min((part.begin for part in model.failed), default=0.0)
    of_part = [message for message in model.messages if message.at >= began]
    return Group(*rows, *(_line(message, message.text) for message in of_part[-LAST_MESSAGES:]))


def times(model: Model, now: float) -> list[tuple[str, str]]:
    """Rows of the table of times: each part with its phases, and the total."""
    rows = []
    for part in model.parts:
        if part.state == WAITING:
            continue
        rows.append((part.name, duration(part.spent(now))))
        rows += [
            (f"  {phase.name}", duration(phase.spent(now)))
            for phase in model.details.get(part.name, ())
            if phase.state not in (WAITING, UNCHANGED)
        ]
    begun = [part for part in model.parts if part.state != WAITING]
    last = max((now if part.end is None else part.end for part in begun), default=now)
    return [*rows, ("total", duration(last))]


def _title(model: Model, now: float) -> Table:
    done = sum(part.state == DONE for part in model.parts)
    grid = Table.grid(expand=True)
    grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_row(
        Text.assemble(("Keystone", "bold"), f"  {model.title}"),
        Text.assemble((f"{done} of {len(model.parts)} parts  ", "dim"), (_clock(now), "bold")),
    )
    return grid


def _rule(text: str) -> Rule:
    return Rule(Text(text, style="dim"), style="dim", align="left")


def _columns(parts: Sequence[Text], aside: Sequence[RenderableType], rows: int) -> Table:
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(width=PARTS_WIDTH, no_wrap=True)
    grid.add_column(width=1)
    grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    for row in range(rows):
        grid.add_row(
            parts[row] if row < len(parts) else "",
            Text("│", style="dim"),
            aside[row] if row < len(aside) else "",
        )
    return grid


def _around(lines: list[Text], parts: Sequence[Interval], rows: int) -> list[Text]:
    """The `rows` lines around the last part that has begun."""
    at = max((n for n, part in enumerate(parts) if part.state != WAITING), default=0)
    first = max(min(at - rows // 2, len(lines) - rows), 0)
    return lines[first : first + rows]


def _clock(seconds: float) -> str:
    """A running time in whole seconds: constantly changing tenths would distract."""
    return duration(seconds) if seconds >= TENTHS else f"{int(seconds)} s"


def _symbol(state: str, now: float) -> str:
    return SYMBOLS.get(state) or SPINNER[int(now * 4) % len(SPINNER)]


def _row(one: Interval, now: float, width: int, *, label: str = "") -> Text:
    """Symbol, name and, at the right edge, the duration."""
    taken = _clock(one.spent(now)) if one.state == RUNNING else duration(one.spent(now))
    spent = {WAITING: "", UNCHANGED: "nothing to do"}.get(one.state, taken)
    room = width - 3 - len(spent)
    name = Text(label or one.name)
    name.truncate(max(room, 1), overflow="ellipsis", pad=True)
    style = STYLES.get(one.state, "")
    strong = style if one.state in (RUNNING, FAILED) else "dim" if style == "dim" else ""
    return Text.assemble((f"{_symbol(one.state, now)} ", style), (name.plain, strong), " ",
                         (spent, "bold" if one.state == RUNNING else "dim"))  # fmt: skip


def _parts(model: Model, now: float) -> list[Text]:
    return [_row(part, now, PARTS_WIDTH) for part in model.parts]


def _aside(model: Model, now: float, width: int) -> list[Text]:
    """Lines beside the parts: phases of the running part, or else its steps, running ones first."""
    if model.phases:
        return [_row(one, now, width, label=_phase(one, width)) for one in model.phases]
    lines = [_bar(bar, width) for bar in model.bars]
    lines += [_row(step, now, width, label=_step(step)) for step in model.steps]
    lines += [
        _row(step, now, width, label=_step(step))
        for step in reversed(model.recent)
    ]  # fmt: skip
    return lines


def _phase(one: Interval, width: int) -> str:
    long = f"{one.name:<14} {one.sentence}"
    return long if one.sentence and width >= WIDE - PARTS_WIDTH - 3 else one.name


def _step(step: Interval) -> str:
    return f"{step.source}: {step.name}" if step.source else step.name


def _bar(bar: Bar, width: int) -> Text:
    share = min(bar.done / bar.total, 1.0) if bar.total else 0.0
    percent = f" {int(share * 100):3d} %"
    name = Text(f"{bar.source}: {bar.name}" if bar.source else bar.name)
    name.truncate(max(width // 2, 1), overflow="ellipsis")
    room = max(width - len(name.plain) - len(percent) - 3, 1)
    full = round(room * share)
    return Text.assemble(
        ("  ", ""), (name.plain, "bold"), " ",
        ("━" * full, "green"), ("━" * (room - full), "dim"), (percent, "dim"),
    )  # fmt: skip


def _where(model: Model, now: float) -> list[tuple[Text, Text, Text, Text]]:
    """Rows of tasks by machine; if phases are shown, also the steps outside of phases."""
    rows = [_host(host, now) for host in model.hosts]
    if model.phases:
        rows += [
            (
                Text(step.source or "here", style="bold"),
                Text(step.name),
                Text(),
                Text(_clock(step.spent(now)), style="dim"),
            )
            for step in model.steps
            if not (step.source and any(host.name == step.source for host in model.hosts))
        ]
    return rows


def _host(host: HostState, now: float) -> tuple[Text, Text, Text, Text]:
    style = HOSTS.get(host.state, "")
    busy = host.state == RUNNING
    return (
        Text(host.name, style="bold"),
        Text(host.doing, style="" if busy else "dim"),
        Text("" if busy else host.state, style=style),
        Text(_clock(max(now - host.since, 0.0)) if busy else "", style="dim"),
    )


def _grid_hosts(rows: Sequence[tuple[Text, Text, Text, Text]]) -> Table:
    grid = Table.grid(expand=True, padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, overflow="ellipsis", max_width=14, min_width=4)
    grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    grid.add_column(no_wrap=True, width=9)
    grid.add_column(no_wrap=True, width=12, justify="right")
    for row in rows:
        grid.add_row(*row)
    return grid


def _tail(messages: Sequence[Message], rows: int) -> list[RenderableType]:
    """The last lines, each truncated to the width; starts of steps are left out."""
    last = [one for one in messages if one.kind != "start"][-rows:] if rows > 0 else []
    lines = [(one, line.strip()) for one in last for line in one.text.splitlines()]
    shown = [_line(one, line) for one, line in lines[-rows:]]
    for text in shown:
        text.no_wrap, text.overflow = True, "ellipsis"
    return list(shown)


def _line(message: Message, text: str) -> Text:
    source = (f"{message.source:<4} ", "cyan") if message.source else ("", "")
    return Text.assemble(source, (text.expandtabs(4), LEVELS.get(message.level, "")))
