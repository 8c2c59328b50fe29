"""Measure and show how long each part of a build took.

Parts run in parallel, so their times add up to more than the total.
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
    """One part. seconds: its wall time. made: False if its result was cached."""

    name: str
    seconds: float = 0.0
    made: bool = True


@dataclass
class Parts:
    """The measured parts, in the order in which they ended. Threads may share an instance."""

    rows: list[Part] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    ended: float = 0.0

    @contextmanager
    def measure(self, name: str) -> Iterator[Part]:
        """Measure the block, which sets `part.made = False` if its result was cached."""
        part, start = Part(name), time.monotonic()
        yield part
        self.ended = time.monotonic()
        part.seconds = self.ended - start
        self.rows.append(part)

    def show(self, title: str) -> None:
        """Print the table on standard output, unless everything was cached."""
        if any(part.made for part in self.rows):
            total = self.ended - self.started
            log.table(["part", "time"], table(self.rows, total), title=title, numbers=[1])


def table(parts: Sequence[Part], total: float) -> list[tuple[str, str]]:
    """Rows of the table: made parts, longest first; the number of cached ones; the total.

    total: wall time of all parts in seconds.
    """
    made = sorted((part for part in parts if part.made), key=lambda part: -part.seconds)
    rows = [(part.name, log.duration(part.seconds)) for part in made]
    if cached := len(parts) - len(made):
        rows.append((f"{cached} more", "cached"))
    return [*rows, ("total, in parallel", log.duration(total))]
