"""The command line reference, the man page and the completions match the commands."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import pytest

from keystone import run
from keystone.cli.lab import SUMMARIES

ROOT = Path(__file__).parents[3]
CLI, MAN = "docs/reference/cli.md", "share/man/man1/keystone-install.1"
BASH = "share/bash-completion/completions/keystone-install"
MADE = [
    BASH, CLI, MAN,
    "share/fish/vendor_completions.d/keystone-install.fish",
    "share/zsh/site-functions/_keystone-install",
]  # fmt: skip
HERE = {"PYTHONPATH": os.pathsep.join([str(ROOT / "installer"), *sys.path])}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run `make docs` into a folder, with a narrow terminal and without a home folder."""
    folder = tmp_path_factory.mktemp("made")
    env = {**HERE, "COLUMNS": "40", "HOME": "/nowhere", "LANG": "C"}
    run.run([sys.executable, ROOT / "docs" / "make.py", folder], env=env)
    return folder


@pytest.mark.parametrize("name", MADE)
def test_committed_file_matches_commands(made: Path, name: str) -> None:
    assert (ROOT / name).read_text() == (made / name).read_text(), "run `make docs`"


def test_only_expected_files_are_made_and_installed(made: Path) -> None:
    there = {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()}
    assert there == set(MADE)
    shared = {str(path.relative_to(ROOT)) for path in (ROOT / "share").rglob("*") if path.is_file()}
    assert shared == set(MADE) - {CLI}


def test_reference_and_man_page_have_listed_verbs_only() -> None:
    page, man = (ROOT / CLI).read_text(), (ROOT / MAN).read_text()
    for name in SUMMARIES:
        assert f"\n### lab {name}\n" in page
        assert f"\n.SS lab {name}\n" in man
    assert "node-identity" not in page, "it is not listed"


def test_wheel_contains_man_page_and_completions(tmp_path: Path) -> None:
    run.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name.partition(".data/data/")[2] for name in names if ".data/data/" in name}
    assert inside == set(MADE) - {CLI}


def test_bash_script_completes_verbs(tmp_path: Path) -> None:
    program = tmp_path / "keystone-install"
    program.write_text(f"#!{sys.executable}\nfrom keystone.cli import main\nmain()\n")
    program.chmod(0o755)
    script = f"""
        . {ROOT / BASH}
        COMP_WORDS=(keystone-install bundle ch) COMP_CWORD=2
        _keystone_install_completion keystone-install ch bundle
        echo "${{COMPREPLY[@]}}"
    """
    env = {**HERE, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert run.run(["bash", "-euc", script], env=env).stdout == "check\n"
