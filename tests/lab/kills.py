"""Run a command on a machine and kill it (SIGKILL) at random moments, until it comes to its end.

KEYSTONE_LAB_KILLS: number of kills of each command (default 3; `make life`: 30). KEYSTONE_SEED
repeats the moments of a run; the log has the seed.
"""

from __future__ import annotations

import os
import random
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone import log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keystone.run import Host, Result

KILLS = int(os.environ.get("KEYSTONE_LAB_KILLS", "3"))
SEED = int(os.environ.get("KEYSTONE_SEED", "0")) or random.randrange(1 << 32)
KILLED = 128 + 9


@dataclass(frozen=True)
class Ended:
    """How it went: the number of kills, and the result of the run that nothing disturbed."""

    kills: int
    result: Result


def killed(
    host: Host, argv: Sequence[str], chance: random.Random, kills: int, seconds: float
) -> Ended:
    """Kill a command up to `kills` times, each run within `seconds`; then let it run to its end.

    A run that ends before its moment is the end. Only the process of the command gets the signal:
    what it started must end by itself.
    """
    for number in range(kills):
        moment = chance.uniform(0.5, seconds)
        log.info(f"seed {SEED}: kill {number + 1} after {moment:.1f} s: {shlex.join(argv)[:60]}")
        limit = ["timeout", "--foreground", "--signal", "KILL", f"{moment:.1f}"]
        done = host.run([*limit, *argv], check=False, timeout=3500)
        if done.returncode != KILLED:
            return Ended(number, done)
    return Ended(kills, host.run(list(argv), check=False, timeout=3500))
