"""The first page of the guided way: what the machine is known by, and the one way on from it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keystone.appliance.guided import questions
from keystone.appliance.identity import Hardware, who
from keystone.errors import RefusedError

from .test_guided import BACK, Script, seen
from .test_join_file import DESCRIBED

MACS = ("52:54:00:00:00:02", "52:54:00:00:00:03")
NEITHER = (
    "So a site file cannot name it: put in a network card or set a serial number in its firmware, "
    "then look again."
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
                "The site file names it by its MAC addresses instead: they are enough.",
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
def test_it_says_what_the_machine_is_known_by(here: Hardware, lines: tuple[str, ...]) -> None:
    script = Script(BACK)
    questions.ask(script, replace(seen(2), here=here, vouched="vouched"))
    text = script.asked[0][1]
    assert tuple(text.splitlines()[: len(lines) + 1]) == (*lines, "vouched")
    assert "unknown" not in text


def test_it_looks_again_in_the_place_of_going_back() -> None:
    script = Script(None, BACK, BACK)
    assert questions.ask(script, seen(1)) is None
    assert script.ways_back == [questions.LOOK_AGAIN, questions.LOOK_AGAIN]


@pytest.mark.parametrize(
    ("here", "hint"),
    [
        (Hardware("M9", MACS), "with its serial number or MAC; "),
        (Hardware("", MACS), "with its MAC; "),
    ],
)
def test_unattended_only_what_the_machine_has_is_asked_for(here: Hardware, hint: str) -> None:
    with pytest.raises(RefusedError, match=r"is no worker of join\.yaml") as caught:
        who(None, DESCRIBED, here)
    assert hint in (caught.value.hint or "")
    assert here.describe() in caught.value.message
