"""Run the linters as tests, without network."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from keystone import run

ROOT = Path(__file__).parents[2]
PATIENCE = 3000
"""Timeout in seconds: ansible-lint took more than 10 minutes on a busy machine."""

pytestmark = pytest.mark.timeout(PATIENCE + 60)


def lint(module: str, *arguments: str) -> None:
    """Run a linter of this Python environment over the checkout; fail with its output."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    result = run.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        # ansible-lint calls ansible by name; --offline keeps it from looking for newer releases.
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
