"""One screen for a long run: its parts, what runs where, time so far.

On a terminal of reasonable size everything that is said here, by programs that are started and on
machines becomes one picture, and a file keeps all of it. Anywhere else lines are printed as they
come. `screen_model` decides what is known, `screen_view` how it looks.
"""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from threading import Lock
from typing import IO, TYPE_CHECKING, Any

from keystone import log, run
from keystone.lab import screen_model, screen_view
from keystone.lab.screen_model import Event

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import RenderableType

FORM = "KEYSTONE_LOG_FORMAT"
"""Variable that asks keystone-install for JSON lines."""


class Screen:
    """A run as it is watched; `watching` makes one. live: there is a picture to draw."""

    def __init__(self, title: str, parts: Sequence[str], files: _Files | None = None) -> None:
        self.live = files is not None
        self._files = files
        self._lock = Lock()
        self._began = time.monotonic()
        self._model = screen_model.new(title, tuple(parts))

    @property
    def model(self) -> screen_model.Model:
        """The run as it stands."""
        return self._model

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """One part of the run; parts may run side by side."""
        self._know("start", name)
        try:
            with log.step(name, part=name):
                yield
        except BaseException:
            self._know("failed", name)
            raise
        self._know("end", name)

    def _know(self, kind: str, part: str) -> None:
        """Without a picture nobody hears the log, and times are wanted all the same."""
        if not self.live:
            self._hear(Event(self.spent, "", kind=kind, part=part))

    def run(
        self, argv: Sequence[str | Path], *, who: str, env: Mapping[str, str] | None = None
    ) -> int:
        """Run a program that says what it does; returns its exit code. who: its name here.

        Programs of ours say it as we do, for they find KEYSTONE_LOG_FORMAT; see `there`.
        """
        if not self.live:
            form = {FORM: "json"} if log.as_json() else {}
            return run.attached(argv, env={**(env or {}), **form})
        try:
            heard = partial(self._line, who)
            return run.heard(argv, heard, env={**(env or {}), FORM: "json"})
        finally:
            self._hear(Event(self.spent, who, kind="gone"))

    def there(self, command: str) -> str:
        """A shell command for another machine, so that our programs in it speak as here."""
        return f"export {FORM}=json; {command}" if self.live or log.as_json() else command

    def times(self) -> list[tuple[str, str]]:
        """Rows of the table of times so far: part or phase, and how long."""
        return screen_view.times(self._model, self.spent)

    def picture(self, columns: int, lines: int) -> RenderableType:
        """The live screen now."""
        path = str(self._files.log) if self._files else ""
        return screen_view.render(self._model, self.spent, columns, lines, log=path)

    def hear(self, line: Mapping[str, Any]) -> None:
        """A line of our own log."""
        self._hear(screen_model.parse(self.spent, "", line))

    def _line(self, who: str, line: str) -> None:
        self._hear(screen_model.decode(self.spent, who, line))

    def _hear(self, event: Event) -> None:
        with self._lock:
            self._model = screen_model.heard(self._model, event)
            if self._files:
                self._files.keep(event)


class _Files:
    """All that was said: `<name>.log` for people, `<name>.jsonl` of the last run for `replay`."""

    def __init__(self, folder: Path, name: str, title: str, parts: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"{name}.log"
        self._text: IO[str] = self.log.open("a", encoding="utf-8", buffering=1)
        self._events: IO[str] = (folder / f"{name}.jsonl").open("w", encoding="utf-8")
        self._text.write(f"---- {time.strftime('%Y-%m-%d %H:%M:%S')} {title}\n")
        self._events.write(json.dumps({"title": title, "parts": list(parts)}) + "\n")

    def keep(self, event: Event) -> None:
        """Write one event to both."""
        said = {key: value for key, value in asdict(event).items() if value}
        if "kind" in said:
            said["event"] = said.pop("kind")
        self._events.write(json.dumps(said, ensure_ascii=False) + "\n")
        if event.message and event.level != "event" and event.kind != "progress":
            stamp = time.strftime("%H:%M:%S")
            self._text.write(f"{stamp} {event.source:<4} {event.message}\n")

    def close(self) -> None:
        """Close both files."""
        self._text.close()
        self._events.close()


@contextmanager
def watching(
    title: str, parts: Sequence[str], folder: Path, name: str = "demo"
) -> Iterator[Screen]:
    """A screen for the run inside the block, live where there is a terminal to show it on.

    folder: where `<name>.log` is kept. When the block fails, what the failing part said last stays
    on the terminal, with the path of that file; the error is the caller's to show.
    """
    if not log.watched():
        yield Screen(title, parts)
        return
    files = _Files(folder, name, title, parts)
    screen = Screen(title, parts, files)
    try:
        with log.live(screen.picture, screen.hear):
            yield screen
    except BaseException:
        log.show(screen_view.closing(screen.model, screen.spent))
        log.info(f"all that was said: {files.log}")
        raise
    finally:
        files.close()
