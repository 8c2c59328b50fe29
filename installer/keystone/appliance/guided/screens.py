"""Draw the questions on a terminal, at least a serial line of 80 x 24: keyboard only, no mouse.

A page is a box of at most 80 x 24, centred on a larger screen. Enter accepts the selection, Tab
moves the focus, Esc goes back, F2 or Ctrl-T opens a shell. The widgets are prompt_toolkit's, which
redraws only the cells that changed.
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
"""Largest size of a page, in columns and lines: the size of a serial line."""
TALLEST = 15
"""Most lines of text on a page that also has a list or fields."""
LIST_AND_TEXT = HEIGHT - 7
"""Lines in the box for the text, a blank line and a list."""
BACK = "Back"
ESCAPE_SECONDS = 0.5
"""Seconds after which Esc counts as a key of its own: on a slow line the bytes of one key sequence
arrive one by one."""
T = TypeVar("T")
TEXT, MARKED = "fg:ansiwhite bg:ansiblue", "fg:ansiblack bg:ansigray"
STYLE = Style.from_dict({
    "page": TEXT, "frame.label": "bold", "wrong": "fg:ansibrightyellow bold", "keys": MARKED,
    "button.arrow": "nobold", "button.focused": MARKED,
    "focused radio-selected": MARKED, "focused checkbox-selected": MARKED,
    "text-area": "fg:ansiwhite bg:ansiblack", "scrollbar.arrow": f"noinherit {TEXT}",
    "scrollbar.background": TEXT, "scrollbar.button": MARKED,
})  # fmt: skip
"""Only the 16 colours that every terminal has. Text and background are both set, since a terminal's
default background may be light or dark. Nothing is underlined, because Linux draws that in cyan,
and nothing is bold black, because Linux draws that in grey (console_codes(4))."""


class Terminal:
    """answers.Screen on a terminal. shell: the command that F2 starts."""

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
        """Ask for one of the options; None to go back."""
        listed: RadioList[str] = RadioList(
            list(options), default=default, select_on_focus=True, open_character="",
            close_character="", select_character=">", show_scrollbar=not _fits(text, options),
        )  # fmt: skip
        return self._run(title, text, listed, lambda: listed.current_value, [listed])

    def mark(
        self, title: str, text: str, options: Sequence[tuple[str, str]], marked: Sequence[str]
    ) -> tuple[str, ...] | None:
        """Ask for any number of the options, each marked with the space bar; None to go back."""
        if not options:
            self.show(title, f"{text}\n\nNo disk is available.", BACK)
            return None
        known = [value for value, _ in options]
        text += "\n(Space: mark or unmark)"
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
        """Ask for all fields; Enter in the last one accepts them if `wrong` returns ""."""
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

        def entered() -> dict[str, str] | None:
            values = {
                field.key: areas[field.key].text if field.secret else areas[field.key].text.strip()
                for field in fields
            }
            found = wrong(values)
            complaint.text = found
            return None if found else values

        body = HSplit([*rows, Window(height=1), complaint])
        return self._run(title, text, body, entered, list(areas.values()))

    def show(self, title: str, text: str, button: str, back: str = BACK) -> bool:
        """Show a text; False to go back. back: the label of that button, "" for no such button."""
        return bool(self._run(title, text, None, lambda: True, [], button, back))

    def _run(
        self,
        title: str,
        text: str,
        body: AnyContainer | None,
        value: Callable[[], T | None],
        controls: Sequence[RadioList[str] | CheckboxList[str] | TextArea],
        button: str = "Continue",
        back: str = BACK,
    ) -> T | None:
        def accept() -> None:
            accepted = value()
            if accepted is not None:
                get_app().exit(result=accepted)

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
    """The box with the text, the body and a row of buttons, and below it the line of keys."""
    about = Window(
        FormattedTextControl(wrapped(text)), wrap_lines=True, dont_extend_height=True,
        height=Dimension(max=TALLEST) if body else None,
    )  # fmt: skip
    row = VSplit(buttons, padding=1, align=HorizontalAlign.CENTER, key_bindings=_arrows(buttons))
    below = [Window(height=1), body] if body else []
    inside = Box(HSplit([about, *below, Window(), row]), Dimension(preferred=1, max=1))
    return HSplit(
        [Frame(inside, title), Window(FormattedTextControl(_keys_line(back)), height=1,
                                      style="class:keys")],
        width=Dimension(preferred=WIDTH, max=WIDTH), height=Dimension(preferred=HEIGHT, max=HEIGHT),
        style="class:page",
    )  # fmt: skip


def _centred(page: AnyContainer) -> AnyContainer:
    return VSplit([HSplit([page], align=VerticalAlign.CENTER)], align=HorizontalAlign.CENTER)


def _keys_line(back: str) -> str:
    escape = f"Esc: {back.lower()}" if back else ""
    return "   ".join(filter(None, ("Enter: accept", "Tab: next", escape, "F2 or Ctrl-T: shell")))


def _arrows(buttons: Sequence[Button]) -> KeyBindings:
    """Bind left and right to move between the buttons, without wrapping around."""
    keys = KeyBindings()
    keys.add("left", filter=~has_focus(buttons[0]))(focus_previous)
    keys.add("right", filter=~has_focus(buttons[-1]))(focus_next)
    return keys


def _show_focus(control: RadioList[str] | CheckboxList[str] | TextArea) -> None:
    """Highlight the current line of a list only while the list, not a button, has the focus."""
    if isinstance(control, (RadioList, CheckboxList)):
        control.window.style = lambda: "class:focused" if has_focus(control)() else ""


def _fits(text: str, options: Sequence[object]) -> bool:
    """Whether the whole list fits below the text, so that it needs no scroll bar."""
    lines = min(wrapped(text).count("\n") + 1, TALLEST)
    return lines + 1 + len(options) <= LIST_AND_TEXT


def wrapped(text: str, width: int = WIDTH - 6) -> str:
    """Wrap the text between words to lines of `width` columns, keeping each line's indentation."""
    lines = []
    for line in text.split("\n"):
        indent = " " * (len(line) - len(line.lstrip()))
        lines += textwrap.wrap(
            line, width, subsequent_indent=indent, replace_whitespace=False, drop_whitespace=True
        ) or [""]
    return "\n".join(lines)


def _leave() -> None:
    get_app().exit(result=None)
