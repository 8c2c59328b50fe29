"""The only module that prints: steps with times, progress bars, tables.

The log goes to standard error, the result of a command to standard output (`out`, `out_json`,
`table`). Colours and bars appear on a terminal only; `--log-format json` makes every line a JSON
object:

    {"time": 1763000000.0, "level": "info", "message": "...", ...}

`time` is in seconds since 1970; `level` is debug, info, warning, error or event (for programs
only: the text format omits these lines). Many lines have `event`, and with it:

    start, end, failed   a step, named by `step`; some have `phase` or `part`
    progress             `bar` (its name), `done` of `total`
    phases               `phases`, `sentences`: the phases of a run, in order
    unchanged            `phase` has nothing to do
    action               an action of `phase` starts on `hosts`
    task, result         of a playbook: `role`, `task` on `hosts`; `status` of it on `host`

Code in this process can receive the lines instead (`live`).
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
"""Columns and lines that a terminal needs at least for a live picture."""
PICTURES_A_SECOND = 3


def configure(*, json_lines: bool = False, debug: bool = False) -> None:
    """Set the format of the log, once, when the program starts."""
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
    """Log a line of information."""
    _emit("info", text, **fields)


def warn(text: str, **fields: Any) -> None:  # noqa: ANN401 JSON values
    """Log a warning: the reader should check something; the command continues."""
    _emit("warning", f"warning: {text}", "yellow", **fields)


def error(text: str, **fields: Any) -> None:  # noqa: ANN401 JSON values
    """Log an error."""
    _emit("error", text, "bold red", **fields)


def debug(text: str, **fields: Any) -> None:  # noqa: ANN401 JSON values
    """Log a line that is shown with --debug only."""
    if _settings.debug:
        _emit("debug", text, "dim", **fields)


def event(name: str, text: str, **fields: Any) -> None:  # noqa: ANN401 JSON values
    """Log an event for programs that follow a run; people read other lines."""
    _emit("event", text, event=name, **fields)


def plain(text: str) -> str:
    """Replace all that controls a terminal: the text may quote a bundle, a disk or a host.

    Control characters, and those that change the direction of writing, become "?"
    (CVE-2021-25743).
    """
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


@contextmanager
def step(text: str, **fields: Any) -> Iterator[None]:  # noqa: ANN401 JSON values
    """Log that a step starts, and its duration when it succeeds."""
    start = time.monotonic()
    _emit("info", f"· {text}", "dim", event="start", step=text, **fields)
    try:
        yield
    except BaseException:
        # People read the error itself; programs also need the end of each step that started.
        event("failed", text, step=text, **fields)
        raise
    spent = duration(time.monotonic() - start)
    _emit("info", f"✓ {text} ({spent})", "green", event="end", step=text, **fields)


class Bar:
    """Progress of one long piece of work: `advance` in the unit that `total` was given in."""

    def __init__(self, text: str, total: int, progress: Progress | None) -> None:
        self._name, self._text, self._total, self._progress = text, text, total, progress
        self._done = 0
        self._logged = 0
        self._task = progress.add_task(escape(text), total=total) if progress else None

    def advance(self, amount: int) -> None:
        """Add `amount`; without a terminal, log a line every 10 %."""
        self._done += amount
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=amount)
            return
        # A listener in this process draws its own bar, so it gets a line every 1 %.
        parts = 100 if _settings.hear else 10
        now = min(self._done * parts // max(self._total, 1), parts)
        if now > self._logged:
            self._logged = now
            _emit("info", f"  {self._text}: {now * 100 // parts} %", event="progress",
                  bar=self._name, done=self._done, total=self._total)  # fmt: skip

    def describe(self, text: str) -> None:
        """Change the text of the bar."""
        self._text = text
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=escape(text))


@contextmanager
def progress(text: str, total: int, *, in_bytes: bool = True) -> Iterator[Bar]:
    """Show a progress bar. total: bytes, or any other unit with in_bytes=False."""
    if _settings.json or _settings.hear or not _settings.console.is_terminal:
        yield Bar(text, total, None)
        return
    columns = [TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()]
    if in_bytes:
        columns += [DownloadColumn(), TransferSpeedColumn()]
    with Progress(*columns, console=_settings.console) as bars:
        yield Bar(text, total, bars)


def as_json() -> bool:
    """Return whether log lines are JSON objects; programs that we start should use the same."""
    return _settings.json


def watched() -> bool:
    """Return whether standard error is a terminal that can show a live picture."""
    console = _settings.console
    able = console.is_terminal and not console.is_dumb_terminal
    wide = console.width >= SMALLEST[0] and console.height >= SMALLEST[1]
    return able and wide and not _settings.json and console.encoding.startswith("utf")


@contextmanager
def live(
    picture: Callable[[int, int], RenderableType], hear: Callable[[dict[str, Any]], None]
) -> Iterator[None]:
    """Show `picture(columns, lines)` on the terminal while the block runs; print nothing else.

    hear: gets every line as the object of `--log-format json`, called in the thread that logs it.
    The terminal's former content is restored when the block ends or fails.
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
    """Print a picture once, to standard error."""
    _settings.console.print(picture)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str = "",
    numbers: Collection[int] = (),
    marks: Mapping[str, str] | None = None,
) -> None:
    """Print a table on standard output: it is the result of a command.

    numbers: columns that are aligned to the right. marks: style of a row, by its first cell.
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
    """Print the result of a command on standard output, unchanged."""
    with _answering():
        print(text, flush=True)


def out_json(value: Any) -> None:  # noqa: ANN401 any JSON value
    """Print the result of a command as JSON; dataclasses become objects."""
    with _answering():
        print(json.dumps(value, indent=2, sort_keys=True, default=_plain), flush=True)


def _plain(value: Any) -> Any:  # noqa: ANN401 any value
    """Convert a value for JSON: dataclasses and mappings to objects, all others to text."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    return dict(value) if isinstance(value, Mapping) else str(value)


@contextmanager
def _answering() -> Iterator[None]:
    """Name standard output in an OSError of the block, such as a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = "standard output"
        raise


def count(number: int, one: str, many: str = "") -> str:
    """Format a number with its noun: 1 host, 2 hosts. many: the plural, by default `one` + "s"."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def duration(seconds: float) -> str:
    """Format seconds for people: 0.4 s, 12 s, 3 min 05 s."""
    if seconds < 10:  # noqa: PLR2004 below this a decimal helps
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def size(amount: float) -> str:
    """Format bytes for people, in powers of 1024: 512 B, 1.5 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(amount) < 1024:  # noqa: PLR2004 the unit's own base
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
