"""The question about a trust root on first use."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
import pytest

from keystone.bundle.trust.question import confirm_root

if TYPE_CHECKING:
    from collections.abc import Callable

FINGERPRINT = "9d" * 32


def terminal(monkeypatch: pytest.MonkeyPatch, answer: Callable[[str], bool]) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(click, "confirm", answer)


def test_confirm_root_is_false_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal(monkeypatch, lambda _: True)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False)
    assert not confirm_root(FINGERPRINT)


@pytest.mark.parametrize("answer", [True, False])
def test_confirm_root_shows_the_full_fingerprint_and_returns_the_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: bool
) -> None:
    asked = []
    terminal(monkeypatch, lambda text: asked.append(text) is None and answer)
    assert confirm_root(FINGERPRINT) is answer
    assert asked == ["Is this the fingerprint that the packager told you?"]
    assert f"  {FINGERPRINT}\n" in capsys.readouterr().err
