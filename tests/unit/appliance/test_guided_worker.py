"""Guided installation of a worker: questions, refused answers, files on the stick."""

from __future__ import annotations

import stat as modes
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keystone.appliance import discover, identity, write_mark
from keystone.appliance.guided import draft as drafts
from keystone.appliance.guided import questions, screens, session, stick
from keystone.appliance.guided.answers import SAVE, WORKER, WRITE, Answers, Seen
from keystone.appliance.identity import Card, Hardware
from keystone.errors import ConfigurationError, RefusedError
from keystone.join import join_yaml
from keystone.storage import plan as storage

from .test_guided import BACK, KEY, Script, disk, seen

KNOWN = join_yaml.load(Path(__file__).parents[2] / "cases/join/good.yaml")
NAMED = {"name": "w7", "address": "10.77.0.27"}


def here(number: int = 7, known: join_yaml.Join | None = KNOWN, **more: Any) -> Seen:
    disks = (disk(f"A{number}"), disk(f"S{number}"))
    machine = Hardware(f"M{number}", (f"52:54:00:00:00:0{number}",))
    return Seen(machine, disks, "/stick", {}, (KEY,), join=known, **more)


def answered(*answers: Any, at: Seen | None = None) -> tuple[Answers | None, Script]:
    script = Script(None, WORKER, *answers)
    return questions.ask(script, at or here()), script


def test_machine_takes_first_token_without_a_machine() -> None:
    found, script = answered(NAMED, "S7", WRITE)
    assert found is not None
    assert found.join is not None
    assert [title for title, _ in script.asked] == [
        "Keystone", "Role of this machine", "This machine", "The system's disk", "Review",
    ]  # fmt: skip
    (mine, *others) = found.join.workers
    assert others == list(KNOWN.workers[1:])
    assert (mine.name, str(mine.address), mine.system_disk) == ("w7", "10.77.0.27", "S7")
    assert mine.token == KNOWN.workers[0].token
    assert found.join.ssh.authorized_keys[-1] == KEY
    assert identity.who(None, found.join, here().here) == mine


def test_review_shows_site_token_and_erased_disk_within_page() -> None:
    _, script = answered(NAMED, "S7", SAVE)
    text = dict(script.asked)["Review"]
    for words in (
        "Site plant", "10.77.0.11", KNOWN.pin[:16], "000000000001, valid until 2026-11-29 06:30Z",
        "w7, 10.77.0.27", "all of disk S7 (blank)",
    ):  # fmt: skip
        assert words in text
    assert KNOWN.workers[0].token not in text
    assert len(screens.wrapped(text).splitlines()) <= screens.TALLEST


def test_next_machine_takes_next_token_and_same_machine_keeps_its_token(tmp_path: Path) -> None:
    first, _ = answered(NAMED, "S7", SAVE)
    assert first is not None
    assert first.join is not None
    file = stick.save_join(tmp_path, first.join)
    assert modes.S_IMODE(file.stat().st_mode) == 0o600
    known = stick.read_join(tmp_path)
    second, _ = answered(None, "S8", SAVE, at=here(8, known))
    assert second is not None
    assert second.join is not None
    assert [worker.name for worker in second.join.workers] == ["w7", "w2", "w3", "w4"]
    assert second.join.workers[3].machine is not None
    again, _ = answered({"name": "w9"}, None, SAVE, at=here(7, second.join))
    assert again is not None
    assert again.join is not None
    assert [worker.name for worker in again.join.workers] == ["w9", "w2", "w3", "w4"]
    assert str(again.join.workers[0].address) == "10.77.0.27"
    assert again.system == "S7"


def test_empty_address_means_dhcp() -> None:
    found, script = answered({"name": "w7", "address": ""}, "S7", SAVE)
    assert found is not None
    assert found.join is not None
    assert found.join.workers[0].address is None
    assert "address from DHCP" in dict(script.asked)["Review"]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"name": "", "address": ""}, "a worker needs a name"),
        ({"name": "W 7"}, "lower-case"),
        ({"name": "w2"}, 'duplicate name "w2"'),
        ({"name": "w7", "address": "10.77.0"}, "is not an IPv4 address"),
        ({"name": "w7", "address": "x"}, "is not an IPv4 address"),
        ({"name": "w7", "address": "10.78.0.27"}, "outside networks.nodes"),
        ({"name": "w7", "address": "10.77.0.22"}, "duplicate address"),
        ({"name": "w7", "address": "10.77.0.1"}, "is the address of a worker"),
        ({"name": "w7", "address": "10.77.0.11"}, "is the Primer's"),
        ({"name": "w7", "address": "10.77.0.255"}, "no machine can use it"),
    ],
)
def test_wrong_name_or_address_refused_on_same_page(given: dict[str, str], why: str) -> None:
    found, script = answered(given, NAMED, "S7", SAVE)
    assert found is not None
    assert len(script.wrong) == 1
    assert why in script.wrong[0]


@pytest.mark.parametrize(
    ("known", "why"),
    [
        (None, "there is no join.yaml"),
        (replace(KNOWN, workers=KNOWN.workers[1:3]), "belongs to another"),
    ],
)
def test_no_token_page_shows_command(known: join_yaml.Join | None, why: str) -> None:
    found, script = answered(None, BACK, BACK, at=here(known=known))
    assert found is None
    title, text = script.asked[2]
    assert title == "No token"
    assert why in text
    assert "keystone-install token create --to /mnt" in text
    assert len(screens.wrapped(text).splitlines()) <= screens.TALLEST


