"""What --help lists can be called, and what can be called on purpose is listed."""

from __future__ import annotations

import os
import subprocess  # noqa: TID251 what it says behind a full disk is tried from outside
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
OWN_WORDS = [cli.cli, bundle.group]
"""Groups that list their verbs in other words than those of the verbs."""
HIDDEN = {(): {"join-server", "node-identity"}, ("image",): {"converge"}}
HEAVY = ["cryptography", "jsonschema", "prompt_toolkit", "requests", "tuf", "yaml"]


def groups(group: Verbs, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Verbs]]:
    """This group and all below it, each with the words that call it."""
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
def test_every_verb_is_listed_once_and_found(group: Verbs, path: tuple[str, ...]) -> None:
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
def test_a_list_says_of_a_verb_what_the_verb_says(group: Verbs, path: tuple[str, ...]) -> None:
    context = click.Context(group)
    for name, summary in group._summaries.items():
        command = group.get_command(context, name)
        assert command is not None
        if group in OWN_WORDS:
            shown = CliRunner().invoke(group, ["--help"], terminal_width=WIDTH).output
            assert summary in shown, "a summary fits its line"
        else:
            assert summary == command.get_short_help_str(1000), name


@pytest.mark.parametrize(("group", "path"), GROUPS)
def test_each_verb_is_in_the_file_of_its_name(group: Verbs, path: tuple[str, ...]) -> None:
    room = ".".join(["keystone.cli", *path]).replace("-", "_")
    for name, where in group._modules.items():
        module, _, attribute = where.partition(":")
        assert module.rstrip("_") == f"{room}.{name.replace('-', '_')}"
        assert attribute in ("verb", "group")


def test_help_of_all_groups_imports_nothing_slow() -> None:
    """Old and emulated hosts take a second for each of these libraries."""
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


def test_completion_knows_verbs_without_importing_them() -> None:
    context = click.Context(image.group)
    known = {item.value: item.help for item in image.group.shell_complete(context, "b")}
    assert known == {name: image.SUMMARIES[name] for name in ("bless", "build")}
    assert "--help" in {item.value for item in image.group.shell_complete(context, "--")}


def test_a_mistyped_verb_is_answered_with_the_nearest() -> None:
    result = CliRunner().invoke(bundle.group, ["chek"])
    assert result.exit_code == 2
    assert "did you mean 'check'?" in result.output
    assert "No such command" in CliRunner().invoke(bundle.group, ["zzz"]).output


@pytest.mark.parametrize(("group", "verb"), [(trust.group, "show"), (keys.group, "init")])
def test_dir_is_the_one_word_and_the_other_still_works(group: click.Group, verb: str) -> None:
    shown = CliRunner().invoke(group, [verb, "--help"]).output
    assert "--dir" in shown
    assert "--directory" not in shown
    given = CliRunner().invoke(group, [verb, "--directory", "/proc/none", "--no-such"])
    assert "No such option '--no-such'" in given.output, "and --directory is one"


def test_an_answer_that_a_full_disk_does_not_take_is_one_line() -> None:
    with Path("/dev/full").open("wb") as full:  # ENOSPC to every write (full(4))
        done = subprocess.run(
            [sys.executable, "-m", "keystone", "site", "schema"],
            stdout=full, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    assert done.returncode == 8
    assert b"standard output: No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr
