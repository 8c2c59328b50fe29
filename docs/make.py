"""What `make docs` runs: the reference of the command line, made from the commands themselves.

    python docs/make.py [FOLDER]

writes docs/reference/cli.md and, below share/, the man page and the completions that the wheel
installs; into FOLDER instead of the checkout when one is given. Equal commands give equal bytes:
no date, no width of a terminal, nothing of this machine.

click-man was tried (0.6.0): it walks `Group.commands`, which is empty in groups whose verbs are
imported when they are called, leaves arguments out, and writes one page a verb.
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
"""Where each shell looks below its prefix, once it is asked to complete the program's name."""
WIDTH = 10_000
"""Columns: a usage is one line, and no help text is broken or shortened."""

CLI_HEAD = f"""\
# The command line

Every verb of `{PROGRAM}`, as `--help` says it. Made by `make docs` from the commands: change the
words there. What the program ends with: [exit codes](exit-codes.md).

"""
COMPLETING = """\
## Completion and the man page

The wheel installs `keystone-install(1)` and completions for bash, zsh and fish below `share/` of
its prefix; an appliance has them in `/usr/share`. For the executable alone, in the shell that is to
complete:

| shell | type |
| --- | --- |
| bash 4.4 or later | `eval "$(_KEYSTONE_INSTALL_COMPLETE=bash_source keystone-install)"` |
| zsh | `eval "$(_KEYSTONE_INSTALL_COMPLETE=zsh_source keystone-install)"` |
| fish | `_KEYSTONE_INSTALL_COMPLETE=fish_source keystone-install \\| source` |
"""


@dataclass(frozen=True)
class Verb:
    """One command as --help shows it. summary: its line in the list of its group."""

    words: str
    summary: str
    group: bool
    usage: str
    text: tuple[str, ...]
    parameters: tuple[tuple[str, str], ...]


def main(root: Path) -> None:
    """Write all that is made from the commands."""
    verbs = list(walk(cli, click.Context(cli, info_name=PROGRAM, terminal_width=WIDTH), ""))
    _write(root / "docs/reference/cli.md", markdown(verbs))
    _write(root / f"share/man/man1/{PROGRAM}.1", manual(verbs))
    for shell, place in PLACES.items():
        _write(root / place, completion(shell))


def walk(command: click.Command, context: click.Context, summary: str) -> Iterator[Verb]:
    """The command and all that --help lists below it, in that order."""
    text = inspect.cleandoc(command.help or "")
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    # An argument that says nothing of itself is in the usage, and --help is everywhere.
    parameters = [
        (name, " ".join(said.split()))
        for name, said in filter(None, records)
        if name != "--help" and (said or name.startswith("-"))
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
    """Each verb of a group with its line, as the group's --help lists them."""
    formatter = click.HelpFormatter(width=WIDTH, max_width=WIDTH)
    group.format_commands(context, formatter)
    rows = [line.strip().partition(" ") for line in formatter.getvalue().splitlines()[1:]]
    return [(name, line.strip()) for name, _, line in rows]


def markdown(verbs: list[Verb]) -> str:
    """The page for the web and the checkout: a list, then a section for each verb."""
    root, *others = verbs
    top = [verb for verb in others if verb.words.count(" ") == 1]
    parts = [CLI_HEAD, "| verb | what it is for |\n| --- | --- |\n"]
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
            parts.append("\n| verb | what it does |\n| --- | --- |\n")
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
    """Text in which Markdown finds no emphasis, link or tag but code between backticks."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if part.startswith("`") else re.sub(r"([*_<>\[\]])", r"\\\1", part) for part in parts
    )


def manual(verbs: list[Verb]) -> str:
    """All of it as one page, in the macros of man(7)."""
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
    """Each code with its meaning, of the page that promises them."""
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
    """Text as groff(7) prints it unchanged: a hyphen is that of ASCII, no line is a request."""
    plain = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga")
    return f"\\&{plain}" if plain.startswith((".", "'")) else plain


def completion(shell: str) -> str:
    """The script that a shell reads, which asks the program itself at each Tab."""
    found = get_completion_class(shell)
    assert found is not None
    complete = found(cli, {}, PROGRAM, COMPLETE)
    # Not source(): for bash it asks the bash of this machine for its version.
    return complete.source_template % complete.source_vars()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1])
