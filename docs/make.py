"""Write the command-line reference, the man page and completions from the commands (`make docs`).

    python docs/make.py [FOLDER]

writes docs/reference/cli.md and, below share/, the man page and the completions that the wheel
installs; into FOLDER, if given, instead of the checkout. The same commands give the same bytes:
the output contains no date, and does not depend on the terminal's width or on this machine.

click-man 0.6.0 was tried: it walks `Group.commands`, which is empty in groups that import their
verbs only when they are called, omits arguments, and writes one page for each verb.
"""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import get_completion_class

from keystone import __version__
from keystone.cli import cli

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = "keystone-install"
COMPLETE = "_KEYSTONE_INSTALL_COMPLETE"
PLACES = {
    "bash": f"share/bash-completion/completions/{PROGRAM}",
    "zsh": f"share/zsh/site-functions/_{PROGRAM}",
    "fish": f"share/fish/vendor_completions.d/{PROGRAM}.fish",
}
"""The file that each shell loads, below its prefix, to complete the program's arguments."""
WIDTH = 10_000
"""In columns: keeps each usage on one line, and no help text is wrapped or shortened."""

CLI_HEAD = f"""\
# The command line

This page is for users of `{PROGRAM}`: look up every verb and option, as `--help` shows it.
`make docs` writes it from the commands: change the text there.
See also [exit codes](exit-codes.md).

"""
COMPLETING = """\
## Completion and the man page

The wheel installs `keystone-install(1)` and completions for bash, zsh and fish below `share/` of
its prefix; an appliance has them in `/usr/share`. To use completion with the executable alone, type
in your shell:

| shell | type |
| --- | --- |
| bash 4.4 or later | `eval "$(_KEYSTONE_INSTALL_COMPLETE=bash_source keystone-install)"` |
| zsh | `eval "$(_KEYSTONE_INSTALL_COMPLETE=zsh_source keystone-install)"` |
| fish | `_KEYSTONE_INSTALL_COMPLETE=fish_source keystone-install \\| source` |
"""


@dataclass(frozen=True)
class Verb:
    """A command as --help shows it. summary: its line in the list of its group."""

    words: str
    summary: str
    group: bool
    usage: str
    text: tuple[str, ...]
    parameters: tuple[tuple[str, str], ...]


def main(root: Path) -> None:
    """Write all generated files below `root`."""
    verbs = list(walk(cli, click.Context(cli, info_name=PROGRAM, terminal_width=WIDTH), ""))
    _write(root / "docs/reference/cli.md", markdown(verbs))
    _write(root / f"share/man/man1/{PROGRAM}.1", manual(verbs))
    for shell, place in PLACES.items():
        _write(root / place, completion(shell))


def walk(command: click.Command, context: click.Context, summary: str) -> Iterator[Verb]:
    """Yield the command and all commands that --help lists below it, in that order."""
    text = inspect.cleandoc(command.help or "")
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    # Omit --help, and arguments without a help text: the usage shows those.
    parameters = [
        (name, " ".join(help_text.split()))
        for name, help_text in filter(None, records)
        if name != "--help" and (help_text or name.startswith("-"))
    ]
    yield Verb(
        words=context.command_path,
        summary=summary,
        group=isinstance(command, click.Group),
        usage=" ".join([context.command_path, *command.collect_usage_pieces(context)]),
        text=tuple(" ".join(part.split()) for part in re.split(r"\n\s*\n", text)),
        parameters=tuple(parameters),
    )
    if not isinstance(command, click.Group):
        return
    summaries = dict(command_lines(command, context))
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        if below is not None:
            inner = click.Context(below, info_name=name, parent=context, terminal_width=WIDTH)
            yield from walk(below, inner, summaries[name])


def command_lines(group: click.Group, context: click.Context) -> list[tuple[str, str]]:
    """Return each verb of a group with its summary, as the group's --help lists them."""
    formatter = click.HelpFormatter(width=WIDTH, max_width=WIDTH)
    group.format_commands(context, formatter)
    rows = [line.strip().partition(" ") for line in formatter.getvalue().splitlines()[1:]]
    return [(name, line.strip()) for name, _, line in rows]


