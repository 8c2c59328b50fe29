"""Run a guided installation on this machine: observe, ask, save to the stick, write the disk."""

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
    """The site or join.yaml, this machine's entry in it, the first files on its state partition."""

CONTINUE = "Continue"


def main() -> None:
    """Ask until the disk is written and the machine restarts; show each error and ask again."""
    now, screen = writing.observe(), Terminal()
    why = discover.REFUSED.read_text() if discover.REFUSED.is_file() else ""
    if why:
        screen.show("Not installed unattended", why, CONTINUE, "")
    while True:
        try:
            if _ask_and_apply(now, screen):
                run.run(["systemctl", "--no-block", "reboot"])
                return
        except KeystoneError as error:
            screen.show("Error", discover.reason(error), CONTINUE, "")
        except OSError as error:  # the stick is full or was removed
            where = f"{error.filename}: " if error.filename else ""
            text = f"{where}{error.strerror}\n\nCheck the stick, insert it again, then continue."
            screen.show("Error", text, CONTINUE, "")


def _ask_and_apply(now: Running, screen: Screen) -> bool:
    """Ask all questions and carry out the answers; True if the machine is to restart now."""
    with log.step("find disks, network cards and sticks"):
        place = discover.stick()
        seen = survey(now, place)
    answers = questions.ask(screen, seen)
    if answers is None:
        return False
    if place is None:
        raise PreflightError(
            "no stick labelled KEYSTONE to save the answers on",
            hint="insert one (FAT or ext4, with that label), then continue",
        )
    with writable(place):
        file = _save(place, answers)
    log.info(f"saved: {file}")
    if answers.what != WRITE:
        text = f"{file.name} is on the stick. Nothing else was written."
        screen.show("Saved", text, CONTINUE, "")
        return False
    _write(now, answers, file)
    return bool(screen.show("Done", _next(answers), "Restart"))


def _save(place: Path, answers: Answers) -> Path:
    if answers.role == WORKER:
        assert answers.join, "the answers for a worker include a join.yaml"
        return stick.save_join(place, answers.join)
    check_keys(place, answers)
    return stick.save(place, answers)


def check_keys(place: Path, answers: Answers) -> None:
    """Raise PreflightError if the site is complete but the stick lacks keys of other Primers."""
    lost = stick.missing(place, drafts_without(answers)) if answers.role == FIRST else ()
    if lost:
        raise PreflightError(
            f"the keys of {', '.join(lost)} are not on this stick",
            hint="insert the stick on which they were described, or describe them again",
        )


def survey(now: Running, place: Path | None) -> Seen:
    """Observe this machine and read the stick mounted at `place`, None without one."""
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
    """Whether a disk has our write mark; False, with a warning, if the disk cannot be read."""
    if not disk.serial or disk.size < write_mark.AT + write_mark.SIZE:
        return False
    try:
        return write_mark.is_on(disk.path, disk.serial)
    except HostError as error:
        log.warn(error.message)
        return False


def _bundle() -> tuple[str, str]:
    """The fingerprint of the bundle's own trust root, and why the bundle cannot be used.

    The fingerprint is only shown; showing it trusts nothing. Both are "" without a bundle. An
    unusable bundle is no error here, because only the first Primer needs one.
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
    """Mount the stick writable inside the block; it is read-only at all other times."""
    run.run(["mount", "-o", "remount,rw", place])
    try:
        yield
    finally:
        run.run(["sync", "--file-system", place])
        run.run(["mount", "-o", "remount,ro", place])


def drafts_without(answers: Answers) -> drafts.Document:
    """The draft without this machine's Primer."""
    spec = {**answers.whole["spec"]}
    spec["primers"] = [entry for entry in spec["primers"] if entry["name"] != answers.name]
    return {**answers.whole, "spec": spec}


def _write(now: Running, answers: Answers, file: Path) -> None:
    place, node, files = _worker(answers) if answers.role == WORKER else _primer(answers, file)
    plan = installing.plan(now, place, node, answers.system)
    log.info(plan.describe(str(node.address or "an address from DHCP")))
    writing.check_medium(now)  # again: the medium may have been verified hours ago
    installing.write_system(now, place, node, files, plan)


def _primer(answers: Answers, file: Path) -> Beginning:
    whole = drafts.text(answers.whole)
    alone = drafts.parse(drafts.text(drafts.alone(answers.whole, answers.name)))
    wanted = drafts.parse(whole) if answers.role == FIRST else alone
    node = next(node for node in wanted.primers if node.name == answers.name)
    text = whole if answers.role == FIRST else ""
    return wanted, node, introduction.state(wanted, introduction.read(file, node), text)


def _worker(answers: Answers) -> Beginning:
    assert answers.join, "the answers for a worker include a join.yaml"
    mine = next(worker for worker in answers.join.workers if worker.name == answers.name)
    return answers.join, mine, installing.worker_files(answers.join, mine)


def _next(answers: Answers) -> str:
    if answers.role == WORKER:
        return (
            "Remove the medium and the stick: the next worker takes the next token on the stick. "
            "This machine now starts from its disk and joins by itself. Its console shows the "
            "progress; on a Primer, `kubectl get nodes` shows the node."
        )
    if answers.role == FIRST:
        return (
            "Leave the stick with the bundle inserted, and remove the medium. This machine now "
            "starts from its disk and installs the site; its console shows the progress."
        )
    return (
        "Remove the medium and the stick and take them to the next machine. This machine now "
        "starts from its disk and waits for the first Primer."
    )
