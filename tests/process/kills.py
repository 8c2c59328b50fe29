"""Run commands in a folder and kill them (SIGKILL) at random moments; for tests of any verb.

KEYSTONE_KILLS: number of kills for each verb (default 4, `make test` 5, `make kills` 25).
KEYSTONE_SEED: repeats a run; every message contains the seed.
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
"""Kills before a run may end undisturbed."""
TIMEOUT = 300


class Workspace:
    """A folder in which the program runs, with a separate cache."""

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
        out, errors = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0, errors
        return out

    def timed(self, *words: str) -> float:
        """Seconds of an undisturbed run."""
        start = time.monotonic()
        self.run(*words)
        return time.monotonic() - start

    def killed(self, seconds: float, *words: str) -> bool:
        """Kill the command after `seconds`. Returns whether it was still running."""
        process = self.start(*words)
        try:
            process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return True
        return False


class Chains:
    """Kills several runs in a row, then lets one run end; repeats until there were enough kills.

    ready: called before each chain. check: called after each kill. ended: called after the run that
    ended, with its output. interrupted: number of kills after which `unfinished` was true.
    """

    def __init__(
        self, workspace: Workspace, seconds: float, unfinished: Callable[[], bool]
    ) -> None:
        self.workspace, self.seconds, self.unfinished = workspace, seconds, unfinished
        self.kills = self.interrupted = 0

    def run(
        self,
        words: Callable[[], tuple[str, ...]],
        check: Callable[[], None],
        ended: Callable[[str], None],
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        rng = random.Random(SEED)
        while self.kills < KILLS:
            ready()
            for _ in range(min(IN_A_ROW, KILLS - self.kills)):
                # Python needs half a second to start, and each run of a chain has less left to do.
                if not self.workspace.killed(rng.uniform(0.1, self.seconds), *words()):
                    break
                self.kills += 1
                self.interrupted += self.unfinished()
                check()
            ended(self.workspace.run(*words()))
        # `pytest -s` shows the number of kills that interrupted work.
        sys.stdout.write(f"\n{self.kills} kills, {self.interrupted} interrupted work\n")


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
