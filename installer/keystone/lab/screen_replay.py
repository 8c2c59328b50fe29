"""A run that was kept (`demo.jsonl`), shown again: on the terminal, or as a picture for a page."""

from __future__ import annotations

import io
import json
import re
import time
from threading import Event as Signal
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType

from keystone import log
from keystone.errors import ConfigurationError, UsageError
from keystone.lab import screen_model, screen_view

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from keystone.lab.screen_model import Event, Model

SIZE = (100, 30)
"""Columns and lines of a picture for a page."""
LOG = "~/.cache/keystone/lab/demo.log"
"""What a picture says instead of somebody's own path."""


def recorded(path: Path) -> tuple[Model, list[Event]]:
    """The run before it began, and its events. Raises ConfigurationError for any other file."""
    try:
        first, *rest = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        begin = screen_model.new(str(first["title"]), tuple(map(str, first["parts"])))
        return begin, [
            screen_model.parse(float(line["at"]), str(line.get("source", "")), line)
            for line in rest
        ]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"{path}: not a recorded run: {error}",
            hint="`keystone-install lab run` on a terminal keeps one in the lab's folder",
        ) from error


def until(begin: Model, events: Sequence[Event], at: float) -> Model:
    """The run as it stood so many seconds after its start."""
    model = begin
    for event in events:
        if event.at <= at:
            model = screen_model.heard(model, event)
    return model


def svg(path: Path, at: float, size: tuple[int, int] = SIZE) -> str:
    """The screen of a recorded run at a moment, as a picture that names no font of the internet."""
    begin, events = recorded(path)
    console = Console(
        file=io.StringIO(), record=True, width=size[0], height=size[1],
        force_terminal=True, color_system="standard",
    )  # fmt: skip
    model = until(begin, events, at)
    console.print(screen_view.render(model, at, *size, log=LOG))
    drawn = console.export_svg(title="make demo", unique_id="demo")
    return re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)


def play(path: Path, speed: float) -> None:
    """Show a recorded run on this terminal, `speed` times as fast. Raises UsageError elsewhere."""
    begin, events = recorded(path)
    if not log.watched():
        raise UsageError("a run is shown on a terminal of 80 columns and 20 lines, or more")
    start, model, ticks = time.monotonic(), begin, Signal()

    def now() -> float:
        return (time.monotonic() - start) * speed

    def picture(columns: int, lines: int) -> RenderableType:
        return screen_view.render(model, now(), columns, lines, log=LOG)

    with log.live(picture, lambda _line: None):
        for event in events:
            ticks.wait(max((event.at - now()) / speed, 0))
            model = screen_model.heard(model, event)
    log.show(screen_view.closing(model, events[-1].at if events else 0.0))
