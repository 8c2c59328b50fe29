"""Guided installation of Primers: questions, refused answers, files on the stick."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from keystone import documents
from keystone.appliance.guided import draft as drafts
from keystone.appliance.guided import questions, screens, session, stick
from keystone.appliance.guided.answers import FIRST, JOINING, SAVE, WRITE, Answers, Field, Seen
from keystone.appliance.identity import Card, Hardware
from keystone.errors import ConfigurationError
from keystone.hosts.facts import DiskFacts
from keystone.site import introduction

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBv operator"
BACK = object()


def disk(serial: str, gib: int = 32, **more: Any) -> DiskFacts:
    return DiskFacts(
        name=serial.lower(), path=f"/dev/{serial.lower()}", by_id=(), serial=serial, model="M",
        size=gib << 30, logical_sector=512, physical_sector=512, **more,
    )  # fmt: skip


def seen(number: int, draft: drafts.Document | None = None, **more: Any) -> Seen:
    disks = (disk(f"A{number}"), disk(f"B{number}"), disk(f"S{number}"))
    return Seen(Hardware(f"M{number}", ()), disks, "/stick", draft or {}, (KEY,), **more)


class Script:
    """A person who gives these answers in order; each is checked as the terminal checks it."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str]] = []
        self.wrong: list[str] = []
        self.back_labels: list[str] = []

    def _next(self, title: str, text: str) -> Any:
        self.asked.append((title, text))
        return self.answers.pop(0)

    def choose(
        self, title: str, text: str, options: Sequence[tuple[str, str]], default: str
    ) -> str | None:
        assert default in dict(options)
        given = self._next(title, text)
        if given is BACK:
            return None
        chosen: str = default if given is None else given
        assert chosen in dict(options), f"{chosen} is not offered: {options}"
        return chosen

    def mark(
        self, title: str, text: str, options: Sequence[tuple[str, str]], marked: Sequence[str]
    ) -> tuple[str, ...] | None:
        given = self._next(title, text)
        if given is BACK:
            return None
        given = tuple(marked) if given is None else given
        assert set(given) <= set(dict(options)), f"{given} is not offered: {options}"
        return tuple(given)

    def fill(
        self,
        title: str,
        text: str,
        fields: Sequence[Field],
        wrong: Callable[[dict[str, str]], str],
    ) -> dict[str, str] | None:
        while True:
            given = self._next(title, text)
            if given is BACK:
                return None
            values = {**{field.key: field.value for field in fields}, **(given or {})}
            found = wrong(values)
            if not found:
                return values
            self.wrong.append(found)

    def show(self, title: str, text: str, button: str, back: str = "Back") -> bool:
        assert button
        self.back_labels.append(back)
        return self._next(title, text) is not BACK


SITE = ({"name": "plant", "nodes": "10.77.0.0/24"}, None)
"""Answers to the page of the site and to that of its pools."""


def new(number: int) -> tuple[Any, ...]:
    """Answers of the first machine described: role, site, machine."""
    role, *machine = joining(number)
    return (role, *SITE, *machine)


def joining(number: int) -> tuple[Any, ...]:
    return (JOINING, {"name": f"p{number}", "address": f"10.77.0.1{number}"}, f"S{number}",
            (f"A{number}", f"B{number}"))  # fmt: skip


def first(passphrase: str = "correct horse battery") -> tuple[Any, ...]:
    return (FIRST, {"name": "p1", "address": "10.77.0.11"}, "S1", ("A1", "B1"),
            {"passphrase": passphrase, "again": passphrase})  # fmt: skip


def described(number: int, draft: drafts.Document | None = None) -> Answers:
    answered = joining(number) if draft else new(number)
    answers = questions.ask(Script(None, *answered, SAVE), seen(number, draft))
    assert answers is not None
    return answers


