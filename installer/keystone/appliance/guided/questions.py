"""What is asked on a medium, and in which order. It asks a Screen and decides; nothing is touched.

Each step takes the answers so far and gives the answers with its own, or None to go back one step.
What was answered before is the default, so going back and forth loses nothing. What is asked of a
worker is in worker.py, of every machine in machine.py.
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
    few,
)
from keystone.appliance.guided.draft import Primer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keystone.appliance.guided.answers import Screen, Seen
    from keystone.appliance.identity import Hardware

LOOK_AGAIN = "Look again"
"""On the first page, in the place of Back: the stick may have been put in meanwhile."""


def ask(screen: Screen, seen: Seen) -> Answers | None:
    """All of it; None when the person leaves the first page: the machine is looked at again."""
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
        if given is not answers:  # a step that has nothing to ask here is not gone back to
            done.append(number)
        answers, number = given, number + 1


def _welcome(screen: Screen, seen: Seen, answers: Answers) -> Answers | None:
    disks = few([drafts.about(disk, seen.begun) for disk in seen.disks]) or "  none"
    stick = f"on the stick {seen.stick}" if seen.stick else "no stick labelled KEYSTONE: take one"
    primers = answers.draft["spec"]["primers"] if answers.draft else ()
    known = [entry["name"] + ("" if "machine" in entry else " (not yet)") for entry in primers]
    text = (
        f"This machine: {seen.here.describe()}\n"
        f"{_known_by(seen.here)}"
        f"{seen.vouched}\n"
        f"Site so far:  {', '.join(known) or 'nothing'} ({stick})\n"
        f"Disks:\n{disks}\n\n"
        "Nothing is written before you have seen all of it on the last page.\n"
        "Describe the joining Primers first, each at its own machine, with the same stick; the "
        "first Primer comes last and installs the site; then workers."
    )
    return replace(answers) if screen.show("Keystone", text, "Go on", LOOK_AGAIN) else None


def _known_by(here: Hardware) -> str:
    """A line of what a machine without a serial number is known by; "" for one that has it."""
    if here.serial:
        return ""
    if here.macs:
        return "The site file names it by its MAC addresses instead: they are enough.\n"
    return (
        "So a site file cannot name it: put in a network card or set a serial number in its "
        "firmware, then look again.\n"
    )


def _role(screen: Screen, seen: Seen, answers: Answers) -> Answers | None:
    likely = WORKER if seen.join and not answers.draft else _likely(answers.draft)
    role = screen.choose(
        "What this machine is",
        "A site has 1, 3 or 5 Primers. Workers join when it runs: from here with a token on the "
        "stick, or any Linux by one command.",
        (
            (JOINING, "a joining Primer"),
            (FIRST, "the first Primer: all others are described, it installs the site"),
            (WORKER, "a worker"),
        ),
        answers.role or likely,
    )
    return None if role is None else replace(answers, role=role)


def _likely(draft: drafts.Document) -> str:
    """The first Primer, when a site file's others are all described; else a joining one."""
    waiting = drafts.waiting(draft, first=True) if draft else ()
    return FIRST if len(waiting) == 1 and waiting[0] is draft["spec"]["primers"][0] else JOINING


def _site(screen: Screen, seen: Seen, answers: Answers) -> Answers | None:
    if answers.draft and answers.draft["spec"]["primers"]:
        return answers
    known = answers.draft or drafts.begin("site", "10.77.0.0/24", "")
    networks = known["spec"]["networks"]
    given = screen.fill(
        "The site",
        "The network is the one that all Primers are in. Leave the gateway empty without one.",
        (
            Field("name", "Site", known["metadata"]["name"]),
            Field("nodes", "Network", networks["nodes"]),
            Field("gateway", "Gateway", networks.get("gateway", "")),
        ),
        lambda said: drafts.wrong_site(said["name"], said["nodes"], said["gateway"]),
    )
    if given is None:
        return None
    layout = screen.choose(
        "Pools",
        "Every Primer has one ZFS pool for etcd, images and volumes.",
        (
            ("mirror", "two disks in each Primer, a mirror: one may fail"),
            ("single", "one disk in each Primer: the pool is lost with it"),
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
        return _expected(screen, answers, own, waiting)
    known = own[0] if own else {"name": drafts.free_name(draft, first=first), "address": ""}
    given = screen.fill(
        "This machine",
        f"Its name, and its address in {draft['spec']['networks']['nodes']}.",
        (
            Field("name", "Name", answers.name or known["name"]),
            Field("address", "Address", answers.address or known["address"]),
        ),
        lambda said: drafts.wrong_primer(draft, said["name"], said["address"], seen.here),
    )
    return None if given is None else replace(answers, name=given["name"], address=given["address"])


def _expected(
    screen: Screen,
    answers: Answers,
    own: Sequence[drafts.Document],
    waiting: Sequence[drafts.Document],
) -> Answers | None:
    """Which of the Primers that the site file has. What it says of disks is marked beforehand.

    own: those that this machine was said to be.
    """
    by_name = {entry["name"]: entry for entry in (*own, *waiting)}
    what = f"says that this is {own[0]['name']}" if own else "does not say which one this is"
    name = screen.choose(
        "This machine",
        f"The site file {what}. What you choose is written into it.",
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
    text = "The pool is made of what you mark. Blank disks only."
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
        text = f"Not yet: {wrong}."


def _trust(screen: Screen, _seen: Seen, answers: Answers) -> Answers | None:
    if answers.role != FIRST:
        return answers

    def wrong(said: dict[str, str]) -> str:
        if said["passphrase"] != said["again"]:
            return "the two are not the same"
        return passphrase.wrong(said["passphrase"])

    given = screen.fill(
        "The root of trust",
        "A passphrase guards the site's root key, which is made here and then carried away.",
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
            f"{why}\n\nThe machine is written all the same; when a stick labelled KEYSTONE with a "
            "bundle is put in, you install it by hand, for nobody vouches for that bundle now."
        )
        return replace(answers) if screen.show("The bundle", text, "Go on") else None
    said = screen.choose(
        "The bundle",
        "Its trust root has the fingerprint\n\n"
        f"  {seen.fingerprint}\n\n"
        "Is that what its makers told you, by another way than this stick?",
        (("no", "no, or I do not know: do not trust it"), ("yes", "yes, letter by letter")),
        "no",
    )
    if said is None:
        return None
    return replace(answers, fingerprint=seen.fingerprint if said == "yes" else "")


def _review(screen: Screen, seen: Seen, answers: Answers) -> Answers | None:
    primer = Primer(answers.name, answers.address, answers.system, answers.pool, answers.card)
    draft = drafts.with_keys(answers.draft, seen.keys)
    whole = drafts.add(draft, primer, seen.here, first=answers.role == FIRST)
    if answers.role == FIRST and (wrong := drafts.wrong_whole(whole)):
        screen.show(
            "Not complete",
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
        f"Now written:  disk {answers.system}, all of it ({machine.was(seen, answers.system)})\n"
        f"Later:        the pool on {', '.join(answers.pool)}, when the site is installed\n"
        f"Log in:       {drafts.login(len(whole['spec']['ssh']['authorizedKeys']))}\n"
    )
    what = screen.choose(
        "Review",
        text,
        ((SAVE, "only save this on the stick"), (WRITE, f"write disk {answers.system} now")),
        SAVE,
    )
    return None if what is None else replace(answers, what=what, whole=whole)
