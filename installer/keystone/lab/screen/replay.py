"""Show a recorded run (`demo.jsonl`) again: on the terminal, or as a picture for a web page."""

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
from keystone.lab.screen import model as screen_model
from keystone.lab.screen import view as screen_view

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from keystone.lab.screen.model import Event, Model

SIZE = (100, 30)
"""Columns and lines of a picture for a web page."""
LOG = "~/.cache/keystone/lab/demo.log"
"""Path that a picture shows instead of the one on this machine."""


def recorded(path: Path) -> tuple[Model, list[Event]]:
    """Read a recording: the model at its start, and its events. Raises ConfigurationError."""
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
            hint="`keystone-install lab run` on a terminal records one in the lab's folder",
        ) from error


def until(begin: Model, events: Sequence[Event], at: float) -> Model:
    """The model `at` seconds after the start."""
    model = begin
    for event in events:
        if event.at <= at:
            model = screen_model.update(model, event)
    return model


def svg(path: Path, at: float, size: tuple[int, int] = SIZE) -> str:
    """The screen of a recorded run `at` seconds after its start, as SVG without web fonts."""
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
    """Show a recorded run on this terminal, `speed` times as fast. Raises UsageError."""
    begin, events = recorded(path)
    if not log.watched():
        raise UsageError("showing a run needs a terminal of at least 80 columns and 20 lines")
    start, model, ticks = time.monotonic(), begin, Signal()

    def now() -> float:
        return (time.monotonic() - start) * speed

    def picture(columns: int, lines: int) -> RenderableType:
        return screen_view.render(model, now(), columns, lines, log=LOG)

    with log.live(picture, lambda _line: None):
        for event in events:
            ticks.wait(max((event.at - now()) / speed, 0))
            model = screen_model.update(model, event)
    log.show(screen_view.closing(model, events[-1].at if events else 0.0))