def test_three_described_machines_give_valid_site_file(tmp_path: Path) -> None:
    draft: drafts.Document = {}
    for number in (2, 3):
        answers = described(number, draft)
        stick.save(tmp_path, answers)
        draft = stick.read(tmp_path)
    assert [entry["name"] for entry in draft["spec"]["primers"]] == ["p2", "p3"]
    script = Script(None, *first(), "yes", WRITE)
    last = questions.ask(script, seen(1, draft, fingerprint="ab" * 32))
    assert last is not None
    assert last.what == WRITE
    file = stick.save(tmp_path, last)
    assert file.name == "site.yaml"
    assert not (tmp_path / stick.DRAFT).exists()
    assert stick.read(tmp_path) == last.whole  # read back, it is the same site
    site = drafts.parse(file.read_text())
    assert [node.name for node in site.primers] == ["p1", "p2", "p3"]
    assert site.primers[1].machine is not None
    assert (site.primers[1].machine.serial, site.primers[1].system_disk) == ("M2", "S2")
    assert site.ssh.authorized_keys == (KEY,)
    mine = introduction.read(file, site.primers[0])
    assert len(mine[introduction.KNOWN_HOSTS].splitlines()) == 3
    assert mine[introduction.FINGERPRINT] == "ab" * 32 + "\n"
    client = (tmp_path / "introductions" / stick.CLIENT / "id_ed25519.pub").read_text()
    for node in site.primers:
        assert introduction.read(file, node)[introduction.ALLOWED] == client


def test_joining_primer_written_from_site_with_itself_only() -> None:
    draft = drafts.alone(described(3, described(2).whole).whole, "p3")
    (node,) = drafts.parse(drafts.text(draft)).primers
    assert (node.name, str(node.address)) == ("p3", "10.77.0.13")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"nodes": "10.77.0.0"}, "10.77.0.0"),
        ({"nodes": "nonsense"}, "is not a network"),
        ({"nodes": ""}, "nothing is not a network"),
        ({"nodes": "10.77.0.5/24"}, "is not a network"),
        ({"nodes": "10.244.1.0/24"}, "10.244"),
        ({"name": "Plant 7"}, "lower-case"),
        ({"gateway": "10.78.0.1"}, "10.78.0.1"),
        ({"gateway": "x"}, "x"),
    ],
)
def test_wrong_site_refused_on_same_page(given: dict[str, str], why: str) -> None:
    script = Script(None, JOINING, given, *new(2)[1:], SAVE)
    assert questions.ask(script, seen(2)) is not None
    assert len(script.wrong) == 1
    assert why in script.wrong[0]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"name": "p2", "address": "10.77.0.13"}, "the name p2 is another Primer's already"),
        ({"name": "p3", "address": "10.77.0.12"}, "the address 10.77.0.12 is p2's already"),
        ({"name": "p3", "address": "10.78.0.13"}, "10.78.0.13"),
        ({"name": "p3", "address": ""}, ""),
        ({"name": "P 3", "address": "10.77.0.13"}, "lower-case"),
    ],
)
def test_wrong_primer_refused_on_same_page(given: dict[str, str], why: str) -> None:
    draft = described(2).whole
    role, right, *rest = joining(3)
    script = Script(None, role, given, right, *rest, SAVE)
    assert questions.ask(script, seen(3, draft)) is not None
    assert len(script.wrong) == 1
    assert why in script.wrong[0]


def test_same_machine_again_replaces_its_description() -> None:
    again = questions.ask(
        Script(None, JOINING, {"name": "p7", "address": "10.77.0.12"}, "S2", ("A2", "B2"), SAVE),
        seen(2, described(2).whole),
    )
    assert again is not None
    assert [entry["name"] for entry in again.whole["spec"]["primers"]] == ["p7"]


