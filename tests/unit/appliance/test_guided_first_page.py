"""First page of guided installation: how the machine is identified, and its two buttons."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.join.test_join_file import DESCRIBED

from keystone.appliance.guided import questions
from keystone.appliance.identity import Hardware, who
from keystone.errors import RefusedError

from .test_guided import BACK, Script, seen

MACS = ("52:54:00:00:00:02", "52:54:00:00:00:03")
NEITHER = (
    "A site file cannot identify it: install a network card or set a serial number in its "
    "firmware, then choose Rescan."
)
BOTH = f"MAC {MACS[0]}, {MACS[1]}"


@pytest.mark.parametrize(
    ("here", "lines"),
    [
        (Hardware("M2", MACS), ("This machine: serial number M2, " + BOTH,)),
        (Hardware("M2", ()), ("This machine: serial number M2, no network card",)),
        (
            Hardware("", MACS),
            (
                "This machine: no serial number in firmware, " + BOTH,
                "The site file identifies it by its MAC addresses instead, which is sufficient.",
            ),
        ),
        (
            Hardware("", ()),
            (
                "This machine: no serial number in firmware, no network card",
                NEITHER,
            ),
        ),
    ],
)
def test_first_page_shows_how_machine_is_identified(here: Hardware, lines: tuple[str, ...]) -> None:
    script = Script(BACK)
    questions.ask(script, replace(seen(2), here=here, vouched="vouched"))
    text = script.asked[0][1]
    assert tuple(text.splitlines()[: len(lines) + 1]) == (*lines, "vouched")
    assert "unknown" not in text


def test_first_page_has_rescan_instead_of_back() -> None:
    script = Script(None, BACK, BACK)
    assert questions.ask(script, seen(1)) is None
    assert script.back_labels == [questions.RESCAN, questions.RESCAN]


@pytest.mark.parametrize(
    ("here", "hint"),
    [
        (Hardware("M9", MACS), "with its serial number or MAC; "),
        (Hardware("", MACS), "with its MAC; "),
    ],
)
def test_unattended_refusal_hint_names_only_identifiers_of_machine(
    here: Hardware, hint: str
) -> None:
    with pytest.raises(RefusedError, match=r"is no worker of join\.yaml") as caught:
        who(None, DESCRIBED, here)
    assert hint in (caught.value.hint or "")
    assert here.describe() in caught.value.message
