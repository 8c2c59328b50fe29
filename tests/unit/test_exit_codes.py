"""docs/reference/exit-codes.md is a promise: each code of the program is in it, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from keystone import errors, run

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "exit-codes.md"


def families(root: type[errors.KeystoneError]) -> set[type[errors.KeystoneError]]:
    return {root}.union(*(families(child) for child in root.__subclasses__()))


def test_the_page_lists_every_code_and_no_other() -> None:
    said = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE.read_text(), re.MULTILINE)}
    assert said == {0} | {family.exit_code for family in families(errors.KeystoneError)}


def test_a_program_that_fails_unexpectedly_is_a_bug() -> None:
    assert run.CommandError.exit_code == errors.KeystoneError.exit_code == 1
