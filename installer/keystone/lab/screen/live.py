"""Show a long run on one screen: its parts, the tasks on each machine, times.

On a terminal of sufficient size, all output of this program, of programs it starts and of machines
becomes one picture, and a file keeps every line. Elsewhere, lines are printed as they come. The
module `model` has the state, `view` draws it.
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
from keystone.lab.screen import model as screen_model
from keystone.lab.screen import view as screen_view
from keystone.lab.screen.model import Event

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import RenderableType

FORM = "KEYSTONE_LOG_FORMAT"
"""Environment variable that makes keystone-install print JSON lines."""


class Screen:
    """The screen of a run; `watching` makes one. live: it is drawn on a terminal."""

    def __init__(self, title: str, parts: Sequence[str], files: _Files | None = None) -> None:
        self.live = files is not None
        self._files = files
        self._lock = Lock()
        self._began = time.monotonic()
        self._model = screen_model.new(title, tuple(parts))

    @property
    def model(self) -> screen_model.Model:
        """The state of the run."""
        return self._model

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Run the block as one part of the run; parts may run in parallel."""
        self._record("start", name)
        try:
            with log.step(name, part=name):
                yield
        except BaseException:
            self._record("failed", name)
            raise
        self._record("end", name)

    def _record(self, kind: str, part: str) -> None:
        """Record a part for the times; a live screen gets it from the log instead."""
        if not self.live:
            self._add(Event(self.spent, "", kind=kind, part=part))

    def run(
        self, argv: Sequence[str | Path], *, who: str, env: Mapping[str, str] | None = None
    ) -> int:
        """Run a program and show its output; returns its exit code. who: its name on the screen.

        KEYSTONE_LOG_FORMAT makes our own programs print events; see `remote_command`.
        """
        if not self.live:
            form = {FORM: "json"} if log.as_json() else {}
            return run.attached(argv, env={**(env or {}), **form})
        try:
            on_line = partial(self._line, who)
            return run.stream_lines(argv, on_line, env={**(env or {}), FORM: "json"})
        finally:
            self._add(Event(self.spent, who, kind="gone"))

    def remote_command(self, command: str) -> str:
        """A shell command for another machine in which our programs print events, as here."""
        return f"export {FORM}=json; {command}" if self.live or log.as_json() else command

    def times(self) -> list[tuple[str, str]]:
        """Rows of the table of times: part or phase, and its duration."""
        return screen_view.times(self._model, self.spent)

    def picture(self, columns: int, lines: int) -> RenderableType:
        """The picture of the live screen now."""
        path = str(self._files.log) if self._files else ""
        return screen_view.render(self._model, self.spent, columns, lines, log=path)

    def hear(self, line: Mapping[str, Any]) -> None:
        """Take a line of our own log."""
        self._add(screen_model.parse(self.spent, "", line))

    def _line(self, who: str, line: str) -> None:
        self._add(screen_model.decode(self.spent, who, line))

    def _add(self, event: Event) -> None:
        with self._lock:
            self._model = screen_model.update(self._model, event)
            if self._files:
                self._files.keep(event)


class _Files:
    """All events: in `<name>.log` for people, in `<name>.jsonl` (last run only) for `replay`."""

    def __init__(self, folder: Path, name: str, title: str, parts: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"{name}.log"
        self._text: IO[str] = self.log.open("a", encoding="utf-8", buffering=1)
        self._events: IO[str] = (folder / f"{name}.jsonl").open("w", encoding="utf-8")
        self._text.write(f"---- {time.strftime('%Y-%m-%d %H:%M:%S')} {title}\n")
        self._events.write(json.dumps({"title": title, "parts": list(parts)}) + "\n")

    def keep(self, event: Event) -> None:
        """Write one event to both files."""
        value = {key: value for key, value in asdict(event).items() if value}
        if "kind" in value:
            value["event"] = value.pop("kind")
        self._events.write(json.dumps(value, ensure_ascii=False) + "\n")
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
    """A screen for the run inside the block, live if there is a suitable terminal.

    folder: for `<name>.log`. If the block fails, the last messages of the failed part stay on the
    terminal, with the path of that file; the caller shows the error.
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
        log.info(f"complete log: {files.log}")
        raise
    finally:
        files.close()
