"""How long each part of a build took: a person sees where the minutes went.

Parts run side by side, so their times add up to more than the whole.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from keystone import log

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass
class Part:
    """One part: its wall time in seconds; made: whether there was anything to do."""

    name: str
    seconds: float = 0.0
    made: bool = True


@dataclass
class Parts:
    """What was measured, in the order of ends. Threads may share one."""

    rows: list[Part] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    ended: float = 0.0

    @contextmanager
    def measure(self, name: str) -> Iterator[Part]:
        """Measure the block; it says `part.made = False` where everything was there."""
        part, start = Part(name), time.monotonic()
        yield part
        self.ended = time.monotonic()
        part.seconds = self.ended - start
        self.rows.append(part)

    def show(self, title: str) -> None:
        """The table, on standard output; nothing where nothing was made."""
        if any(part.made for part in self.rows):
            whole = self.ended - self.started
            log.table(["part", "time"], table(self.rows, whole), title=title, numbers=[1])


def table(parts: Sequence[Part], whole: float) -> list[tuple[str, str]]:
    """Rows: what was made, the longest first; what was there in one line; the whole in seconds."""
    made = sorted((part for part in parts if part.made), key=lambda part: -part.seconds)
    rows = [(part.name, log.duration(part.seconds)) for part in made]
    if there := len(parts) - len(made):
        rows.append((f"{there} more", "cached"))
    return [*rows, ("all, side by side", log.duration(whole))]
