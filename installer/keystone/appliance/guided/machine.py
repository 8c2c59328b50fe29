"""What is asked of every machine, whatever it becomes: its network card and its system's disk."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from keystone import log
from keystone.appliance import write as writing
from keystone.appliance.guided import draft as drafts
from keystone.appliance.guided.answers import few
from keystone.hosts.facts import twins
from keystone.storage import plan as storage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.appliance.guided.answers import Answers, Screen, Seen
    from keystone.appliance.identity import Card
    from keystone.hosts.facts import DiskFacts


def card(screen: Screen, seen: Seen, answers: Answers, nodes: object) -> Answers | None:
    """Which card has the address: there is nothing to ask where there is only one.

    nodes: the site's network.
    """
    if len(seen.cards) <= 1:
        return answers
    known = answers.card if answers.card in seen.cards else _with_cable(seen.cards)
    chosen = screen.choose(
        "The network card",
        f"{answers.address or 'The address of DHCP'} is given to the card that is in {nodes}.",
        [(mac, f"{mac}  {card.describe()}") for mac, card in seen.cards.items()],
        known,
    )
    return None if chosen is None else replace(answers, card=chosen)


def _with_cable(cards: Mapping[str, Card]) -> str:
    """The first one with a cable, else the first."""
    plugged = [mac for mac, card in cards.items() if card.cable]
    return (plugged or list(cards))[0]


def system(screen: Screen, seen: Seen, answers: Answers) -> Answers | None:
    """Which disk the system is written to: a blank one, or one on which a write of ours was cut."""
    usable = [disk for disk in seen.disks if not _why(seen, disk)]
    if not usable:
        screen.show(
            "The system's disk",
            f"No disk can be written. One that is blank and has {log.size(drafts.SYSTEM_LEAST)} "
            f"or more is needed:\n\n{_refused(seen)}\n\n"
            "If nothing on one of them is needed, empty it in the shell: wipefs --all /dev/...",
            "Back",
        )
        return None
    options = [(disk.serial, drafts.about(disk, seen.begun)) for disk in usable]
    default = answers.system if answers.system in dict(options) else options[-1][0]
    chosen = screen.choose(
        "The system's disk",
        "Keystone's own system is written to it. Not offered, because it is not blank or not "
        f"fit:\n{_refused(seen) or '  nothing'}",
        options,
        default,
    )
    return None if chosen is None else replace(answers, system=chosen)


def was(seen: Seen, serial: str) -> str:
    """What is on the disk that was chosen, for the last page."""
    (disk,) = (disk for disk in seen.disks if disk.serial == serial)
    return "a write of ours was cut" if storage.found_on(disk) else "it is blank"


def _refused(seen: Seen) -> str:
    return few(
        [f"{disk.serial or disk.path}: {why}" for disk in seen.disks if (why := _why(seen, disk))]
    )


def _why(seen: Seen, disk: DiskFacts) -> str:
    """Why the system cannot be on this disk; "" when it can."""
    if disk.serial and disk.serial in twins(seen.disks):
        return "another disk has the same serial number"
    return drafts.unusable(
        disk, drafts.SYSTEM_LEAST, seen.begun, system=True
    ) or writing.not_started(disk, uefi=seen.uefi)
