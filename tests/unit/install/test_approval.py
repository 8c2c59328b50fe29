"""Who may apply a plan that takes machines out of the site: its id, or a person who types that."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

from keystone.errors import RefusedError
from keystone.install import approval
from keystone.install import main as install
from keystone.install.engine import Plan, Planned
from keystone.install.members import RemoveMember
from keystone.install.reach import Reach

REMOVAL = RemoveMember("p3", "8e9e05c52164694d", "the site file does not name it")
PLAN = Plan((Planned("removal", (REMOVAL,)),))
REACHED = Reach({}, (), {})
OPTIONS = install.Options(Path("offline.tar"), Path("site.yaml"))


class Terminal(io.StringIO):
    """A person at the keyboard."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(approval, "FILE", tmp_path / "approved.json")
    return approval.FILE


def approve(**options: object) -> None:
    install._approve(PLAN, REACHED, replace(OPTIONS, **options))  # type: ignore[arg-type]


def test_yes_does_not_approve_a_removal_and_the_error_names_the_id() -> None:
    with pytest.raises(RefusedError, match=PLAN.id) as caught:
        approve(yes=True)
    assert f"--approve {PLAN.id}" in caught.value.hint


def test_id_of_another_plan_approves_nothing() -> None:
    with pytest.raises(RefusedError, match="plan 000000000000 is not this one"):
        approve(approved="000000000000")


def test_id_of_the_plan_approves_it() -> None:
    approve(approved=PLAN.id)
    approve(approved=PLAN.id, yes=True)


def test_id_approves_what_an_interrupted_run_left_of_the_plan_and_no_more() -> None:
    other = replace(REMOVAL, name="p2")
    whole = Plan((Planned("removal", (REMOVAL, other)),))
    approval.require(whole, whole.id)
    approval.require(PLAN, whole.id)
    approval.require(Plan(()), whole.id)
    more = Plan((Planned("removal", (REMOVAL, replace(REMOVAL, name="p1"))),))
    with pytest.raises(RefusedError, match="is not this one"):
        approval.require(more, whole.id)


def test_damaged_memory_approves_nothing(remembered: Path) -> None:
    remembered.write_text("{")
    with pytest.raises(RefusedError, match="is not this one"):
        approval.require(PLAN, "000000000000")


@pytest.mark.parametrize(
    ("typed", "approved"), [(f"y\n{PLAN.id}\n", True), ("y\ny\n", False), ("n\n", False)]
)
def test_person_types_the_id(
    typed: str, *, approved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    if approved:
        approve()
    else:
        with pytest.raises(RefusedError, match="not approved"):
            approve()


def test_without_a_terminal_the_error_names_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(RefusedError) as caught:
        approve()
    assert f"--approve {PLAN.id}" in caught.value.hint
