"""How the questions look on a terminal, a serial line of 80 x 24 included: keys only, no mouse.

A page is a box of 80 x 24 at most, in the middle of a larger screen. Enter takes what is marked,
Tab moves, Esc goes back, F2 or Ctrl-T opens a shell. The widgets are prompt_toolkit's, which draws
what has changed only.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, TypeVar

from prompt_toolkit.application import Application, run_in_terminal
from prompt_toolkit.application.current import get_app
from prompt_toolkit.filters import has_focus
from prompt_toolkit.key_binding import KeyBindings, merge_key_bindings
from prompt_toolkit.key_binding.bindings.focus import focus_next, focus_previous
from prompt_toolkit.key_binding.defaults import load_key_bindings
from prompt_toolkit.layout import HorizontalAlign, HSplit, Layout, VerticalAlign, VSplit, Window
from prompt_toolkit.layout.controls import FormattedTextControl
from prompt_toolkit.layout.dimension import Dimension
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.styles import Style
from prompt_toolkit.widgets import Box, Button, CheckboxList, Frame, Label, RadioList, TextArea

from keystone import run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prompt_toolkit.input import Input
    from prompt_toolkit.key_binding import KeyPressEvent
    from prompt_toolkit.layout.containers import AnyContainer
    from prompt_toolkit.output import Output

    from keystone.appliance.guided.answers import Field

WIDTH, HEIGHT = 80, 24
"""Of a page, at most: what a serial line has."""
TALLEST = 15
"""Lines of a page's text where there is something to choose below it."""
LIST_AND_TEXT = HEIGHT - 7
"""Lines that the text, a list and the blank line between them have in the box."""
BACK = "Back"
ESCAPE_SECONDS = 0.5
"""A slow line may bring the bytes of one key in pieces; Esc alone is a key after this long."""
T = TypeVar("T")
TEXT, MARKED = "fg:ansiwhite bg:ansiblue", "fg:ansiblack bg:ansigray"
STYLE = Style.from_dict({
    "page": TEXT, "frame.label": "bold", "wrong": "fg:ansibrightyellow bold", "keys": MARKED,
    "button.arrow": "nobold", "button.focused": MARKED,
    "focused radio-selected": MARKED, "focused checkbox-selected": MARKED,
    "text-area": "fg:ansiwhite bg:ansiblack", "scrollbar.arrow": f"noinherit {TEXT}",
    "scrollbar.background": TEXT, "scrollbar.button": MARKED,
})  # fmt: skip
"""Of the 16 colours that each terminal has, with both text and background named: a terminal's own
may be light or dark. Nothing is underlined, which Linux draws in cyan, nor black and bold, which it
draws in grey (console_codes(4))."""


class Terminal:
    """questions.Screen on a terminal. shell: what F2 starts."""

    def __init__(
        self,
        source: Input | None = None,
        target: Output | None = None,
        shell: Sequence[str] = ("/bin/bash", "--login"),
    ) -> None:
        self._input, self._output, self._shell = source, target, shell

    def choose(
        self, title: str, text: str, options: Sequence[tuple[str, str]], default: str
    ) -> str | None:
        """One of the options."""
        listed: RadioList[str] = RadioList(
            list(options), default=default, select_on_focus=True, open_character="",
            close_character="", select_character=">", show_scrollbar=not _fits(text, options),
        )  # fmt: skip
        return self._run(title, text, listed, lambda: listed.current_value, [listed])

    def mark(
        self, title: str, text: str, options: Sequence[tuple[str, str]], marked: Sequence[str]
    ) -> tuple[str, ...] | None:
        """Any of the options, marked by the space bar."""
        if not options:
            self.show(title, f"{text}\n\nThere is no disk to mark.", BACK)
            return None
        known = [value for value, _ in options]
        text += "\n(Space marks.)"
        listed: CheckboxList[str] = CheckboxList(
            list(options), default_values=[value for value in marked if value in known]
        )
        listed.show_scrollbar = not _fits(text, options)
        return self._run(title, text, listed, lambda: tuple(listed.current_values), [listed])

    def fill(
        self,
        title: str,
        text: str,
        fields: Sequence[Field],
        wrong: Callable[[dict[str, str]], str],
    ) -> dict[str, str] | None:
        """All fields; Enter in the last one takes them when nothing is wrong."""
        areas = {
            field.key: TextArea(field.value, multiline=False, password=field.secret)
            for field in fields
        }
        for area in areas.values():
            area.buffer.cursor_position = len(area.text)
        complaint = Label("", style="class:wrong")
        rows = [
            VSplit([Window(FormattedTextControl(f"{field.label}:"), width=14), areas[field.key]])
            for field in fields
        ]

        def said() -> dict[str, str] | None:
            values = {
                field.key: areas[field.key].text if field.secret else areas[field.key].text.strip()
                for field in fields
            }
            found = wrong(values)
            complaint.text = found
            return None if found else values

        body = HSplit([*rows, Window(height=1), complaint])
        return self._run(title, text, body, said, list(areas.values()))

    def show(self, title: str, text: str, button: str, back: str = BACK) -> bool:
        """Text to read; False to go back. back: how that is called, "" where there is no way."""
        return bool(self._run(title, text, None, lambda: True, [], button, back))

    def _run(
        self,
        title: str,
        text: str,
        body: AnyContainer | None,
        value: Callable[[], T | None],
        controls: Sequence[RadioList[str] | CheckboxList[str] | TextArea],
        button: str = "Go on",
        back: str = BACK,
    ) -> T | None:
        def accept() -> None:
            taken = value()
            if taken is not None:
                get_app().exit(result=taken)

        buttons = [Button(button, accept, width=12)]
        if back not in {button, ""}:
            buttons.append(Button(back, _leave, width=len(back) + 4))
        keys = self._keys()
        for number, control in enumerate(controls):
            last = number == len(controls) - 1

            @keys.add("enter", filter=has_focus(control), eager=True)
            def _(event: KeyPressEvent, *, last: bool = last) -> None:
                if last:
                    accept()
                else:
                    focus_next(event)

            _show_focus(control)

        layout = Layout(
            _centred(_page(title, text, body, buttons, back)),
            focused_element=controls[0] if controls else buttons[0],
        )
        app: Application[T | None] = Application(
            layout=layout, key_bindings=merge_key_bindings([load_key_bindings(), keys]),
            style=STYLE, color_depth=ColorDepth.DEPTH_4_BIT, full_screen=True,
            erase_when_done=True, mouse_support=False, input=self._input, output=self._output,
        )  # fmt: skip
        app.ttimeoutlen = app.timeoutlen = ESCAPE_SECONDS
        return app.run()

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()
        keys.add("tab")(focus_next)
        keys.add("s-tab")(focus_previous)

        @keys.add("escape")
        def _(_event: KeyPressEvent) -> None:
            _leave()

        @keys.add("f2", eager=True)
        @keys.add("c-t", eager=True)
        def _(_event: KeyPressEvent) -> None:
            run_in_terminal(lambda: run.attached(list(self._shell), typing=True))

        return keys


