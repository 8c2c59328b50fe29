"""Start and end the load: the program in tests/life/register, built once."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tests.life import history

from keystone.lab.mirror import catalogue, golang
from keystone.run import spawned

if TYPE_CHECKING:
    import subprocess  # noqa: TID251 the type of what run.spawned gives
    from collections.abc import Iterator, Sequence

FOLDER = Path(__file__).parent / "register"
END_SECONDS = 300
"""The program waits up to two minutes for each of its last reads."""


@cache
def program() -> Path:
    """Return the program: one static file, for this machine and those of the lab."""
    wanted = catalogue.Program(
        name="register", module=str(FOLDER), version="",
        package="keystone.example/tests/life/register", cgo=False, tags=(), variables={},
    )  # fmt: skip
    return golang.build(wanted)


@dataclass(frozen=True)
class Load:
    """A load that runs. `end` stops it and returns what its history shows."""

    process: subprocess.Popen[bytes]
    file: Path
    log: Path

    def writes(self) -> int:
        """The number of writes that were acknowledged until now."""
        return self.file.read_bytes().count(b'"kind":"ack"') if self.file.exists() else 0

    def end(self) -> history.Verdict:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(END_SECONDS)
        assert code == 0, self.log.read_text()
        return verdict(self.file)


def verdict(file: Path) -> history.Verdict:
    """Return what a history shows."""
    with file.open() as lines:
        return history.check(history.parse(lines))


@contextmanager
def running(folder: Path, words: Sequence[str | Path], at: Sequence[str] = ()) -> Iterator[Load]:
    """Run the load while the block runs. words: its kind and flags; at: words before the program.

    Its history is a new file in `folder`.
    """
    file, log = folder / "history.jsonl", folder / "load.log"
    argv = [*at, program(), *words, "--history", file]
    with spawned(argv, log_file=log) as process:
        yield Load(process, file, log)
