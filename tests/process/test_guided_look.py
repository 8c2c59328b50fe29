"""Layout and colours of guided installation, on a small screen and on a large one."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from .test_guided_terminal import BACKSPACE, DOWN, ENTER, ESCAPE, SPACE, TAB, Line

if TYPE_CHECKING:
    from collections.abc import Iterator

SMALL, WIDE = (80, 24), (160, 50)
KEYS = "F2 or Ctrl-T: shell"
"""The end of the last line of a page: once it is shown, the page is complete."""
VGA = {
    "black": 0x000000, "red": 0xAA0000, "green": 0x00AA00, "brown": 0xAA5500, "blue": 0x0000AA,
    "magenta": 0xAA00AA, "cyan": 0x00AAAA, "white": 0xAAAAAA, "brightblack": 0x555555,
    "brightred": 0xFF5555, "brightgreen": 0x55FF55, "brightbrown": 0xFFFF55,
    "brightblue": 0x5555FF, "brightmagenta": 0xFF55FF, "brightcyan": 0x55FFFF,
    "brightwhite": 0xFFFFFF,
}  # fmt: skip
"""The 16 colours as Linux draws them on a screen, by pyte's names."""
READABLE = 4.5
"""Lowest contrast of text and its background (WCAG 2.2, 1.4.3)."""
SIXTEEN = {0, 1, 22, 39, 49, *range(30, 38), *range(40, 48), *range(90, 98)}
"""Codes of SGR (ECMA-48, 8.3.117; 90 to 97 are aixterm's) that every terminal knows. Backgrounds
are dark colours only: Linux has no others."""
MANY = """
from keystone.appliance.guided.screens import Terminal
entries = [(str(number), f"entry {number}") for number in range(40)]
Terminal().choose("Many", "Chosen entry", entries, "0")
Terminal().mark("Many", "Marked entries", entries, ["3"])
"""


@contextmanager
def terminal_line(**how: Any) -> Iterator[Line]:
    line = Line(**how)
    try:
        yield line
    finally:
        line.close()


def page(line: Line, *words: str) -> list[str]:
    """Wait for a complete page with these words; returns its lines."""
    return line.wait(*words, KEYS).split("\n")


def box(line: Line) -> tuple[int, int, int, int]:
    """First and last column, first and last line of all cells with text or a background."""
    cells = [
        (x, y)
        for y, row in line.screen.buffer.items()
        for x, cell in row.items()
        if cell.data.strip() or cell.bg != "default"
    ]
    columns, rows = [x for x, _ in cells], [y for _, y in cells]
    return min(columns), max(columns), min(rows), max(rows)


