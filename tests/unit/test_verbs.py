"""What --help lists can be called, and what can be called on purpose is listed."""

from __future__ import annotations

import subprocess  # noqa: TID251 what it says behind a full disk is tried from outside
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from keystone import cli
from keystone.cli import bundle, trust
from keystone.cli.bundle import keys
from keystone.cli.lazy import Verbs

GROUPS = [(cli.cli, cli.SUMMARIES, {"join-server"}), (bundle.group, bundle.SUMMARIES, set())]
WIDTH = 80


@pytest.mark.parametrize(("group", "summaries", "hidden"), GROUPS)
def test_every_verb_is_listed_once_and_found(
    group: Verbs, summaries: dict[str, str], hidden: set[str]
) -> None:
    context = click.Context(group)
    for name in (*summaries, *hidden):
        assert isinstance(group.get_command(context, name), click.Command), name
    assert set(group.commands) <= set(summaries)
    shown = CliRunner().invoke(group, ["--help"], terminal_width=WIDTH).output
    for name, summary in summaries.items():
        assert f"  {name} " in shown
        assert summary in shown, "a summary fits its line"
    assert not any(name in shown for name in hidden)


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
