"""What a build runs in the tree: the recipe's roles, and why one failed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from keystone import run
from keystone.image import converge

pytestmark = pytest.mark.slow


def applied(logs: Path, *roles: tuple[str, dict[str, object]]) -> run.Result:
    """As the step calls it, here. Ansible checks the variables before a role does anything."""
    return run.run(
        [sys.executable, "-B", "-m", "keystone", "--log-format=json", "image", "converge",
         "--logs", logs],
        data=json.dumps(roles), env={"PYTHONPATH": ":".join(sys.path)}, check=False,
    )  # fmt: skip


def test_what_ansible_refuses_is_said_in_its_words_and_its_log_is_kept(tmp_path: Path) -> None:
    done = applied(tmp_path, ("kernel", {"kernel_modules": ["overlay"]}))
    assert done.returncode == 8
    said = converge._said(run.CommandError("exit code 8", result=done))
    assert said.startswith("tree: ")
    assert "missing required arguments: kernel_sysctls" in said
    (log,) = tmp_path.glob("*-image.log")
    assert "kernel_sysctls" in log.read_text()


def test_a_program_that_says_nothing_of_ours_is_quoted() -> None:
    quoted = run.Result(("python3",), 127, "", "chroot: failed to run command 'python3'\n", 0)
    assert "'python3'" in converge._said(run.CommandError("x", result=quoted))
    assert converge._said(run.CommandError("no end after 3600 s")) == "no end after 3600 s"
