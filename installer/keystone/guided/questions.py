"""What is asked on a medium, and in which order. It asks a Screen and decides; nothing is touched.

Each step takes the answers so far and gives the answers with its own, or None to go back one step.
What was answered before is the default, so going back and forth loses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from keystone import log
from keystone.guided import draft as drafts
from keystone.guided.draft import Document, Primer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from keystone.facts import DiskFacts
    from keystone.image.identity import Card, Hardware

FIRST, JOINING = "first", "joining"
LEAST_PASSPHRASE = 12
"""Characters: it guards the root of the site's trust."""
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

    def show(self, title: str, text: str, button: str) -> bool:
        """Text to read; False to go back."""


@dataclass(frozen=True)
class Seen:
    """What this machine and the stick are.

    stick: where it is, "" without one. draft: what it has of the site already. keys: public keys
    that were found on it. fingerprint: of the bundle's trust root, "" without a bundle. cards: of
    the network, by MAC, in words. vouched: one line of who vouches for the running system.
    """

    here: Hardware
    disks: tuple[DiskFacts, ...]
    stick: str = ""
    draft: Document = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    fingerprint: str = ""
    cards: Mapping[str, Card] = field(default_factory=dict)
    vouched: str = ""


@dataclass(frozen=True)
class Answers:
    """Everything that was answered.

    whole: the draft with this machine in it. what: WRITE the disk, or only SAVE the draft.
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


def ask(screen: Screen, seen: Seen) -> Answers | None:
    """All of it; None when the person leaves by going back before the first step."""
    steps = (_welcome, _site, _role, _machine, _card, _system, _pool, _trust, _bundle, _review)
    answers = Answers(draft=seen.draft, fingerprint=seen.fingerprint)
    done: list[tuple[int, Answers]] = []
    number = 0
    while number < len(steps):
        given = steps[number](screen, seen, answers)
        if given is None:
            if not done:
                return None
            number, answers = done.pop()
            continue
        if given is not answers:  # a step that has nothing to ask here is not gone back to
            done.append((number, given))
        answers, number = given, number + 1
    return answers


def _welcome(screen: Screen, seen: Seen, answers: Answers) -> Answers | None:
    disks = _few([drafts.about(disk) for disk in seen.disks]) or "  none"
    stick = f"on the stick {seen.stick}" if seen.stick else "no stick labelled KEYSTONE: take one"
    known = [entry["name"] for entry in answers.draft["spec"]["primers"]] if answers.draft else ()
    text = (
        f"This machine: serial number {seen.here.serial or 'unknown'}, "
        f"MAC {', '.join(seen.here.macs) or 'none'}\n"
        f"{seen.vouched}\n"
        f"Site so far:  {', '.join(known) or 'nothing'} ({stick})\n"
        f"Disks:\n{disks}\n\n"
        "Nothing is written before you have seen all of it on the last page.\n"
        "Describe the joining Primers first, each at its own machine, with the same stick; the "
        "first Primer comes last and installs the site."
    )
    return replace(answers) if screen.show("Keystone", text, "Go on") else None


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


def _role(screen: Screen, _seen: Seen, answers: Answers) -> Answers | None:
    role = screen.choose(
        "What this machine is",
        "A site has 1, 3 or 5 Primers. A worker needs no medium: any Linux joins by one command.",
        (
            (JOINING, "a joining Primer"),
            (FIRST, "the first Primer: all others are described, it installs the site"),
        ),
        answers.role or JOINING,
    )
    return None if role is None else replace(answers, role=role)


def _machine(screen: Screen, seen: Seen, answers: Answers) -> Answers | None:
    draft = answers.draft
    number = len(draft["spec"]["primers"]) + 2 if answers.role == JOINING else 1
    given = screen.fill(
        "This machine",
        f"Its name, and its address in {draft['spec']['networks']['nodes']}.",
        (
            Field("name", "Name", answers.name or f"p{number}"),
            Field("address", "Address", answers.address),
        ),
        lambda said: drafts.wrong_primer(draft, said["name"], said["address"], seen.here),
    )
    return None if given is None else replace(answers, name=given["name"], address=given["address"])


def _card(screen: Screen, seen: Seen, answers: Answers) -> Answers | None:
    """Which card has the address: there is nothing to ask where there is only one."""
    if len(seen.cards) <= 1:
        return answers
    known = answers.card if answers.card in seen.cards else _with_cable(seen.cards)
    chosen = screen.choose(
        "The network card",
        f"{answers.address} is given to the card that is in "
        f"{answers.draft['spec']['networks']['nodes']}.",
        [(mac, f"{mac}  {card.describe()}") for mac, card in seen.cards.items()],
        known,
    )
    return None if chosen is None else replace(answers, card=chosen)


def _with_cable(cards: Mapping[str, Card]) -> str:
    """The first one with a cable, else the first."""
    plugged = [mac for mac, card in cards.items() if card.cable]
    return (plugged or list(cards))[0]


def _system(screen: Screen, seen: Seen, answers: Answers) -> Answers | None:
    usable = drafts.usable(seen.disks, drafts.SYSTEM_LEAST)
    if not usable:
        screen.show(
            "The system's disk",
            f"No disk can be written. One that is blank and has {log.size(drafts.SYSTEM_LEAST)} "
            f"or more is needed:\n\n{_refused(seen, drafts.SYSTEM_LEAST)}\n\n"
            "If nothing on one of them is needed, empty it in the shell: wipefs --all /dev/...",
            "Back",
        )
        return None
    options = [(disk.serial, drafts.about(disk)) for disk in usable]
    default = answers.system if answers.system in dict(options) else options[-1][0]
    system = screen.choose(
        "The system's disk",
        "Keystone's own system is written to it. Not offered, because it is not blank or not "
        f"fit:\n{_refused(seen, drafts.SYSTEM_LEAST) or '  nothing'}",
        options,
        default,
    )
    return None if system is None else replace(answers, system=system)


def _pool(screen: Screen, seen: Seen, answers: Answers) -> Answers | None:
    usable = [disk for disk in drafts.usable(seen.disks) if disk.serial != answers.system]
    text = "The pool is made of what you mark. Blank disks only."
    while True:
        marked = screen.mark(
            "The pool's disks",
            text,
            [(disk.serial, drafts.about(disk)) for disk in usable],
            answers.pool,
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
        if len(said["passphrase"]) < LEAST_PASSPHRASE:
            return f"a passphrase has {LEAST_PASSPHRASE} characters or more"
        return "" if said["passphrase"] == said["again"] else "the two are not the same"

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
        text = (
            "There is no bundle offline.tar on the stick or the medium. The machine is written; "
            "when a stick labelled KEYSTONE with a bundle is put in, you install it by hand, for "
            "nobody vouches for that bundle now."
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
    whole = drafts.add(answers.draft, primer, seen.here, first=answers.role == FIRST)
    if answers.role == FIRST and (wrong := drafts.wrong_whole(whole)):
        screen.show(
            "Not complete",
            f"This site cannot be installed yet: {wrong}.\n\nGo back and make this machine a "
            "joining Primer, or describe the others first, each at its own machine.",
            "Back",
        )
        return None
    primers = "\n".join(
        f"  {entry['name']:<12} {entry['address']:<15} system {entry['systemDisk']}, pool "
        f"{', '.join(disk['serial'] for disk in entry['disks'])}"
        for entry in whole["spec"]["primers"]
    )
    nodes = whole["spec"]["networks"]["nodes"]
    text = (
        f"Site {whole['metadata']['name']}, network {nodes}\n{primers}\n\n"
        f"Now written:  disk {answers.system}, all of it (it is blank)\n"
        f"Later:        the pool on {', '.join(answers.pool)}, when the site is installed\n"
    )
    what = screen.choose(
        "Review",
        text,
        ((SAVE, "only save this on the stick"), (WRITE, f"write disk {answers.system} now")),
        SAVE,
    )
    return None if what is None else replace(answers, what=what, whole=whole)


def _refused(seen: Seen, least: int) -> str:
    return _few(
        [
            f"{disk.serial or disk.path}: {why}"
            for disk in seen.disks
            if (why := drafts.unusable(disk, least))
        ]
    )


def _few(lines: Sequence[str]) -> str:
    """As many as a screen of 24 lines bears beside what must be read on it."""
    shown = [f"  {line}" for line in lines[:MOST]]
    if len(lines) > MOST:
        shown.append(f"  and {len(lines) - MOST} more")
    return "\n".join(shown)
