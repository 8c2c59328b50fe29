"""The only printer. People look rather than read: steps with times, progress, tables.

Everything goes to standard error except what a command was asked for (`out`, `out_json`).
Colours and bars appear on a terminal only; `--log-format json` makes every line a JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence


@dataclass
class _Settings:
    json: bool = False
    debug: bool = False
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))


_settings = _Settings()


def configure(*, json_lines: bool = False, debug: bool = False) -> None:
    """Choose the form of the log once, at the start of the program."""
    _settings.json = json_lines
    _settings.debug = debug


def _emit(level: str, text: str, style: str = "", **fields: Any) -> None:  # noqa: ANN401 JSON values
    text = plain(text)
    if _settings.json:
        line = {"time": time.time(), "level": level, "message": text, **fields}
        print(json.dumps(line, default=str), file=sys.stderr, flush=True)
    else:
        body = escape(text)
        _settings.console.print(f"[{style}]{body}[/]" if style else body, soft_wrap=True)


def info(text: str, **fields: Any) -> None:  # noqa: ANN401 JSON values
    """One line of news."""
    _emit("info", text, **fields)


def warn(text: str, **fields: Any) -> None:  # noqa: ANN401 JSON values
    """Something the reader should look at, which stops nothing."""
    _emit("warning", f"warning: {text}", "yellow", **fields)


def error(text: str, **fields: Any) -> None:  # noqa: ANN401 JSON values
    """What went wrong."""
    _emit("error", text, "bold red", **fields)


def debug(text: str, **fields: Any) -> None:  # noqa: ANN401 JSON values
    """Shown with --debug only."""
    if _settings.debug:
        _emit("debug", text, "dim", **fields)


def plain(text: str) -> str:
    """Text with nothing in it that commands a terminal: it may quote a bundle, a disk or a host.

    Control characters and marks that turn the direction of writing become "?" (CVE-2021-25743).
    """
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Say that something starts, and how long it took when it ends well."""
    start = time.monotonic()
    _emit("info", f"· {text}", "dim", event="start")
    yield
    _emit("info", f"✓ {text} ({duration(time.monotonic() - start)})", "green", event="end")


class Bar:
    """Progress of one long piece of work: `advance` in the unit that `total` was given in."""

    def __init__(self, text: str, total: int, progress: Progress | None) -> None:
        self._text, self._total, self._progress = text, total, progress
        self._done = 0
        self._said = 0
        self._task = progress.add_task(escape(text), total=total) if progress else None

    def advance(self, amount: int) -> None:
        """Count `amount` more; without a terminal a line is printed every tenth of the way."""
        self._done += amount
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=amount)
            return
        tenth = self._done * 10 // max(self._total, 1)
        if tenth > self._said:
            self._said = tenth
            _emit("info", f"  {self._text}: {min(tenth * 10, 100)} %", done=self._done)

    def describe(self, text: str) -> None:
        """Change what the bar says it is doing."""
        self._text = text
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=escape(text))


@contextmanager
def progress(text: str, total: int, *, in_bytes: bool = True) -> Iterator[Bar]:
    """A bar for work of known size."""
    if _settings.json or not _settings.console.is_terminal:
        yield Bar(text, total, None)
        return
    columns = [TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()]
    if in_bytes:
        columns += [DownloadColumn(), TransferSpeedColumn()]
    with Progress(*columns, console=_settings.console) as bars:
        yield Bar(text, total, bars)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str = "",
    numbers: Collection[int] = (),
    marks: Mapping[str, str] | None = None,
) -> None:
    """A table on standard output: it is what was asked for.

    numbers: columns that are set to the right. marks: style of a row by what its first cell says.
    """
    grid = Table(*columns, title=title or None, box=None, header_style="bold", pad_edge=False)
    for number in numbers:
        grid.columns[number].justify = "right"
    for row in rows:
        style = (marks or {}).get(str(row[0]), "") if row else ""
        grid.add_row(*(escape(plain(str(cell))) for cell in row), style=style)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    console.print(grid)


def out(text: str) -> None:
    """The answer itself, on standard output, untouched."""
    print(text, flush=True)


def out_json(value: Any) -> None:  # noqa: ANN401 any JSON value
    """The answer for machines."""
    print(json.dumps(value, indent=2, sort_keys=True, default=str), flush=True)


def duration(seconds: float) -> str:
    """Seconds as people say them: 0.4 s, 12 s, 3 min 05 s."""
    if seconds < 10:  # noqa: PLR2004 below this a decimal helps
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def size(count: float) -> str:
    """Bytes as people say them, in powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:  # noqa: PLR2004 the unit's own base
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