def contrast(text: str, ground: str) -> float:
    """Contrast ratio of two VGA colours (WCAG 2.2, "contrast ratio")."""
    lighter, darker = sorted((luminance(VGA[text]), luminance(VGA[ground])), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: int) -> float:
    shares = [(colour >> shift & 0xFF) / 255 for shift in (16, 8, 0)]
    red, green, blue = (
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def readable(line: Line) -> None:
    """Assert that each character has contrast, also where bold means bright."""
    seen = {
        (cell.fg, cell.bg, cell.bold)
        for row in line.screen.buffer.values()
        for cell in row.values()
        if cell.data.strip()
    }
    for text, ground, bold in seen:
        assert contrast(text, ground) >= READABLE, f"{text} on {ground}"
        if bold and f"bright{text}" in VGA:
            assert contrast(f"bright{text}", ground) >= READABLE, f"bold {text} on {ground}"
    assert not any(
        cell.underscore or cell.reverse
        for row in line.screen.buffer.values()
        for cell in row.values()
    )


def sixteen(line: Line) -> None:
    """Assert that only codes that every terminal knows were sent."""
    sent = re.findall(rb"\x1b\[([\d;:]*)m", line.received)
    codes = {int(code or 0) for group in sent for code in re.split(rb"[;:]", group)}
    assert codes <= SIXTEEN, codes - SIXTEEN
    assert codes & set(range(40, 48))


def test_contrast_of_unreadable_colours_below_limit() -> None:
    """An earlier theme had fields in cyan on grey, a focused arrow in dark grey on grey."""
    assert contrast("cyan", "white") < READABLE
    assert contrast("brightblack", "white") < READABLE
    assert contrast("brightwhite", "blue") > READABLE


@pytest.mark.parametrize(
    ("size", "where"),
    [(SMALL, (0, 79, 0, 23)), (WIDE, (40, 119, 13, 36)), ((90, 30), (5, 84, 3, 26))],
)
def test_each_page_is_a_centred_box(
    size: tuple[int, int], where: tuple[int, int, int, int]
) -> None:
    with terminal_line(size=size) as line:
        for words in ("This machine:", "> a joining Primer", "Network:"):
            shown = page(line, words)
            assert box(line) == where
            left, right, top, _ = where
            assert shown[top][left : right + 1].startswith("┌")
            assert shown[top].endswith("┐")
            assert len(shown[top]) == right + 1
            line.type(ENTER)


def test_smaller_screen_shows_box_of_its_size() -> None:
    with terminal_line(size=(66, 18)) as line:
        shown = page(line, "This machine:", "Continue")
        assert box(line) == (0, 65, 0, 17)
        assert shown[0].startswith("┌")
        assert shown[0].endswith("┐")


@pytest.mark.parametrize("size", [SMALL, WIDE])
def test_text_of_every_kind_of_page_is_readable(size: tuple[int, int]) -> None:
    with terminal_line(size=size) as line:

        def next_page(*words: str) -> None:
            page(line, *words)
            readable(line)

        next_page("This machine:")
        line.type(ENTER)
        next_page("> a joining Primer")
        line.type(TAB)  # to the buttons: the list loses the focus
        next_page("> a joining Primer")
        line.type(TAB, TAB, ENTER)
        next_page("Network:")
        line.type("!", ENTER, ENTER, ENTER)
        next_page("site!", "lower")
        line.type(TAB, TAB, TAB, BACKSPACE, ENTER, ENTER, ENTER)
        next_page("> two disks in each Primer")
        line.type(ENTER)
        next_page("Address:")
        line.type(ENTER, "10.77.0.12", ENTER)
        next_page("eno2, igb, cable")
        line.type(ENTER)
        next_page("> CUT")
        line.type(ENTER)
        next_page("[ ] KEYP2A")
        line.type(SPACE, DOWN, SPACE, DOWN, ENTER)
        next_page("Review", "> only save this")
        sixteen(line)


def test_list_has_scroll_bar_only_if_it_does_not_fit() -> None:
    with terminal_line(program=MANY) as line:
        for mark in ("> entry 0", "[*] entry 3"):
            shown = page(line, mark)
            assert any(row.endswith("^ │") for row in shown)
            assert any(row.endswith("v │") for row in shown)
            readable(line)
            line.type(ENTER)
        sixteen(line)
    with terminal_line() as line:
        page(line, "This machine:")
        line.type(ENTER)
        assert not any(row.endswith("^ │") for row in page(line, "> a joining Primer"))


@pytest.mark.parametrize("size", [SMALL, WIDE])
def test_first_page_has_rescan_instead_of_back(size: tuple[int, int]) -> None:
    with terminal_line(size=size) as line:
        shown = "\n".join(page(line, "This machine:"))
        assert "back" not in shown.lower()
        assert "Rescan" in shown
        assert "Esc: rescan" in shown
        line.type(ENTER)
        shown = "\n".join(page(line, "> a joining Primer"))
        assert "< Back >" in shown
        assert "Esc: back" in shown


def test_page_without_back_has_one_button() -> None:
    alone = """
from keystone.appliance.guided.screens import Terminal
print("GIVEN", Terminal().show("Saved", "It is on the stick.", "Continue", ""), "END")
"""
    with terminal_line(program=alone) as line:
        shown = "\n".join(page(line, "It is on the stick."))
        assert "Back" not in shown
        assert "Esc" not in shown
        line.type(ESCAPE)
        line.wait("GIVEN False END")


def test_page_is_erased_before_next_output() -> None:
    """Output between pages does not mix with the last page, on a screen of any size."""
    with terminal_line(size=WIDE) as line:
        page(line, "This machine:")
        line.type(ESCAPE)
        line.wait("ANSWERS null END")
        assert "This machine" not in line.shown()
        assert box(line)[3] == 0


def test_machine_without_serial_number_identified_by_macs() -> None:
    with terminal_line(size=WIDE, serial="") as line:
        shown = "\n".join(page(line, "This machine:", "MAC", "52:54:00:00:00:13"))
        assert "no serial number in firmware" in shown
        assert "identifies it by its MAC addresses instead" in shown
        assert "unknown" not in shown
