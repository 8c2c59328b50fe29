"""Verbs: --help lists all verbs except hidden ones, and all can be called."""

from __future__ import annotations

import os
import subprocess  # noqa: TID251 the output to a full disk is tested from outside
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click
import pytest
from click.testing import CliRunner

from keystone import cli, run
from keystone.cli import bundle, image, trust
from keystone.cli.bundle import keys
from keystone.cli.lazy import Verbs

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH = 80
OWN_SUMMARIES = [cli.cli, bundle.group]
"""Groups whose summaries differ from the first sentence of their verbs' help."""
HIDDEN = {(): {"join-server", "member", "node-identity", "readers"}, ("image",): {"converge"}}
HEAVY = ["cryptography", "jsonschema", "prompt_toolkit", "requests", "tuf", "yaml"]


def groups(group: Verbs, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Verbs]]:
    """Yield a group and all groups below it, each with the words that call it."""
    yield path, group
    for name, where in group._modules.items():
        if where.endswith(":group"):
            below = group.get_command(click.Context(group), name)
            if isinstance(below, Verbs):
                yield from groups(below, (*path, name))


GROUPS = [
    pytest.param(group, path, id=" ".join(path) or "root")
    for path, group in groups(cast("Verbs", cli.cli))
]


@pytest.mark.parametrize(("group", "path"), GROUPS)
def test_every_verb_can_be_imported_and_is_listed_unless_hidden(
    group: Verbs, path: tuple[str, ...]
) -> None:
    context, hidden = click.Context(group), HIDDEN.get(path, set())
    assert set(group._modules) == set(group._summaries) | hidden
    for name in group._modules:
        assert isinstance(group.get_command(context, name), click.Command), name
    assert set(group.commands) == set(), "a verb has a module of its own"
    shown = CliRunner().invoke(group, ["--help"], terminal_width=WIDTH).output
    for name in group._summaries:
        assert f"\n  {name} " in shown
    assert not any(f"\n  {name} " in shown for name in hidden)


@pytest.mark.parametrize(("group", "path"), GROUPS)
def test_summary_of_verb_is_first_sentence_of_its_help(group: Verbs, path: tuple[str, ...]) -> None:
    context = click.Context(group)
    for name, summary in group._summaries.items():
        command = group.get_command(context, name)
        assert command is not None
        if group in OWN_SUMMARIES:
            shown = CliRunner().invoke(group, ["--help"], terminal_width=WIDTH).output
            assert summary in shown, "a summary fits its line"
        else:
            assert summary == command.get_short_help_str(1000), name


@pytest.mark.parametrize(("group", "path"), GROUPS)
def test_verb_is_in_module_of_its_name(group: Verbs, path: tuple[str, ...]) -> None:
    package = ".".join(["keystone.cli", *path]).replace("-", "_")
    for name, where in group._modules.items():
        module, _, attribute = where.partition(":")
        assert module.rstrip("_") == f"{package}.{name.replace('-', '_')}"
        assert attribute in ("verb", "group")


def test_help_of_groups_imports_no_slow_library() -> None:
    """Old and emulated hosts take a second to import each of these libraries."""
    words = [[*group.values[1], "--help"] for group in GROUPS] + [["etcd", "--help"]]
    program = f"""
import sys
from keystone.cli import cli
for words in {words}:
    cli(words, standalone_mode=False)
print([name for name in {HEAVY} if name in sys.modules])
"""
    here = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = run.run([sys.executable, "-c", program], env=here)
    assert done.stdout.count("Usage:") == len(words)
    assert done.stdout.splitlines()[-1] == "[]"


def test_completion_lists_verbs_and_options() -> None:
    context = click.Context(image.group)
    known = {item.value: item.help for item in image.group.shell_complete(context, "b")}
    assert known == {name: image.SUMMARIES[name] for name in ("bless", "build")}
    assert "--help" in {item.value for item in image.group.shell_complete(context, "--")}


def test_mistyped_verb_gets_suggestion_of_closest_verb() -> None:
    result = CliRunner().invoke(bundle.group, ["chek"])
    assert result.exit_code == 2
    assert "did you mean 'check'?" in result.output
    assert "No such command" in CliRunner().invoke(bundle.group, ["zzz"]).output


@pytest.mark.parametrize(("group", "verb"), [(trust.group, "show"), (keys.group, "init")])
def test_help_shows_dir_and_former_name_directory_still_works(
    group: click.Group, verb: str
) -> None:
    shown = CliRunner().invoke(group, [verb, "--help"]).output
    assert "--dir" in shown
    assert "--directory" not in shown
    given = CliRunner().invoke(group, [verb, "--directory", "/proc/none", "--no-such"])
    assert "No such option '--no-such'" in given.output, "and --directory is one"


def test_full_disk_at_standard_output_gives_one_line_error() -> None:
    with Path("/dev/full").open("wb") as full:  # ENOSPC to every write (full(4))
        done = subprocess.run(
            [sys.executable, "-m", "keystone", "site", "schema"],
            stdout=full, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    assert done.returncode == 8
    assert b"standard output: No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr
