"""Roles of a recipe, applied as in the tree of an image, and the message when one fails."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from keystone import run
from keystone.image import converge

pytestmark = pytest.mark.slow


def applied(logs: Path, *roles: tuple[str, dict[str, object]]) -> run.Result:
    """Run the command of the step here; Ansible checks variables before a role does anything."""
    return run.run(
        [sys.executable, "-B", "-m", "keystone", "--log-format=json", "image", "converge",
         "--logs", logs],
        data=json.dumps(roles), env={"PYTHONPATH": ":".join(sys.path)}, check=False,
    )  # fmt: skip


def test_error_of_ansible_reported_and_log_kept(tmp_path: Path) -> None:
    done = applied(tmp_path, ("kernel", {"kernel_modules": ["overlay"]}))
    assert done.returncode == 8
    text = converge._errors(run.CommandError("exit code 8", result=done))
    assert text.startswith("tree: ")
    assert "missing required arguments: kernel_sysctls" in text
    (log,) = tmp_path.glob("*-image.log")
    assert "kernel_sysctls" in log.read_text()


def test_other_error_output_quoted() -> None:
    quoted = run.Result(("python3",), 127, "", "chroot: failed to run command 'python3'\n", 0)
    assert "'python3'" in converge._errors(run.CommandError("x", result=quoted))
    assert converge._errors(run.CommandError("timed out after 3600 s")) == "timed out after 3600 s"
