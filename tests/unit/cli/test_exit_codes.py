"""docs/reference/exit-codes.md lists exactly the exit codes of the program."""

from __future__ import annotations

import re
from pathlib import Path

from keystone import errors, run

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "exit-codes.md"


def subclasses(root: type[errors.KeystoneError]) -> set[type[errors.KeystoneError]]:
    return {root}.union(*(subclasses(child) for child in root.__subclasses__()))


def test_page_lists_exactly_the_exit_codes_of_errors() -> None:
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE.read_text(), re.MULTILINE)}
    assert listed == {0} | {error.exit_code for error in subclasses(errors.KeystoneError)}


def test_failure_of_other_program_has_exit_code_1() -> None:
    assert run.CommandError.exit_code == errors.KeystoneError.exit_code == 1
