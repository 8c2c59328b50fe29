"""Questions for every machine, Primer or worker: its network card and the disk for its system."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from keystone import log
from keystone.appliance import write as writing
from keystone.appliance.guided import draft as drafts
from keystone.appliance.guided.answers import first_lines
from keystone.hosts.facts import twins
from keystone.storage import plan as storage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.appliance.guided.answers import Answers, Screen, Seen
    from keystone.appliance.identity import Card
    from keystone.hosts.facts import DiskFacts


def card(screen: Screen, seen: Seen, answers: Answers, nodes: object) -> Answers | None:
    """Ask which network card gets the address, unless there is only one card.

    nodes: the site's network, to be shown.
    """
    if len(seen.cards) <= 1:
        return answers
    known = answers.card if answers.card in seen.cards else _with_cable(seen.cards)
    chosen = screen.choose(
        "The network card",
        f"Choose the card that is connected to {nodes}. It gets "
        f"{answers.address or 'its address from DHCP'}.",
        [(mac, f"{mac}  {card.describe()}") for mac, card in seen.cards.items()],
        known,
    )
    return None if chosen is None else replace(answers, card=chosen)


def _with_cable(cards: Mapping[str, Card]) -> str:
    """The first card with a cable, else the first card."""
    plugged = [mac for mac, card in cards.items() if card.cable]
    return (plugged or list(cards))[0]


def system(screen: Screen, seen: Seen, answers: Answers) -> Answers | None:
    """Ask for the disk for the system: blank, or with an incomplete write of ours."""
    usable = [disk for disk in seen.disks if not _unusable(seen, disk)]
    if not usable:
        screen.show(
            "The system's disk",
            f"No disk can be used. The system needs a blank disk of "
            f"{log.size(drafts.SYSTEM_LEAST)} or more:\n\n{_refused(seen)}\n\n"
            "If you need nothing on one of these disks, erase its signatures in the shell (F2): "
            "wipefs --all /dev/...",
            "Back",
        )
        return None
    options = [(disk.serial, drafts.about(disk, seen.begun)) for disk in usable]
    default = answers.system if answers.system in dict(options) else options[-1][0]
    chosen = screen.choose(
        "The system's disk",
        "Keystone's system is written to this disk. Not offered, because not blank or not "
        f"suitable:\n{_refused(seen) or '  none'}",
        options,
        default,
    )
    return None if chosen is None else replace(answers, system=chosen)


def content(seen: Seen, serial: str) -> str:
    """What is on the chosen disk now, for the last page."""
    (disk,) = (disk for disk in seen.disks if disk.serial == serial)
    return "incomplete write" if storage.found_on(disk) else "blank"


def _refused(seen: Seen) -> str:
    return first_lines(
        [
            f"{disk.serial or disk.path}: {why}"
            for disk in seen.disks
            if (why := _unusable(seen, disk))
        ]
    )


def _unusable(seen: Seen, disk: DiskFacts) -> str:
    """Why the system cannot be written to this disk; "" if it can."""
    if disk.serial and disk.serial in twins(seen.disks):
        return "another disk has the same serial number"
    return drafts.unusable(
        disk, drafts.SYSTEM_LEAST, seen.begun, system=True
    ) or writing.not_started(disk, uefi=seen.uefi)
