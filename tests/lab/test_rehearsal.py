"""Every line of docs/guide/rehearsal.md, typed as it is written there.

A test for each part of the page, in its order. The lab is the one that its reader has: "demo".
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keystone import log, run
from keystone.lab.machines.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

PAGE = Path(__file__).parents[2] / "docs/guide/rehearsal.md"
TYPED = re.compile(r"(?P<where>host\$|p\d#) (?P<line>.*?)(?: +# exit code (?P<code>\d+))?")
PRINTED = {
    "ID": re.compile(r"\bPlan ([0-9a-f]{8,})"),
    "RECIPIENT": re.compile(r"^(age1[0-9a-z]{40,})$", re.MULTILINE),
    "ROOT": re.compile(r"^Site \S+, root ([0-9a-f]{64})$", re.MULTILINE),
    "FINGERPRINT": re.compile(r"^root +([0-9a-f]{64})$", re.MULTILINE),
}
"""What stands for a word in capitals: the newest match in what was printed."""


@dataclass(frozen=True)
class Typed:
    """A line to type. where: "host" or a Primer. said: lines that it must print."""

    where: str
    line: str
    code: int
    said: tuple[str, ...]


def parts() -> dict[str, list[Typed]]:
    """Return the lines of each part of the page, by its heading."""
    found: dict[str, list[Typed]] = {}
    for text in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        lines: list[Typed] = []
        for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            for line in block.splitlines():
                if match := TYPED.fullmatch(line):
                    code = int(match["code"] or 0)
                    lines.append(Typed(match["where"][:-1], match["line"], code, ()))
                else:
                    last = lines.pop()
                    lines.append(Typed(last.where, last.line, last.code, (*last.said, line)))
        found[text.partition("\n")[0]] = lines
    return found


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What stands for the words in capitals so far, and HOME of the reader."""
    home = tmp_path_factory.mktemp("home")
    (home / ".cache").symlink_to(Path.home() / ".cache")
    Lab("").down(purge=True)
    yield {"HOME": str(home)}
    Lab("").down(purge=True)


@pytest.mark.parametrize("part", parts())
def test_part_of_the_page_is_true(part: str, printed: dict[str, str]) -> None:
    typed = parts()[part]
    assert typed
    for one in typed:
        line = one.line
        for word in PRINTED:
            line = re.sub(rf"\b{word}\b", printed.get(word, word), line)
        log.info(f"{one.where}: {line}")
        done = on_host(line, printed["HOME"]) if one.where == "host" else on(one.where, line)
        output = done.stdout + done.stderr
        assert done.returncode == one.code, f"{one.where}: {line}\n{output[-6000:]}"
        words = " ".join(output.split())
        for said in one.said:
            assert " ".join(said.split()) in words, f"{one.where}: {line}\n{output[-6000:]}"
        for word, pattern in PRINTED.items():
            if found := pattern.findall(output):
                printed[word] = found[-1]


def on_host(line: str, home: str) -> run.Result:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return run.run(["bash", "-c", line], env={"PATH": path, "HOME": home}, check=False,
                   timeout=3000)  # fmt: skip


def on(name: str, line: str) -> run.Result:
    return Lab("").machine(name).host().run(["bash", "-c", line], check=False, timeout=3000)