def test_only_blank_disks_offered_and_others_listed_with_reason() -> None:
    disks = (
        disk("USB", transport="usb"), disk("RO", read_only=True), disk("EMMC", transport="mmc"),
        disk("OLD", partition_table="gpt"), disk("", 40), disk("TINY", 1), disk("GOOD"),
        disk("A", removable=True, transport="sata"), disk("B"),
    )  # fmt: skip
    script = Script(None, *new(2)[:4], "GOOD", ("A", "B"), SAVE)
    found = questions.ask(script, Seen(Hardware("M2", ()), disks, "/stick", keys=(KEY,)))
    assert found is not None
    text = dict(script.asked)["The system's disk"]
    for why in (
        "USB: removable",
        "RO: read-only",
        "OLD: partition table gpt",
        "no serial",
        "TINY: sm",
    ):
        assert why in text
    assert "EMMC" not in text, "the system may be on soldered memory"
    assert "EMMC" not in [one.serial for one in drafts.usable(disks)], "a pool may not"


def test_disks_with_same_serial_number_or_unreadable_not_offered() -> None:
    bad = disk("BAD", unreadable="Input/output error")
    disks = (disk("TWIN"), disk("TWIN"), bad, disk("GOOD"), disk("A"), disk("B"))
    script = Script(None, *new(2)[:4], "GOOD", ("A", "B"), SAVE)
    assert questions.ask(script, Seen(Hardware("M2", ()), disks, "/stick", keys=(KEY,)))
    text = dict(script.asked)["The system's disk"]
    assert "TWIN: another disk has the same serial number" in text
    assert "BAD: cannot be read: Input/output error" in text


def test_first_page_fits_with_many_disks() -> None:
    script = Script(BACK)
    many = tuple(disk(f"D{number}") for number in range(24))
    questions.ask(script, replace(seen(2), disks=many))
    text = script.asked[0][1]
    assert "and 19 more" in text
    assert len(screens.wrapped(text).splitlines()) <= screens.TALLEST


def test_no_usable_disk_page_only_goes_back() -> None:
    bare = Seen(Hardware("M2", ()), (disk("OLD", partition_table="gpt"),), "/stick")
    script = Script(None, *new(2)[:4], None, BACK, BACK, BACK, BACK)
    assert questions.ask(script, bare) is None
    assert "No disk can be used" in script.asked[5][1]


def test_wrong_number_of_pool_disks_asked_again() -> None:
    script = Script(None, *new(2)[:5], ("A2",), ("A2", "B2"), SAVE)
    assert questions.ask(script, seen(2)) is not None
    assert "a pool of layout mirror needs 2 disks; 1 is marked" in script.asked[-2][1]


def test_passphrase_short_or_not_repeated_refused() -> None:
    draft = described(3, described(2).whole).whole
    role, machine, system, pool, right = first()
    script = Script(
        None, role, machine, system, pool, {"passphrase": "short", "again": "short"},
        {"passphrase": "correct horse battery", "again": "correct horse"}, right, "no", SAVE,
    )  # fmt: skip
    found = questions.ask(script, seen(1, draft, fingerprint="ab" * 32))
    assert found is not None
    assert found.fingerprint == ""
    assert ["12 characters" in script.wrong[0], "not the same" in script.wrong[1]] == [True, True]


def test_site_of_two_primers_incomplete_and_role_can_change() -> None:
    back = (None, BACK, BACK, BACK, BACK, BACK)
    script = Script(None, *first(), "no", *back, *joining(1), SAVE)
    found = questions.ask(script, seen(1, described(2).whole, fingerprint="ab" * 32))
    assert found is not None
    assert found.role == JOINING
    assert "1, 3 or 5 Primers, not 2" in dict(script.asked)["Site incomplete"]


def test_public_key_added_to_stick_later_used_if_draft_has_none() -> None:
    draft = described(3).whole
    for named, expected in (([], [KEY]), (["ssh-ed25519 BBBB other"],) * 2):
        draft["spec"]["ssh"]["authorizedKeys"] = named
        script = Script(None, *joining(2), SAVE)
        found = questions.ask(script, seen(2, draft))
        assert found is not None
        assert found.whole["spec"]["ssh"]["authorizedKeys"] == expected
        assert "as root, with 1 public key;" in dict(script.asked)["Review"]


