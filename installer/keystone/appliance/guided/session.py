"""The guided way on this machine: look, ask, save on the stick, write the disk."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import log, run
from keystone.appliance import discover, installing, status, write_mark
from keystone.appliance import write as writing
from keystone.appliance.guided import draft as drafts
from keystone.appliance.guided import questions, stick
from keystone.appliance.guided.answers import FIRST, WORKER, WRITE, Seen
from keystone.appliance.guided.screens import Terminal
from keystone.bundle.read.bundle import open_metadata
from keystone.errors import HostError, KeystoneError, PreflightError
from keystone.hosts import observe
from keystone.site import introduction

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from keystone.appliance.guided.answers import Answers, Screen
    from keystone.appliance.identity import Member, Place
    from keystone.appliance.write import Running
    from keystone.hosts.facts import DiskFacts

    Beginning = tuple[Place, Member, Mapping[str, tuple[str, int]]]
    """What a machine becomes a part of, what of it, and what its state begins with for that."""

AGAIN = "Go on"


def main() -> None:
    """Ask until the machine is written and restarted, or the person leaves."""
    now, screen = writing.observe(), Terminal()
    why = discover.REFUSED.read_text() if discover.REFUSED.is_file() else ""
    if why:
        screen.show("Not done unattended", why, AGAIN, "")
    while True:
        try:
            if _once(now, screen):
                run.run(["systemctl", "--no-block", "reboot"])
                return
        except KeystoneError as error:
            screen.show("This did not work", discover.reason(error), AGAIN, "")
        except OSError as error:  # a stick that is full, or was pulled
            where = f"{error.filename}: " if error.filename else ""
            text = f"{where}{error.strerror}\n\nLook at the stick, put it in again, and go on."
            screen.show("This did not work", text, AGAIN, "")


def _once(now: Running, screen: Screen) -> bool:
    """Whether the machine shall restart now."""
    with log.step("look at disks, network cards and sticks"):
        place = discover.stick()
        seen = look(now, place)
    answers = questions.ask(screen, seen)
    if answers is None:
        return False
    if place is None:
        raise PreflightError(
            "no stick labelled KEYSTONE to save this on",
            hint="put one in (FAT or ext4, with that label) and go on",
        )
    with writable(place):
        file = _save(place, answers)
    log.info(f"saved: {file}")
    if answers.what != WRITE:
        screen.show("Saved", f"{file.name} is on the stick. Nothing else was written.", AGAIN, "")
        return False
    _write(now, answers, file)
    return bool(screen.show("Done", _next(answers), "Restart"))


def _save(place: Path, answers: Answers) -> Path:
    if answers.role == WORKER:
        assert answers.join, "a worker's answers are one"
        return stick.save_join(place, answers.join)
    check_keys(place, answers)
    return stick.save(place, answers)


def check_keys(place: Path, answers: Answers) -> None:
    """Raises PreflightError where a site that is whole now lacks keys of others."""
    lost = stick.missing(place, drafts_without(answers)) if answers.role == FIRST else ()
    if lost:
        raise PreflightError(
            f"the keys of {', '.join(lost)} are not on this stick",
            hint="take the stick on which they were described, or describe them again",
        )


def look(now: Running, place: Path | None) -> Seen:
    """What this machine is and what the stick has."""
    seen = observe.disks()
    fingerprint, unusable = _bundle()
    return Seen(
        here=discover.hardware(seen),
        disks=tuple(seen),
        stick=str(place or ""),
        draft=stick.read(place) if place else {},
        join=stick.read_join(place) if place else None,
        keys=stick.public_keys(place) if place else (),
        fingerprint=fingerprint,
        unusable=unusable,
        cards=discover.cards(),
        vouched=status.observe().short(),
        begun=frozenset(disk.serial for disk in seen if _begun(disk)),
        uefi=now.uefi,
    )


def _begun(disk: DiskFacts) -> bool:
    """Whether our mark is on a disk. One that cannot be read is listed as it is."""
    if not disk.serial or disk.size < write_mark.AT + write_mark.SIZE:
        return False
    try:
        return write_mark.is_on(disk.path, disk.serial)
    except HostError as error:
        log.warn(error.message)
        return False


def _bundle() -> tuple[str, str]:
    """Fingerprint of the bundle's own trust root, to be shown: nothing is trusted by that.

    "" without a bundle, and with the reason where it cannot be used: the first Primer alone needs
    it.
    """
    try:
        found = discover.bundle_file()
    except KeystoneError as error:
        return "", discover.reason(error)
    if found is None:
        return "", ""
    try:
        return open_metadata(found, confirm=lambda _: True).fingerprint, ""
    except KeystoneError as error:
        return "", f"{found}: {discover.reason(error)}"


@contextmanager
def writable(place: Path) -> Iterator[None]:
    """The stick is mounted read-only but for this."""
    run.run(["mount", "-o", "remount,rw", place])
    try:
        yield
    finally:
        run.run(["sync", "--file-system", place])
        run.run(["mount", "-o", "remount,ro", place])


def drafts_without(answers: Answers) -> drafts.Document:
    """The Primers that were described before this one."""
    spec = {**answers.whole["spec"]}
    spec["primers"] = [entry for entry in spec["primers"] if entry["name"] != answers.name]
    return {**answers.whole, "spec": spec}


def _write(now: Running, answers: Answers, file: Path) -> None:
    place, node, files = _worker(answers) if answers.role == WORKER else _primer(answers, file)
    plan = installing.plan(now, place, node, answers.system)
    log.info(plan.describe(str(node.address or "an address of DHCP")))
    writing.check_medium(now)  # once more: since it was started, hours may have gone
    installing.write_system(now, place, node, files, plan)


def _primer(answers: Answers, file: Path) -> Beginning:
    whole = drafts.text(answers.whole)
    alone = drafts.parse(drafts.text(drafts.alone(answers.whole, answers.name)))
    wanted = drafts.parse(whole) if answers.role == FIRST else alone
    node = next(node for node in wanted.primers if node.name == answers.name)
    text = whole if answers.role == FIRST else ""
    return wanted, node, introduction.state(wanted, introduction.read(file, node), text)


def _worker(answers: Answers) -> Beginning:
    assert answers.join, "a worker's answers are one"
    mine = next(worker for worker in answers.join.workers if worker.name == answers.name)
    return answers.join, mine, installing.worker_files(answers.join, mine)


def _next(answers: Answers) -> str:
    if answers.role == WORKER:
        return (
            "Take the medium and the stick out: the next worker takes the next token on it. This "
            "machine starts from its disk now and joins by itself; its console says how that goes, "
            "and on a Primer `kubectl get nodes` shows it."
        )
    if answers.role == FIRST:
        return (
            "This machine starts from its disk now and installs the site: leave the stick with the "
            "bundle in, take the medium out, and watch its console."
        )
    return (
        "Take the medium and the stick out and carry them to the next machine. This one starts "
        "from its disk now and waits for the first Primer."
    )
