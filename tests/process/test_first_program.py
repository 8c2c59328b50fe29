"""The program that verifies a bundle is in the bundle: the digest by which operators verify it."""

from __future__ import annotations

import json
import subprocess  # noqa: TID251 tar and sha256sum as a person runs them by the guide
from typing import TYPE_CHECKING

from keystone.bundle.model import Item
from keystone.packager import lock as locks
from keystone.packager.lock import Lock

from .test_publish import CREATED, Maker

if TYPE_CHECKING:
    from pathlib import Path


PROGRAM = b"#!/bin/sh\necho this program verifies bundles\n"


def compared(folder: Path, line: str) -> int:
    """`tar -xf offline.tar keystone-install`, then `sha256sum -c` before it ever runs."""
    subprocess.run(["tar", "-xf", "offline.tar", "keystone-install"], cwd=folder, check=True)
    argv = ["sha256sum", "-c", "--quiet", "-"]
    return subprocess.run(argv, cwd=folder, input=line, text=True, check=False).returncode


def test_create_and_show_print_a_line_for_sha256sum(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    size = len(PROGRAM)
    item = Item("installer", "keystone-install", "1", maker.blob(PROGRAM.decode()), size)
    lock = Lock("tiny", 1, CREATED, 700, ("amd64",), (item,), tuple(maker.blobs.values()))
    (tmp_path / "tiny.lock.json").write_bytes(locks.dump(lock))
    words = ("bundle", "create", "tiny.lock.json", "-o", "offline.tar", "--keys", "keys", "--json")
    for _ in range(2):  # the second time the bundle exists already
        done = maker.run(0, *words)
        printed = json.loads(done.stdout)
        assert printed["fingerprint"] == maker.fingerprint
        assert printed["installer"] == item.digest.hex
        lines = [line for line in done.stderr.splitlines() if line.endswith("  keystone-install")]
        assert [compared(tmp_path, line.strip()) for line in lines] == [0]
        assert f"root fingerprint  {maker.fingerprint}" in done.stderr
    shown = json.loads(maker.run(0, "bundle", "show", "offline.tar", "--json").stdout)
    assert shown["installer"] == item.digest.hex
    text = maker.run(0, "bundle", "show", "offline.tar").stdout
    (line,) = [line for line in text.splitlines() if line.endswith("  keystone-install")]
    assert compared(tmp_path, line.partition(" ")[2].strip()) == 0
    # A medium changed in transit: another program of the same size.
    changed = (tmp_path / "offline.tar").read_bytes().replace(PROGRAM, PROGRAM.swapcase())
    (tmp_path / "offline.tar").write_bytes(changed)
    assert compared(tmp_path, line.partition(" ")[2].strip()) == 1