def markdown(verbs: list[Verb]) -> str:
    """Return docs/reference/cli.md: a list of the verbs, then a section for each."""
    root, *others = verbs
    top = [verb for verb in others if verb.words.count(" ") == 1]
    parts = [CLI_HEAD, "| verb | purpose |\n| --- | --- |\n"]
    parts += [f"| [{_short(verb)}](#{_anchor(verb)}) | {verb.summary} |\n" for verb in top]
    for verb in verbs:
        level = "##" if verb is root or verb in top else "###"
        title = f"`{PROGRAM}`" if verb is root else _short(verb)
        parts.append(f"\n{level} {title}\n\n```\n{verb.usage}\n```\n")
        parts += [f"\n{_escaped(paragraph)}\n" for paragraph in verb.text]
        if verb.parameters:
            parts.append("\n| | |\n| --- | --- |\n")
            parts += [f"| `{_cell(name)}` | {_escaped(_cell(text))} |\n"
                      for name, text in verb.parameters]  # fmt: skip
        below = [one for one in others if one.words.rpartition(" ")[0] == verb.words]
        if below and verb is not root:
            parts.append("\n| verb | purpose |\n| --- | --- |\n")
            parts += [f"| [{_short(one)}](#{_anchor(one)}) | {_escaped(one.summary)} |\n"
                      for one in below]  # fmt: skip
    return "".join([*parts, "\n", COMPLETING])


def _short(verb: Verb) -> str:
    return verb.words.removeprefix(f"{PROGRAM} ")


def _anchor(verb: Verb) -> str:
    return _short(verb).replace(" ", "-")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _escaped(text: str) -> str:
    """Escape Markdown's emphasis, links and tags, except in code between backticks."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if part.startswith("`") else re.sub(r"([*_<>\[\]])", r"\\\1", part) for part in parts
    )


def manual(verbs: list[Verb]) -> str:
    """Return the man page: all verbs on one page, in the macros of man(7)."""
    root, *others = verbs
    lines = [
        f'.TH "{PROGRAM.upper()}" 1 "" "Keystone {__version__}" "Keystone"',
        ".SH NAME", f"{_roff(PROGRAM)} \\- {_roff(_name_line(root))}",
        ".SH SYNOPSIS",
        ".nf", _roff(f"{PROGRAM} --bundle FILE --site FILE [--plan | --yes]"),
        _roff(f"{PROGRAM} COMMAND [ARGS]..."), ".fi",
        ".SH DESCRIPTION", *_paragraphs(root.text),
        ".SH OPTIONS", *_options(root.parameters),
        ".SH COMMANDS",
    ]  # fmt: skip
    for verb in others:
        lines += [f".SS {_roff(_short(verb))}"]
        if verb.group:
            lines += _paragraphs(verb.text)
            continue
        lines += [".nf", _roff(verb.usage), ".fi", ".PP", *_paragraphs(verb.text)]
        lines += _options(verb.parameters)
    lines += [".SH EXIT STATUS"]
    lines += _options(exit_codes())
    return "\n".join(lines) + "\n"


def _name_line(root: Verb) -> str:
    text = root.text[0].rstrip(".")
    return text[0].lower() + text[1:]


def exit_codes() -> tuple[tuple[str, str], ...]:
    """Return each exit code with its meaning, from docs/reference/exit-codes.md."""
    page = Path(__file__).with_name("reference") / "exit-codes.md"
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    return tuple(rows)


def _paragraphs(text: tuple[str, ...]) -> Iterator[str]:
    for number, paragraph in enumerate(text):
        if number:
            yield ".PP"
        yield _roff(paragraph)


def _options(parameters: tuple[tuple[str, str], ...]) -> Iterator[str]:
    for name, text in parameters:
        yield from (".TP", f"\\fB{_roff(name)}\\fR")
        if text:
            yield _roff(text)


def _roff(text: str) -> str:
    """Escape text so that groff(7) prints it unchanged: ASCII hyphens, and no line is a request."""
    plain = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga")
    return f"\\&{plain}" if plain.startswith((".", "'")) else plain


def completion(shell: str) -> str:
    """Return the completion script for a shell; it calls the program at each Tab."""
    found = get_completion_class(shell)
    assert found is not None
    complete = found(cli, {}, PROGRAM, COMPLETE)
    # Not source(): for bash it runs the bash of this machine to get its version.
    return complete.source_template % complete.source_vars()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1])
