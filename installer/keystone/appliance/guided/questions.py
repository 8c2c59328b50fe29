"""The questions of a guided installation and their order. This module changes nothing.

Each step takes the answers so far and returns them with its own added, or None to go back one step.
Earlier answers are the defaults, so going back and forth loses nothing. The questions for workers
only are in worker.py, those for every machine in machine.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from keystone import passphrase
from keystone.appliance.guided import draft as drafts
from keystone.appliance.guided import machine, worker
from keystone.appliance.guided.answers import (
    FIRST,
    JOINING,
    SAVE,
    WORKER,
    WRITE,
    Answers,
    Field,
    first_lines,
)
from keystone.appliance.guided.draft import Primer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keystone.appliance.guided.answers import Screen, Seen
    from keystone.appliance.identity import Hardware

RESCAN = "Rescan"
"""The first page has this button instead of Back: a stick may have been inserted meanwhile."""


def ask(screen: Screen, seen: Seen) -> Answers | None:
    """Ask all questions; None if the person chooses Rescan on the first page."""
    primer = (_site, _machine, _card, machine.system, _pool, _trust, _bundle, _review)
    answers = Answers(draft=seen.draft, fingerprint=seen.fingerprint)
    done: list[int] = []
    number = 0
    while True:
        steps = (_welcome, _role, *(worker.STEPS if answers.role == WORKER else primer))
        if number == len(steps):
            return answers
        given = steps[number](screen, seen, answers)
        if given is None:
            if not done:
                return None
            number = done.pop()
            continue
        if given is not answers:  # going back skips a step that had nothing to ask
            done.append(number)
        answers, number = given, number + 1


def _welcome(screen: Screen, seen: Seen, answers: Answers) -> Answers | None:
    disks = first_lines([drafts.about(disk, seen.begun) for disk in seen.disks]) or "  none"
    stick = f"on the stick {seen.stick}" if seen.stick else "no stick labelled KEYSTONE: insert one"
    primers = answers.draft["spec"]["primers"] if answers.draft else ()
    known = [
        entry["name"] + ("" if "machine" in entry else " (not described yet)") for entry in primers
    ]
    text = (
        f"This machine: {seen.here.describe()}\n"
        f"{_identified_by(seen.here)}"
        f"{seen.vouched}\n"
        f"Site so far:  {', '.join(known) or 'nothing'} ({stick})\n"
        f"Disks:\n{disks}\n\n"
        "Nothing is written until you confirm it on the last page.\n"
        "Describe the joining Primers first, each at its own machine with the same stick, then the "
        "first Primer, which installs the site. Add workers last."
    )
    return replace(answers) if screen.show("Keystone", text, "Continue", RESCAN) else None


def _identified_by(here: Hardware) -> str:
    """A line on how the site file identifies a machine without a serial number; else ""."""
    if here.serial:
        return ""
    if here.macs:
        return "The site file identifies it by its MAC addresses instead, which is sufficient.\n"
    return (
        "A site file cannot identify it: install a network card or set a serial number in its "
        "firmware, then choose Rescan.\n"
    )


def _role(screen: Screen, seen: Seen, answers: Answers) -> Answers | None:
    likely = WORKER if seen.join and not answers.draft else _likely(answers.draft)
    role = screen.choose(
        "Role of this machine",
        "A site has 1, 3 or 5 Primers. Workers join the running site: from this medium with a "
        "token on the stick, or from any Linux with one command.",
        (
            (JOINING, "a joining Primer"),
            (FIRST, "the first Primer: installs the site (describe all others before)"),
            (WORKER, "a worker"),
        ),
        answers.role or likely,
    )
    return None if role is None else replace(answers, role=role)


def _likely(draft: drafts.Document) -> str:
    """The first Primer if the site file's other Primers are all described, else a joining one."""
    waiting = drafts.waiting(draft, first=True) if draft else ()
    return FIRST if len(waiting) == 1 and waiting[0] is draft["spec"]["primers"][0] else JOINING


def _site(screen: Screen, seen: Seen, answers: Answers) -> Answers | None:
    if answers.draft and answers.draft["spec"]["primers"]:
        return answers
    known = answers.draft or drafts.begin("site", "10.77.0.0/24", "")
    networks = known["spec"]["networks"]
    given = screen.fill(
        "The site",
        "The network contains all Primers. Leave the gateway empty if there is none.",
        (
            Field("name", "Site", known["metadata"]["name"]),
            Field("nodes", "Network", networks["nodes"]),
            Field("gateway", "Gateway", networks.get("gateway", "")),
        ),
        lambda fields: drafts.wrong_site(fields["name"], fields["nodes"], fields["gateway"]),
    )
    if given is None:
        return None
    layout = screen.choose(
        "Pools",
        "Every Primer has one ZFS pool for etcd, images and volumes.",
        (
            ("mirror", "two disks in each Primer (mirror): one may fail"),
            ("single", "one disk in each Primer: if it fails, the pool is lost"),
        ),
        known["spec"]["storage"]["layout"],
    )
    if layout is None:
        return _site(screen, seen, answers)
    draft = drafts.begin(
        given["name"], given["nodes"], given["gateway"], layout=layout, keys=seen.keys
    )
    return replace(answers, draft=draft)


def _machine(screen: Screen, seen: Seen, answers: Answers) -> Answers | None:
    draft, first = answers.draft, answers.role == FIRST
    own, waiting = drafts.described(draft, seen.here), drafts.waiting(draft, first=first)
    if waiting or (own and drafts.waiting(draft, first=True)):
        return _from_site_file(screen, answers, own, waiting)
    known = own[0] if own else {"name": drafts.free_name(draft, first=first), "address": ""}
    given = screen.fill(
        "This machine",
        f"The name of this machine, and its address in {draft['spec']['networks']['nodes']}.",
        (
            Field("name", "Name", answers.name or known["name"]),
            Field("address", "Address", answers.address or known["address"]),
        ),
        lambda fields: drafts.wrong_primer(draft, fields["name"], fields["address"], seen.here),
    )
    return None if given is None else replace(answers, name=given["name"], address=given["address"])


