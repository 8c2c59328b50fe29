"""Types of a guided installation: the Screen, what was Seen of the machine, and the Answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from keystone.appliance.guided.draft import Document

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from keystone.appliance.identity import Card, Hardware
    from keystone.hosts.facts import DiskFacts
    from keystone.join.join_yaml import Join

FIRST, JOINING, WORKER = "first", "joining", "worker"
SAVE, WRITE = "save", "write"
MOST = 5


@dataclass(frozen=True)
class Field:
    """One line to fill in. value: its initial text. secret: the text is not shown."""

    key: str
    label: str
    value: str = ""
    secret: bool = False


class Screen(Protocol):
    """A terminal. Each method returns None, and `show` False, to go back."""

    def choose(
        self, title: str, text: str, options: Sequence[tuple[str, str]], default: str
    ) -> str | None:
        """Ask for one of the options, each a value and a label."""

    def mark(
        self, title: str, text: str, options: Sequence[tuple[str, str]], marked: Sequence[str]
    ) -> tuple[str, ...] | None:
        """Ask for any number of the options."""

    def fill(
        self,
        title: str,
        text: str,
        fields: Sequence[Field],
        wrong: Callable[[dict[str, str]], str],
    ) -> dict[str, str] | None:
        """Ask for all fields, by key, until `wrong` returns "" for them."""

    def show(self, title: str, text: str, button: str, back: str = "Back") -> bool:
        """Show a text; False to go back. back: the label of that button, "" for no such button."""


@dataclass(frozen=True)
class Seen:
    """What was observed of this machine and its stick.

    stick: its mount point, "" without one. draft: the draft or site file on it, empty without one.
    join: its join.yaml, None without one. keys: the public keys on it. fingerprint: of the bundle's
    trust root, "" without a bundle. unusable: why the bundle cannot be used, "" if it can. cards:
    network cards by MAC. vouched: one line on who vouches for the running system. begun: serial
    numbers of disks with our write mark. uefi: UEFI started this machine, not a BIOS.
    """

    here: Hardware
    disks: tuple[DiskFacts, ...]
    stick: str = ""
    draft: Document = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    fingerprint: str = ""
    cards: Mapping[str, Card] = field(default_factory=dict)
    vouched: str = ""
    join: Join | None = None
    begun: frozenset[str] = frozenset()
    uefi: bool = True
    unusable: str = ""


@dataclass(frozen=True)
class Answers:
    """All answers of a person at one machine.

    whole: the draft including this machine. join: for a worker, the join.yaml including it. what:
    WRITE the disk, or only SAVE the answers on the stick.
    """

    draft: Document = field(default_factory=dict)
    role: str = ""
    name: str = ""
    address: str = ""
    card: str = ""
    system: str = ""
    pool: tuple[str, ...] = ()
    passphrase: str = ""
    fingerprint: str = ""
    what: str = ""
    whole: Document = field(default_factory=dict)
    join: Join | None = None


def first_lines(lines: Sequence[str]) -> str:
    """The first MOST lines and a count of the others, so that a page of 24 lines has room."""
    shown = [f"  {line}" for line in lines[:MOST]]
    if len(lines) > MOST:
        shown.append(f"  and {len(lines) - MOST} more")
    return "\n".join(shown)
