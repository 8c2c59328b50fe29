"""A site file written at a desk, completed on a stick machine by machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from keystone.appliance.guided import draft as drafts
from keystone.appliance.guided import questions, session, stick
from keystone.appliance.guided.answers import FIRST, JOINING, SAVE, WRITE
from keystone.errors import ConfigurationError

from .test_guided import BACK, KEY, Script, seen

if TYPE_CHECKING:
    from pathlib import Path

DESK = """\
apiVersion: keystone/v1alpha1
kind: Site
metadata: {name: plant}
spec:
  networks: {nodes: 10.77.0.0/24}
  primers:
    - {name: p1, address: 10.77.0.11, disks: [{serial: A1}, {serial: B1}]}
    - {name: p2, address: 10.77.0.12, disks: [{serial: A2}, {serial: B2}], kubelet: false}
    - {name: p3, address: 10.77.0.13, systemDisk: S3, disks: [{serial: X3}, {serial: B3}]}
"""


def test_site_file_from_desk_completed_machine_by_machine(tmp_path: Path) -> None:
    """The file names Primers and disks; each machine is assigned in front of it."""
    (tmp_path / "site.yaml").write_text(DESK)
    (tmp_path / "me.pub").write_text(KEY)
    draft = stick.read(tmp_path)
    early = Script(None, FIRST, "p1", "S1", ("A1", "B1"), {"passphrase": "0123456789ab",
                   "again": "0123456789ab"}, None, None, *[BACK] * 9)  # fmt: skip
    assert questions.ask(early, seen(1, draft)) is None
    assert "p1 (not described yet), p2 (not described yet)" in early.asked[0][1]
    assert "p2, p3 are not described yet" in dict(early.asked)["Site incomplete"]
    for number, name in ((3, "p3"), (2, "p2"), (2, "p2")):  # p2 twice
        script = Script(None, JOINING, name, None, (f"A{number}", f"B{number}"), SAVE)
        answers = questions.ask(script, seen(number, stick.read(tmp_path)))
        assert answers is not None
        assert stick.missing(tmp_path, session.drafts_without(answers)) == ()
        stick.save(tmp_path, answers)
    last = questions.ask(
        Script(None, FIRST, None, None, ("A1", "B1"), {"passphrase": "0123456789ab",
               "again": "0123456789ab"}, None, WRITE),
        seen(1, stick.read(tmp_path)),
    )  # fmt: skip
    assert last is not None
    site = drafts.parse(stick.save(tmp_path, last).read_text())
    assert [(n.name, n.machine and n.machine.serial, n.kubelet) for n in site.primers] == [
        ("p1", "M1", True), ("p2", "M2", False), ("p3", "M3", True),
    ]  # fmt: skip
    assert [one.serial for one in site.primers[2].disks] == ["A3", "B3"]
    assert site.ssh.authorized_keys == (KEY,)


def test_machine_described_as_wrong_primer_can_be_corrected(tmp_path: Path) -> None:
    """The wrong Primer keeps its fields, loses the disks, and has to be described again."""
    (tmp_path / "site.yaml").write_text(DESK)
    wrong = questions.ask(
        Script(None, JOINING, "p2", None, ("A2", "B2"), SAVE), seen(2, stick.read(tmp_path))
    )
    assert wrong is not None
    stick.save(tmp_path, wrong)
    script = Script(None, JOINING, "p3", None, ("A2", "B2"), SAVE)
    right = questions.ask(script, seen(2, stick.read(tmp_path)))
    assert right is not None
    assert "says that this machine is p2" in dict(script.asked)["This machine"]
    stick.save(tmp_path, right)
    draft = stick.read(tmp_path)
    p1, p2, p3 = draft["spec"]["primers"]
    assert p2 == {"name": "p2", "address": "10.77.0.12", "disks": [], "kubelet": False}
    assert p3["machine"]["serial"] == "M2"
    assert drafts.waiting(draft, first=True) == (p1, p2)


def test_choosing_another_primer_replaces_default_disks(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(DESK)
    script = Script(None, JOINING, "p3", BACK, "p2", None, None, SAVE)
    answers = questions.ask(script, seen(2, stick.read(tmp_path)))
    assert answers is not None
    assert (answers.name, answers.pool) == ("p2", ("A2", "B2"))


def test_site_file_from_desk_may_lack_disks_and_name_machines(tmp_path: Path) -> None:
    bare = DESK.replace(", disks: [{serial: A1}, {serial: B1}]", "")
    known = bare.replace("name: p3,", "name: p3, machine: {serial: M3},")
    (tmp_path / "site.yaml").write_text(known)
    for number, name, role in ((3, None, JOINING), (2, None, JOINING), (1, None, FIRST)):
        trust = ({"passphrase": "0123456789ab", "again": "0123456789ab"}, None)
        disks = (f"A{number}", f"B{number}")
        script = Script(
            None, role if number > 1 else None, name, None, disks,
            *(trust if number == 1 else ()), SAVE,
        )  # fmt: skip
        answers = questions.ask(script, seen(number, stick.read(tmp_path)))
        assert answers is not None
        assert answers.role == role
        session.check_keys(tmp_path, answers)
        stick.save(tmp_path, answers)
    site = drafts.parse((tmp_path / "site.yaml").read_text())
    assert [(n.name, n.machine and n.machine.serial) for n in site.primers] == [
        ("p1", "M1"), ("p2", "M2"), ("p3", "M3"),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["[" * 3000, "a: &a {<<: *a}", DESK * 2, f"# {'x' * (5 << 20)}"])
def test_file_that_is_no_site_refused_with_its_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "site.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=r"site\.yaml"):
        stick.read(tmp_path)


def test_site_document_found_beside_other_documents(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(f"kind: Other\n---\n{DESK}")
    assert stick.read(tmp_path)["metadata"]["name"] == drafts.parse(DESK).name


def test_site_file_from_desk_with_mistake_refused(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(DESK.replace("10.77.0.12", "10.78.0.12"))
    with pytest.raises(ConfigurationError, match=r"site\.yaml"):
        stick.read(tmp_path)