def _from_site_file(
    screen: Screen,
    answers: Answers,
    own: Sequence[drafts.Document],
    waiting: Sequence[drafts.Document],
) -> Answers | None:
    """Ask which Primer of the site file this machine is; its disks in the file are the defaults.

    own: the Primers that the site file already assigns to this machine.
    """
    by_name = {entry["name"]: entry for entry in (*own, *waiting)}
    if own:
        what = f"says that this machine is {own[0]['name']}"
    else:
        what = "does not say which Primer this machine is"
    name = screen.choose(
        "This machine",
        f"The site file {what}. Your choice is written to the site file.",
        [(name, f"{name:<16} {entry['address']}") for name, entry in by_name.items()],
        answers.name if answers.name in by_name else next(iter(by_name)),
    )
    if name is None:
        return None
    chosen, before = by_name[name], answers if name == answers.name else Answers()
    return replace(
        answers,
        name=name,
        address=chosen["address"],
        system=before.system or chosen.get("systemDisk", ""),
        pool=before.pool or tuple(disk["serial"] for disk in chosen["disks"]),
    )


def _card(screen: Screen, seen: Seen, answers: Answers) -> Answers | None:
    return machine.card(screen, seen, answers, answers.draft["spec"]["networks"]["nodes"])


def _pool(screen: Screen, seen: Seen, answers: Answers) -> Answers | None:
    usable = [disk for disk in drafts.usable(seen.disks) if disk.serial != answers.system]
    text = "Mark the disks for the pool. Only blank disks are listed."
    while True:
        marked = screen.mark(
            "The pool's disks",
            text,
            [(disk.serial, drafts.about(disk)) for disk in usable],
            [disk.serial for disk in usable if disk.serial in answers.pool],
        )
        if marked is None:
            return None
        wrong = drafts.wrong_pool(answers.draft, marked)
        answers = replace(answers, pool=marked)
        if not wrong:
            return answers
        text = f"Not accepted: {wrong}."


def _trust(screen: Screen, _seen: Seen, answers: Answers) -> Answers | None:
    if answers.role != FIRST:
        return answers

    def wrong(fields: dict[str, str]) -> str:
        if fields["passphrase"] != fields["again"]:
            return "the two passphrases are not the same"
        return passphrase.wrong(fields["passphrase"])

    given = screen.fill(
        "The root of trust",
        "This passphrase encrypts the site's root key. The key is made on this machine; move it "
        "elsewhere after the first run.",
        (
            Field("passphrase", "Passphrase", answers.passphrase, secret=True),
            Field("again", "Again", answers.passphrase, secret=True),
        ),
        wrong,
    )
    return None if given is None else replace(answers, passphrase=given["passphrase"])


def _bundle(screen: Screen, seen: Seen, answers: Answers) -> Answers | None:
    if answers.role != FIRST:
        return answers
    if not seen.fingerprint:
        why = seen.unusable or "There is no bundle offline.tar on the stick or the medium."
        text = (
            f"{why}\n\nYou can write this machine without a bundle. Later, insert a stick labelled "
            "KEYSTONE with a bundle and run the installation by hand: nobody has confirmed the "
            "fingerprint of that bundle yet."
        )
        return replace(answers) if screen.show("The bundle", text, "Continue") else None
    answer = screen.choose(
        "The bundle",
        "The fingerprint of its trust root is\n\n"
        f"  {seen.fingerprint}\n\n"
        "Is it the fingerprint that the packager gave you out of band, not on this stick?",
        (("no", "no, or I do not know: do not trust it"), ("yes", "yes, every character matches")),
        "no",
    )
    if answer is None:
        return None
    return replace(answers, fingerprint=seen.fingerprint if answer == "yes" else "")


def _review(screen: Screen, seen: Seen, answers: Answers) -> Answers | None:
    primer = Primer(answers.name, answers.address, answers.system, answers.pool, answers.card)
    draft = drafts.with_keys(answers.draft, seen.keys)
    whole = drafts.add(draft, primer, seen.here, first=answers.role == FIRST)
    if answers.role == FIRST and (wrong := drafts.wrong_whole(whole)):
        screen.show(
            "Site incomplete",
            f"This site cannot be installed yet: {wrong}.\n\nGo back and make this machine a "
            "joining Primer, or describe the others first, each at its own machine.",
            "Back",
        )
        return None
    primers = "\n".join(
        f"  {entry['name']:<12} {entry['address']:<15} system {entry.get('systemDisk', '-')}, pool "
        f"{', '.join(disk['serial'] for disk in entry['disks'])}"
        for entry in whole["spec"]["primers"]
    )
    nodes = whole["spec"]["networks"]["nodes"]
    text = (
        f"Site {whole['metadata']['name']}, network {nodes}\n{primers}\n\n"
        f"Written now:  all of disk {answers.system} ({machine.content(seen, answers.system)})\n"
        f"Later:        pool on {', '.join(answers.pool)}, when the site is installed\n"
        f"Log in:       {drafts.login(len(whole['spec']['ssh']['authorizedKeys']))}\n"
    )
    what = screen.choose(
        "Review",
        text,
        ((SAVE, "only save this on the stick"), (WRITE, f"write disk {answers.system} now")),
        SAVE,
    )
    return None if what is None else replace(answers, what=what, whole=whole)
