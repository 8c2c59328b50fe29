"""What happens in each cycle of growth, shrinking and replacement: chosen by a seed. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence

SIZES = (1, 3, 5)
WHOLE = 3
"""With fewer voters, a member that is gone is the majority gone: that is a restore, no cycle."""


@dataclass(frozen=True)
class Cycle:
    """One change of the site file or loss of a disk, and the faults meanwhile.

    kind: grow, shrink, move (another machine in the place of one) or replace (blank disks).
    wiped: whose disk is lost, "" for none. killed: whose member gets SIGKILL, "" for none; it has
    its data and starts again. kill_after, drivers: in seconds after the begin of the change, when
    the member is killed, and when each run of the driver is, one after another.
    """

    kind: str
    target: tuple[str, ...]
    wiped: str = ""
    killed: str = ""
    kill_after: float = 0.0
    drivers: tuple[float, ...] = ()

    @property
    def faulty(self) -> bool:
        """Whether a member is lost without notice, so that its clients have to wait."""
        return bool(self.wiped or self.killed)


def cycles(chance: random.Random, names: Sequence[str], first: Sequence[str]) -> Iterator[Cycle]:
    """Yield cycles without end. names: all machines; first: the members at the begin."""
    members = tuple(first)
    while True:
        cycle = _cycle(chance, names, members)
        yield cycle
        members = cycle.target


def _cycle(chance: random.Random, names: Sequence[str], members: tuple[str, ...]) -> Cycle:
    size, spare = len(members), [name for name in names if name not in members]
    kinds = [
        *(["grow"] if size < max(SIZES) else []),
        *(["shrink"] if size > min(SIZES) else []),
        *(["replace"] if size >= WHOLE else []),
        *(["move"] if size >= WHOLE and spare else []),
    ]
    kind, wiped, target = chance.choice(kinds), "", members
    match kind:
        case "grow":
            target = (*members, *chance.sample(spare, 2))
        case "shrink":
            target = tuple(chance.sample(members, size - 2))
        case "move":
            gone = chance.choice(members)
            target = tuple(chance.choice(spare) if name == gone else name for name in members)
        case _:
            wiped = chance.choice(members)
    # Two members gone of three would be the majority.
    may_kill = size >= WHOLE and not (wiped and size == WHOLE)
    killed = chance.choice(members) if may_kill and chance.random() < 1 / 3 else ""
    drivers = tuple(chance.uniform(0.3, 6) for _ in range(chance.choice((0, 0, 1, 3))))
    return Cycle(kind, target, wiped, "" if killed == wiped else killed,
                 chance.uniform(0, 6), drivers)  # fmt: skip