def _page(
    title: str, text: str, body: AnyContainer | None, buttons: Sequence[Button], back: str
) -> AnyContainer:
    """The box: text, what is asked, the buttons at its bottom, and a line of the keys."""
    about = Window(
        FormattedTextControl(wrapped(text)), wrap_lines=True, dont_extend_height=True,
        height=Dimension(max=TALLEST) if body else None,
    )  # fmt: skip
    row = VSplit(buttons, padding=1, align=HorizontalAlign.CENTER, key_bindings=_arrows(buttons))
    asked = [Window(height=1), body] if body else []
    inside = Box(HSplit([about, *asked, Window(), row]), Dimension(preferred=1, max=1))
    return HSplit(
        [Frame(inside, title), Window(FormattedTextControl(_keys_line(back)), height=1,
                                      style="class:keys")],
        width=Dimension(preferred=WIDTH, max=WIDTH), height=Dimension(preferred=HEIGHT, max=HEIGHT),
        style="class:page",
    )  # fmt: skip


def _centred(page: AnyContainer) -> AnyContainer:
    return VSplit([HSplit([page], align=VerticalAlign.CENTER)], align=HorizontalAlign.CENTER)


def _keys_line(back: str) -> str:
    way = f"Esc: {back.lower()}" if back else ""
    return "   ".join(filter(None, ("Enter: take it", "Tab: next", way, "F2 or Ctrl-T: shell")))


def _arrows(buttons: Sequence[Button]) -> KeyBindings:
    """Left and right between the buttons, and no further."""
    keys = KeyBindings()
    keys.add("left", filter=~has_focus(buttons[0]))(focus_previous)
    keys.add("right", filter=~has_focus(buttons[-1]))(focus_next)
    return keys


def _show_focus(control: RadioList[str] | CheckboxList[str] | TextArea) -> None:
    """The marked line of a list is a bar while keys go there; the buttons have theirs then."""
    if isinstance(control, (RadioList, CheckboxList)):
        control.window.style = lambda: "class:focused" if has_focus(control)() else ""


def _fits(text: str, options: Sequence[object]) -> bool:
    """Whether a list is shown whole below the text: it needs no scroll bar then."""
    lines = min(wrapped(text).count("\n") + 1, TALLEST)
    return lines + 1 + len(options) <= LIST_AND_TEXT


def wrapped(text: str, width: int = WIDTH - 6) -> str:
    """Lines of at most so many columns, broken between words; an indented line stays indented."""
    lines = []
    for line in text.split("\n"):
        indent = " " * (len(line) - len(line.lstrip()))
        lines += textwrap.wrap(
            line, width, subsequent_indent=indent, replace_whitespace=False, drop_whitespace=True
        ) or [""]
    return "\n".join(lines)


def _leave() -> None:
    get_app().exit(result=None)
