"""The only printer. People look rather than read: steps with times, progress, tables.

Everything goes to standard error except what a command was asked for (`out`, `out_json`).
Colours and bars appear on a terminal only; `--log-format json` makes every line a JSON object:

    {"time": 1763000000.0, "level": "info", "message": "...", ...}

`time` is in seconds since 1970; `level` is debug, info, warning, error or event (what only programs
want to know: text has no such line). Many lines carry `event`, and with it:

    start, end, failed   a step, named by `step`; some have `phase` or `part`
    progress             `bar` (its name), `done` of `total`
    phases               `phases`, `sentences`: what a run goes through, in order
    unchanged            `phase` has nothing to do
    action               what begins in `phase`, on `hosts`
    task, result         of a playbook: `role`, `task` on `hosts`; `status` of it on `host`

A program in this very process may hear the lines instead (`live`).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.live import Live
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
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence


@dataclass
class _Settings:
    json: bool = False
    debug: bool = False
    hear: Callable[[dict[str, Any]], None] | None = None
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))


_settings = _Settings()
SMALLEST = (80, 20)
"""Columns and lines of a terminal that a live picture needs."""
PICTURES_A_SECOND = 3


def configure(*, json_lines: bool = False, debug: bool = False) -> None:
    """Choose the form of the log once, at the start of the program."""
    _settings.json = json_lines
    _settings.debug = debug


def _emit(level: str, text: str, style: str = "", **fields: Any) -> None:  # noqa: ANN401 JSON values
    text = plain(text)
    line = {"time": time.time(), "level": level, "message": text, **fields}
    if _settings.hear:
        _settings.hear(line)
    elif _settings.json:
        print(json.dumps(line, default=str), file=sys.stderr, flush=True)
    elif level != "event":
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


def event(name: str, text: str, **fields: Any) -> None:  # noqa: ANN401 JSON values
    """What programs that follow a run want to know; people are told by other lines."""
    _emit("event", text, event=name, **fields)


def plain(text: str) -> str:
    """Text with nothing in it that commands a terminal: it may quote a bundle, a disk or a host.

    Control characters and marks that turn the direction of writing become "?" (CVE-2021-25743).
    """
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


@contextmanager
def step(text: str, **fields: Any) -> Iterator[None]:  # noqa: ANN401 JSON values
    """Say that something starts, and how long it took when it ends well."""
    start = time.monotonic()
    _emit("info", f"· {text}", "dim", event="start", step=text, **fields)
    try:
        yield
    except BaseException:
        # People read the error itself; programs need the end of what they saw begin.
        event("failed", text, step=text, **fields)
        raise
    spent = duration(time.monotonic() - start)
    _emit("info", f"✓ {text} ({spent})", "green", event="end", step=text, **fields)


class Bar:
    """Progress of one long piece of work: `advance` in the unit that `total` was given in."""

    def __init__(self, text: str, total: int, progress: Progress | None) -> None:
        self._name, self._text, self._total, self._progress = text, text, total, progress
        self._done = 0
        self._said = 0
        self._task = progress.add_task(escape(text), total=total) if progress else None

    def advance(self, amount: int) -> None:
        """Count `amount` more; without a terminal a line is printed every tenth of the way."""
        self._done += amount
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=amount)
            return
        # Whoever hears in this process draws a bar of its own; a line is for every tenth.
        parts = 100 if _settings.hear else 10
        now = min(self._done * parts // max(self._total, 1), parts)
        if now > self._said:
            self._said = now
            _emit("info", f"  {self._text}: {now * 100 // parts} %", event="progress",
                  bar=self._name, done=self._done, total=self._total)  # fmt: skip

    def describe(self, text: str) -> None:
        """Change what the bar says it is doing."""
        self._text = text
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=escape(text))


@contextmanager
def progress(text: str, total: int, *, in_bytes: bool = True) -> Iterator[Bar]:
    """A bar for work of known size."""
    if _settings.json or _settings.hear or not _settings.console.is_terminal:
        yield Bar(text, total, None)
        return
    columns = [TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()]
    if in_bytes:
        columns += [DownloadColumn(), TransferSpeedColumn()]
    with Progress(*columns, console=_settings.console) as bars:
        yield Bar(text, total, bars)


def as_json() -> bool:
    """Whether lines are JSON objects: programs that we start should say theirs alike."""
    return _settings.json


def watched() -> bool:
    """Whether a live picture can be shown: standard error is a terminal that is large enough."""
    console = _settings.console
    able = console.is_terminal and not console.is_dumb_terminal
    wide = console.width >= SMALLEST[0] and console.height >= SMALLEST[1]
    return able and wide and not _settings.json and console.encoding.startswith("utf")


@contextmanager
def live(
    picture: Callable[[int, int], RenderableType], hear: Callable[[dict[str, Any]], None]
) -> Iterator[None]:
    """While the block runs the terminal shows `picture(columns, lines)`, and nothing is printed.

    hear: gets every line as the object of `--log-format json`, from whichever thread says it.
    What the terminal showed before comes back at the end, however the block ends.
    """
    console = _settings.console
    screen = Live(
        get_renderable=lambda: picture(console.width, console.height),
        console=console,
        screen=True,
        refresh_per_second=PICTURES_A_SECOND,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    _settings.hear = hear
    try:
        with screen:
            yield
    finally:
        _settings.hear = None


def show(picture: RenderableType) -> None:
    """Print a picture once, where the log goes."""
    _settings.console.print(picture)


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
    with _answering():
        print(text, flush=True)


def out_json(value: Any) -> None:  # noqa: ANN401 any JSON value
    """The answer for machines; records as objects."""
    with _answering():
        print(json.dumps(value, indent=2, sort_keys=True, default=_plain), flush=True)


def _plain(value: Any) -> Any:  # noqa: ANN401 any value
    """One that JSON has not, as one that it has: dataclasses and mappings are objects."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    return dict(value) if isinstance(value, Mapping) else str(value)


@contextmanager
def _answering() -> Iterator[None]:
    """What a full disk behind standard output refuses is said of that."""
    try:
        yield
    except OSError as error:
        error.filename = "standard output"
        raise


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