def test_unusable_bundle_shown_to_first_primer_only() -> None:
    why = "/run/keystone/sticks/sda/offline.tar: expired"
    draft = described(3, described(2).whole).whole
    script = Script(None, *first(), True, SAVE)
    assert questions.ask(script, seen(1, draft, unusable=why)) is not None
    assert dict(script.asked)["The bundle"].startswith(why)
    script = Script(None, *joining(4), SAVE)
    assert questions.ask(script, seen(4, draft, unusable=why)) is not None
    assert "The bundle" not in dict(script.asked)


def test_going_back_keeps_answers() -> None:
    role, machine, system, pool = joining(2)
    script = Script(None, role, *SITE, machine, BACK, None, system, BACK, None, pool, SAVE)
    found = questions.ask(script, seen(2))
    assert found is not None
    assert (found.name, found.address, found.system) == ("p2", "10.77.0.12", "S2")


CARDS = {
    "52:54:00:00:00:02": Card("eno1", "igb", cable=False),
    "52:54:00:00:00:03": Card("eno2", "igb", cable=True),
}


def test_card_with_cable_is_default_and_written_to_site() -> None:
    role, machine, *disks = joining(2)
    script = Script(None, role, *SITE, machine, None, *disks, SAVE)
    found = questions.ask(script, replace(seen(2), cards=CARDS))
    assert found is not None
    (entry,) = found.whole["spec"]["primers"]
    assert entry["machine"] == {"serial": "M2", "macs": ["52:54:00:00:00:03"]}


def test_machine_without_serial_number_recognized_by_any_card() -> None:
    here = Hardware("", tuple(CARDS))
    draft = drafts.begin("plant", "10.77.0.0/24", "")
    one = drafts.Primer("p2", "10.77.0.12", "S", ("A", "B"), "52:54:00:00:00:02")
    other = drafts.Primer("p4", "10.77.0.12", "S", ("A", "B"), "52:54:00:00:00:03")
    once = drafts.add(draft, one, here, first=False)
    assert drafts.wrong_primer(once, "p2", "10.77.0.12", here) == ""
    # With the other card only the name identifies it: the entry has nothing else in common.
    twice = drafts.add(once, replace(other, name="p2"), here, first=False)
    assert [entry["name"] for entry in twice["spec"]["primers"]] == ["p2"]
    assert twice["spec"]["primers"][0]["machine"] == {"macs": ["52:54:00:00:00:03"]}


def test_rescan_on_first_page_asks_nothing_more() -> None:
    assert questions.ask(Script(BACK), seen(2)) is None


def test_stick_without_keys_of_described_primers_refused(tmp_path: Path) -> None:
    answers = described(3, described(2).whole)
    assert stick.missing(tmp_path, session.drafts_without(answers)) == ("p2",)
    stick.save(tmp_path, described(2))
    assert stick.missing(tmp_path, session.drafts_without(answers)) == ()


def test_keys_made_once_and_removed_with_their_machine(tmp_path: Path) -> None:
    stick.save(tmp_path, described(2))
    key = tmp_path / "introductions/p2" / introduction.HOST_KEY
    made = key.read_text()
    stick.save(tmp_path, described(2))
    assert key.read_text() == made
    renamed = questions.ask(
        Script(None, JOINING, {"name": "p7", "address": "10.77.0.12"}, "S2", ("A2", "B2"), SAVE),
        seen(2, described(2).whole),
    )
    assert renamed is not None
    stick.save(tmp_path, renamed)
    assert sorted(p.name for p in (tmp_path / "introductions").iterdir()) == [".client", "p7"]