def test_every_step_goes_back_and_keeps_answers() -> None:
    cards = {
        "52:54:00:00:00:07": Card("eno1", "igb", cable=False),
        "52:54:00:00:00:17": Card("eno2", "igb", cable=True),
    }
    back = (BACK, BACK, BACK)  # from the review to the disk, to the card, to the name
    found, script = answered(
        NAMED, None, "A7", *back, None, "52:54:00:00:00:07", None, SAVE, at=here(cards=cards)
    )
    assert found is not None
    assert found.join is not None
    assert (found.name, found.address, found.system) == ("w7", "10.77.0.27", "A7")
    (mine, *_) = found.join.workers
    assert mine.machine is not None
    assert mine.machine.macs == ("52:54:00:00:00:07",)
    assert "card that is connected to 10.77.0.0/24. It gets 10.77.0.27." in script.asked[3][1]


def test_role_can_change_from_worker_to_primer() -> None:
    script = Script(None, WORKER, NAMED, BACK, BACK, questions.JOINING, BACK, BACK, BACK)
    assert questions.ask(script, here()) is None
    assert [title for title, _ in script.asked[3:7]] == [
        "The system's disk", "This machine", "Role of this machine", "The site",
    ]  # fmt: skip


def test_disk_with_incomplete_write_offered_for_system_but_not_for_pool() -> None:
    disks = (
        disk("CUT", partition_table="gpt"), disk("HALF", partition_table="gpt"),
        disk("FULL", partition_table="gpt", partitions=("full1",)), disk("A"),
    )  # fmt: skip
    begun = frozenset({"CUT", "FULL"})
    assert [one.serial for one in disks if not drafts.unusable(one, 0, begun)] == ["CUT", "A"]
    assert [found.serial for found in drafts.usable(disks)] == ["A"]
    assert drafts.about(disks[0], begun).endswith("incomplete write")
    assert drafts.about(disks[0]).endswith(storage.found_on(disks[0]))
    found, script = answered(NAMED, "CUT", SAVE, at=replace(here(), disks=disks, begun=begun))
    assert found is not None
    assert "HALF: partition table gpt" in dict(script.asked)["The system's disk"]
    assert "all of disk CUT (incomplete write)" in dict(script.asked)["Review"]


def test_review_shows_who_can_log_in() -> None:
    _, script = answered(NAMED, "S7", SAVE)
    keys = {*KNOWN.ssh.authorized_keys, KEY}
    assert f"as root, with {len(keys)} public key" in dict(script.asked)["Review"]
    bare = replace(KNOWN, ssh=replace(KNOWN.ssh, authorized_keys=()))
    _, script = answered(NAMED, "S7", SAVE, at=replace(here(known=bare), keys=()))
    assert "not possible: put your public key on the stick" in dict(script.asked)["Review"]


def test_unusable_bundle_is_reported_and_no_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    damaged = tmp_path / "offline.tar"
    damaged.write_bytes(b"one")
    for found, fingerprint, why in ((None, "", ""), (damaged, "", "offline.tar")):
        monkeypatch.setattr(discover, "bundle_file", lambda found=found: found)
        shown, unusable = session._bundle()
        assert shown == fingerprint
        assert why in unusable
    monkeypatch.setattr(discover, "bundle_file", refuse)
    assert session._bundle() == ("", "2 bundles\n\nleave one")


def refuse() -> Path:
    raise RefusedError("2 bundles", hint="leave one")


def test_disk_that_bios_cannot_start_from_not_offered() -> None:
    disks = (replace(disk("LARGE"), logical_sector=4096), disk("A"))
    seen = replace(here(), disks=disks, uefi=False)
    found, script = answered(NAMED, "A", SAVE, at=seen)
    assert found is not None
    text = dict(script.asked)["The system's disk"]
    assert "LARGE: a BIOS cannot start from sectors of 4096 bytes" in text
    found, script = answered(NAMED, "LARGE", SAVE, at=replace(seen, uefi=True))
    assert found is not None
    assert "LARGE:" not in dict(script.asked)["The system's disk"]


def test_default_role_is_worker_if_stick_has_tokens_and_no_draft() -> None:
    assert questions.ask(Script(None, None, BACK, BACK, BACK), here()) is None
    role = Script(None, None, BACK, BACK, BACK)
    questions.ask(role, seen(2))
    assert role.asked[2][0] == "The site"


def test_written_join_file_has_only_token_of_this_worker() -> None:
    found, _ = answered(NAMED, "S7", WRITE)
    assert found is not None
    place, node, files = session._worker(found)
    assert (place.name, node.name) == ("plant", "w7")
    assert files["etc/keystone/join.yaml"][0].count("ks1.") == 1


def test_invalid_join_file_on_stick_refused_with_its_name(tmp_path: Path) -> None:
    assert stick.read_join(tmp_path) is None
    (tmp_path / "join.yaml").write_text("kind: Join")
    with pytest.raises(ConfigurationError, match=r"join\.yaml"):
        stick.read_join(tmp_path)


def test_write_mark_found_and_unreadable_disk_counts_as_unmarked(
    tmp_path: Path,
) -> None:
    file = tmp_path / "disk"
    file.write_bytes(bytes(write_mark.AT + write_mark.SIZE))
    here = replace(disk("CUT"), path=str(file))
    assert not session._begun(here)
    write_mark.put(str(file), "CUT")
    assert session._begun(here)
    assert not session._begun(replace(here, serial="OTHER"))
    assert not session._begun(replace(here, path=str(tmp_path / "gone")))
