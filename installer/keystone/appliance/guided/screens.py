"""How the questions look on a terminal, a serial line of 80 x 24 included: keys only, no mouse.

Enter takes what is marked, Tab moves, Esc goes back, F2 or Ctrl-T opens a shell. The widgets are
prompt_toolkit's; it draws what has changed only, which a line of 9,600 baud is grateful for.
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
from prompt_toolkit.layout import HSplit, Layout, VSplit, Window
from prompt_toolkit.layout.controls import FormattedTextControl
from prompt_toolkit.layout.dimension import Dimension
from prompt_toolkit.styles import Style
from prompt_toolkit.widgets import Button, CheckboxList, Dialog, Label, RadioList, TextArea

from keystone import run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prompt_toolkit.input import Input
    from prompt_toolkit.key_binding import KeyPressEvent
    from prompt_toolkit.layout.containers import AnyContainer
    from prompt_toolkit.output import Output

    from keystone.appliance.guided.answers import Field

KEYS = "Enter: take it   Tab: next   Esc: back   F2 or Ctrl-T: shell"
WIDTH, TALLEST = 78, 15
BACK = "Back"
ESCAPE_SECONDS = 0.5
"""A slow line may bring the bytes of one key in pieces; Esc alone is a key after this long."""
T = TypeVar("T")
STYLE = Style.from_dict({
    "dialog": "bg:default", "dialog.body": "bg:default fg:default", "dialog shadow": "bg:default",
    "frame.label": "bold", "button.focused": "reverse", "radio-selected": "reverse",
    "checkbox-selected": "reverse", "text-area": "underline", "wrong": "bold",
})  # fmt: skip


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
            close_character="", select_character=">",
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
        listed: CheckboxList[str] = CheckboxList(
            list(options), default_values=[value for value in marked if value in known]
        )
        text += "\n(Space marks.)"
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

    def show(self, title: str, text: str, button: str) -> bool:
        """Text to read; False to go back."""
        body = Window(height=0)
        return bool(self._run(title, text, body, lambda: True, [], button))

    def _run(
        self,
        title: str,
        text: str,
        body: AnyContainer,
        value: Callable[[], T | None],
        controls: Sequence[RadioList[str] | CheckboxList[str] | TextArea],
        button: str = "Go on",
    ) -> T | None:
        def accept() -> None:
            taken = value()
            if taken is not None:
                get_app().exit(result=taken)

        buttons = [Button(button, accept, width=12)]
        if button != BACK:
            buttons.append(Button(BACK, _leave, width=8))
        about = Window(
            FormattedTextControl(wrapped(text)), wrap_lines=True, dont_extend_height=True,
            height=Dimension(max=TALLEST),
        )  # fmt: skip
        dialog = Dialog(
            HSplit([about, Window(height=1), body]),
            title=title, buttons=buttons, width=Dimension(preferred=WIDTH), with_background=False,
        )  # fmt: skip
        keys = self._keys()
        for number, control in enumerate(controls):
            last = number == len(controls) - 1

            @keys.add("enter", filter=has_focus(control), eager=True)
            def _(event: KeyPressEvent, *, last: bool = last) -> None:
                if last:
                    accept()
                else:
                    focus_next(event)

        layout = Layout(
            HSplit([dialog, Window(FormattedTextControl(KEYS), height=1, style="reverse")]),
            focused_element=controls[0] if controls else buttons[0],
        )
        app: Application[T | None] = Application(
            layout=layout, key_bindings=merge_key_bindings([load_key_bindings(), keys]),
            style=STYLE, full_screen=True, mouse_support=False, input=self._input,
            output=self._output,
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


def wrapped(text: str, width: int = WIDTH - 4) -> str:
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
