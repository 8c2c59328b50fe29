"""What a person is shown and asked on a medium: a Screen, what is Seen, and the Answers."""

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
    """One line to fill in. value: what it holds at first. secret: not shown."""

    key: str
    label: str
    value: str = ""
    secret: bool = False


class Screen(Protocol):
    """A terminal. Each method gives None when the person wants to go back."""

    def choose(
        self, title: str, text: str, options: Sequence[tuple[str, str]], default: str
    ) -> str | None:
        """One of the options: value and label."""

    def mark(
        self, title: str, text: str, options: Sequence[tuple[str, str]], marked: Sequence[str]
    ) -> tuple[str, ...] | None:
        """Any of the options."""

    def fill(
        self,
        title: str,
        text: str,
        fields: Sequence[Field],
        wrong: Callable[[dict[str, str]], str],
    ) -> dict[str, str] | None:
        """All fields by key; asked until `wrong` has nothing to say."""

    def show(self, title: str, text: str, button: str, back: str = "Back") -> bool:
        """Text to read; False to go back. back: how that is called, "" where there is no way."""


@dataclass(frozen=True)
class Seen:
    """What this machine and the stick are.

    stick: where it is, "" without one. draft: what it has of the site already. join: its join.yaml,
    None without one. keys: public keys that were found on it. fingerprint: of the bundle's trust
    root, "" without a bundle. unusable: why the one that is there cannot be used. cards: of the
    network, by MAC, in words. vouched: one line of who vouches for the running system. begun: disks
    with our mark on them, by serial number. uefi: this machine was started by UEFI, not by a BIOS.
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
    """Everything that was answered.

    whole: the draft with this machine in it. join: join.yaml with it, for a worker. what: WRITE the
    disk, or only SAVE what was said.
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


def few(lines: Sequence[str]) -> str:
    """As many as a screen of 24 lines bears beside what must be read on it."""
    shown = [f"  {line}" for line in lines[:MOST]]
    if len(lines) > MOST:
        shown.append(f"  and {len(lines) - MOST} more")
    return "\n".join(shown)
