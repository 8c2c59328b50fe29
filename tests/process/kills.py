"""kill -9 at random moments, for tests of any verb: commands in a folder, and chains of kills.

KEYSTONE_KILLS: how many of each verb (4 by default, `make test` 5, `make kills` 25).
KEYSTONE_SEED: repeats a run; the seed is in every message.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess  # noqa: TID251 the commands are tried from outside
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

KILLS = int(os.environ.get("KEYSTONE_KILLS", "4"))
SEED = int(os.environ.get("KEYSTONE_SEED", "0")) or random.randrange(1 << 32)
IN_A_ROW = 5
"""Kills before a run is left to end."""
TIMEOUT = 300


class Ground:
    """A folder in which the program is run, with a cache of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, *words: str) -> subprocess.Popen[str]:
        env = {**os.environ, "XDG_CACHE_HOME": str(self.folder / "cache"), "NO_PROXY": "*"}
        return subprocess.Popen(
            [sys.executable, "-m", "keystone", *words], cwd=self.folder, env=env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *words: str) -> str:
        process = self.start(*words)
        out, said = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0, said
        return out

    def timed(self, *words: str) -> float:
        """Seconds of a run that nobody disturbs."""
        start = time.monotonic()
        self.run(*words)
        return time.monotonic() - start

    def killed(self, seconds: float, *words: str) -> bool:
        """Whether the command still ran when it was killed."""
        process = self.start(*words)
        try:
            process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return True
        return False


class Chains:
    """Kills in a row, then a run that is left to end, until there were enough kills.

    ready: before each chain. look: after each kill. ended: what the last run printed; after it.
    cut: how many kills left something to go on with, as `unfinished` sees it.
    """

    def __init__(self, ground: Ground, seconds: float, unfinished: Callable[[], bool]) -> None:
        self.ground, self.seconds, self.unfinished = ground, seconds, unfinished
        self.kills = self.cut = 0

    def run(
        self,
        words: Callable[[], tuple[str, ...]],
        look: Callable[[], None],
        ended: Callable[[str], None],
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        rng = random.Random(SEED)
        while self.kills < KILLS:
            ready()
            for _ in range(min(IN_A_ROW, KILLS - self.kills)):
                # The first half second is Python's start; a chain has less to do with each link.
                if not self.ground.killed(rng.uniform(0.1, self.seconds), *words()):
                    break
                self.kills += 1
                self.cut += self.unfinished()
                look()
            ended(self.ground.run(*words()))
        # `pytest -s` shows how many were in the middle of something.
        sys.stdout.write(f"\n{self.kills} kills, {self.cut} left something unfinished\n")


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree(folder: Path) -> dict[str, str]:
    """Every file by name and digest."""
    return {
        str(path.relative_to(folder)): digest(path)
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }
