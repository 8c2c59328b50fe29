"""The linters, as tests: one command, one report, nothing to forget, no network."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from keystone import run

ROOT = Path(__file__).parents[2]
PATIENCE = 3000
"""Seconds: ansible-lint took more than ten minutes on a machine that did three things."""

pytestmark = pytest.mark.timeout(PATIENCE + 60)


def lint(module: str, *arguments: str) -> None:
    """Run a linter of this very environment over the checkout; what it says is the message."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    result = run.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        # ansible-lint calls ansible by name; it may not look for newer releases of itself.
        env={
            "PATH": path,
            "ANSIBLE_CONFIG": str(ROOT / "playbooks" / "ansible.cfg"),
            "PYTHONPATH": str(ROOT / "installer"),
            "NO_COLOR": "1",
        },
        check=False,
        timeout=PATIENCE,
    )
    assert result.returncode == 0, f"{module} {' '.join(arguments)}\n{result.stdout}{result.stderr}"


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff(arguments: list[str]) -> None:
    lint("ruff", *arguments, "--quiet")


def test_mypy() -> None:
    lint("mypy", "--no-error-summary")


def test_yamllint() -> None:
    lint("yamllint", "--strict", ".")


def test_ansible_lint() -> None:
    lint("ansiblelint", "--offline", "--nocolor", "-q")
