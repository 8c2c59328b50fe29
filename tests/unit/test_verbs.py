"""What --help lists can be called, and what can be called on purpose is listed."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from keystone import cli
from keystone.cli import bundle
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