def test_keys_found_without_draft_not_used(tmp_path: Path) -> None:
    """A prepared stick: the owner of its .client key would be root on every Primer."""
    client = tmp_path / "introductions" / stick.CLIENT
    own = tmp_path / "introductions/p2"
    for folder, name in ((client, introduction.CLIENT_KEY), (own, introduction.HOST_KEY)):
        pair = introduction.new_pair("thief")
        folder.mkdir(parents=True)
        (folder / name).write_text(pair.private)
        (folder / f"{name}.pub").write_text(pair.public)
    stick.save(tmp_path, described(2))
    for file in (*client.iterdir(), *own.iterdir()):
        assert "thief" not in file.read_text(), file
    allowed = (own / introduction.ALLOWED).read_text()
    assert allowed == (client / f"{introduction.CLIENT_KEY}.pub").read_text()


HEAD = "apiVersion: keystone/v1alpha1\nkind: Site\nmetadata: {name: plant}\nspec:\n"
NETWORK = "  networks: {nodes: 10.77.0.0/24}\n"
PRIMER = "  primers: [{name: p2, address: 10.77.0.12, disks: [{serial: A2}, {serial: B2}]}]\n"


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "spec: {primers: [1]}",
        "x",
        "",
        "spec: {primers: [{}]}",
        "spec: {primers: []}",
        "[" * 3000,
        "a: &a [*a, *a]",
        f"{HEAD}{NETWORK}  primers: []\n",
        f"{HEAD}{PRIMER}",
        f"{HEAD}  networks: {{nodes: 10.77.0.0/99}}\n{PRIMER}",
        f"{HEAD}{NETWORK}{PRIMER}  storage: {{layout: raid0}}\n",
        f"{HEAD}{NETWORK}  primers: [{{name: p1, address: 1, disks: 5}}]\n",
        f"{HEAD}{NETWORK}  primers: [{{name: p1, address: 10.77.0.11, machine: 5}}]\n",
        f"{HEAD}{NETWORK}{PRIMER}# {'x' * documents.MAX_BYTES}",
        "\xff",
    ],
)
def test_invalid_draft_refused_with_its_name(tmp_path: Path, text: str) -> None:
    (tmp_path / stick.DRAFT).write_text(text, "latin-1")
    with pytest.raises(ConfigurationError, match=r"site-draft\.yaml") as refused:
        stick.read(tmp_path)
    assert "move that file away" in refused.value.hint


def test_minimal_draft_gets_defaults(tmp_path: Path) -> None:
    (tmp_path / stick.DRAFT).write_text(f"{HEAD}{NETWORK}{PRIMER}")
    draft = stick.read(tmp_path)
    assert draft["spec"]["storage"]["layout"] == "mirror"
    script = Script(None, *joining(3), SAVE)
    answers = questions.ask(script, seen(3, draft))
    assert answers is not None
    assert [entry["name"] for entry in answers.whole["spec"]["primers"]] == ["p2", "p3"]


def test_public_keys_read_from_top_folder_of_stick(tmp_path: Path) -> None:
    (tmp_path / "me.pub").write_text(f"# mine\n{KEY}\n\n")
    (tmp_path / "also.pub").write_text(f"{KEY}\n")
    (tmp_path / "._me.pub").write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / "notepad.pub").write_text(KEY, "utf-8-sig")
    assert stick.public_keys(tmp_path) == (KEY,)
    (tmp_path / "wide.pub").write_text(KEY, "utf-16")
    with pytest.raises(ConfigurationError, match=r"wide\.pub: not UTF-8 text"):
        stick.public_keys(tmp_path)


def test_invalid_answers_not_written(tmp_path: Path) -> None:
    answers = described(2)
    answers.whole["spec"]["ssh"]["authorizedKeys"] = ["no key"]
    with pytest.raises(ConfigurationError):
        stick.save(tmp_path, answers)
    assert list(tmp_path.iterdir()) == []
