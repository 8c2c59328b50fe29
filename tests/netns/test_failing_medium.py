"""Every verb that writes, on a failing file system: full, too small, read-only, with I/O errors.

Existing files stay, nothing incomplete has a final name, one line says where and why (exit code 8),
and the same command succeeds once the medium works.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import subprocess  # noqa: TID251 the file system runs in parallel to the test
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keystone import cli
from keystone.bundle.model import Digest, Item
from keystone.errors import HostError
from keystone.files import FAT_LARGEST, require_room, write_whole
from keystone.packager import members, pack
from keystone.packager.keys import keys
from keystone.packager.lock import Lock, LockedBlob, dump
from keystone.packager.sources.upstream import Sources

if TYPE_CHECKING:
    from collections.abc import Iterator

MEDIUM = Path(__file__).with_name("failing_medium.py")
DEADLINE = 300
CREATED = datetime.now(UTC).replace(microsecond=0)


class Medium:
    """The mount point, its backing folder, and the files that a successful run wrote elsewhere."""

    def __init__(self, folder: Path) -> None:
        self.here, self.behind = folder / "medium", folder / "behind"
        self.fault = folder / "fault"
        self.here.mkdir()
        self.behind.mkdir()
        self.fault.write_text("")

    def names(self) -> set[str]:
        return {str(path.relative_to(self.behind)) for path in self.behind.rglob("*")}

    def refuses(self, words: str) -> None:
        self.fault.write_text(words)


@pytest.fixture(scope="module")
def medium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Medium]:
    made = Medium(tmp_path_factory.mktemp("failing"))
    argv = [sys.executable, MEDIUM, made.behind, made.here, made.fault]
    process = subprocess.Popen(argv)
    deadline = time.monotonic() + DEADLINE
    while not os.path.ismount(made.here) and time.monotonic() < deadline:
        assert process.poll() is None, "the file system ended"
        time.sleep(0.01)
    yield made
    subprocess.run(["umount", "--lazy", made.here], check=True)
    process.wait(DEADLINE)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packager's folder: keys, a lock, its bundle, and the bundle in parts."""
    folder = tmp_path_factory.mktemp("desk")
    keys.init(folder / "keys", None, CREATED)
    items, blobs = [], []
    for index in range(3):
        data = random.Random(index).randbytes(700_000)
        digest = Digest(hashlib.sha256(data).hexdigest())
        (folder / digest.hex).write_bytes(data)
        items.append(Item("file", f"thing-{index}", "1", digest, len(data)))
        blobs.append(LockedBlob(digest, len(data), f"local:{digest.hex}"))
    lock = Lock("carried", 1, CREATED, 700, ("amd64",), tuple(items), tuple(blobs))
    (folder / "d.lock.json").write_bytes(dump(lock))
    signing = members.Signing(folder / "keys")
    pack.bundle(lock, folder, folder / "b.tar", signing, Sources())
    assert run("bundle", "split", folder / "b.tar", "--size", "900K", "-o", folder / "parts") == 0
    return folder


def run(*words: object, fingerprint: str = "") -> int:
    """Run the program in this process; return its exit code."""
    sys.argv = ["keystone-install", *map(str, words)]
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def create(desk: Path, at: Path) -> list[object]:
    return ["bundle", "create", desk / "d.lock.json", "-o", at / "x.tar", "--keys", desk / "keys"]


def split(desk: Path, at: Path) -> list[object]:
    return ["bundle", "split", desk / "b.tar", "--size", "900K", "-o", at / "x.parts"]


def join(desk: Path, at: Path) -> list[object]:
    return ["bundle", "join", desk / "parts", "-o", at / "x.tar"]


def have(desk: Path, at: Path) -> list[object]:
    root = hashlib.sha256((desk / "keys/1.root.json").read_bytes()).hexdigest()
    return ["bundle", "have", desk / "b.tar", "--root-fingerprint", root,
            "-o", at / "x.have", "--trust", desk / "trust"]  # fmt: skip


def new_keys(_desk: Path, at: Path) -> list[object]:
    return ["bundle", "keys", "init", "--dir", at / "x.keys", "--no-passphrase"]


def page(desk: Path, at: Path) -> list[object]:
    return ["bundle", "show", desk / "b.tar", "--html", at / "x.html"]


def ingest(desk: Path, at: Path) -> list[object]:
    root = hashlib.sha256((desk / "keys/1.root.json").read_bytes()).hexdigest()
    return ["store", "ingest", desk / "b.tar", "--root-fingerprint", root, "--trust",
            desk / "trust", "--store", at / "x.store"]  # fmt: skip


VERBS = (create, split, join, have, new_keys, page, ingest)
FAULTS = {
    "full at its first byte": (f"write {errno.ENOSPC}", "No space left on device"),
    "full on the way": (f"write {errno.ENOSPC} 5000", "No space left on device"),
    "over its quota": (f"write {errno.EDQUOT}", "Disk quota exceeded"),
    "too small for the file": (f"write {errno.EFBIG} 5000", "File too large"),
    "full when data is synced": (f"fsync {errno.ENOSPC}", "No space left on device"),
    "failing when data is synced": (f"fsync {errno.EIO}", "Input/output error"),
    "failing when a file is closed": (f"close {errno.EIO}", "Input/output error"),
    "failing when it gets its name": (f"rename {errno.EIO}", "Input/output error"),
    "read-only": (f"create {errno.EROFS}", "Read-only file system"),
}
SMALL = {"have", "new_keys", "page"}
"""Verbs that write files of less than 5,000 bytes."""
PAIRS = [
    (verb, fault)
    for verb in VERBS
    for fault in FAULTS
    if not (verb.__name__ in SMALL and FAULTS[fault][0].endswith(" 5000"))
]


@pytest.mark.parametrize(
    ("verb", "fault"), PAIRS, ids=[f"{verb.__name__}, {fault}" for verb, fault in PAIRS]
)
def test_verb_on_a_failing_medium_reports_it_and_succeeds_later(
    medium: Medium, desk: Path, verb: object, fault: str, capfd: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    place = f"case-{abs(hash(request.node.name))}"
    at = medium.here / place
    at.mkdir()
    words, said = FAULTS[fault]
    command = verb(desk, at)
    (at / "before").write_bytes(b"what was there")
    medium.refuses(words)
    try:
        code = run(*command)
    finally:
        medium.refuses("")
    told = capfd.readouterr().err
    assert code == 8, told
    (line,) = [line for line in told.splitlines() if "error: " in line]
    assert said in line
    assert str(at) in line, "the error names the path"
    assert "next: " in told
    left = {path.relative_to(at).as_posix() for path in at.rglob("*") if path.is_file()}
    finals = {"x.tar", "x.have", "x.html"} & left
    assert not finals
    goes_on = {"x.tar.part"} if int(words.split()[1]) != errno.EFBIG else set()
    litter = {name for name in left if name.endswith((".part", ".new", ".content"))}
    assert litter <= goes_on
    assert (at / "before").read_bytes() == b"what was there"
    assert run(*command) == 0, capfd.readouterr().err
    if verb in {create, join}:
        assert (at / "x.tar").read_bytes() == (desk / "b.tar").read_bytes()


def test_existing_bundle_stays_until_the_new_one_is_complete(medium: Medium, desk: Path) -> None:
    at = medium.here / "replaced"
    at.mkdir()
    (at / "x.tar").write_bytes(b"the old bundle")
    for words in (f"fsync {errno.EIO}", f"rename {errno.EIO}", f"close {errno.ENOSPC}"):
        medium.refuses(words)
        try:
            assert run(*create(desk, at)) == 8
        finally:
            medium.refuses("")
        assert (at / "x.tar").read_bytes() == b"the old bundle"


@pytest.mark.parametrize("fault", ["full at its first byte", "failing when it gets its name"])
def test_failed_small_file_leaves_no_temporary_file_and_is_named(
    medium: Medium, fault: str
) -> None:
    words, _ = FAULTS[fault]
    file = medium.here / "join.yaml"
    write_whole(file, b"what was there", 0o600)
    medium.refuses(words)
    try:
        with pytest.raises(OSError, match=r"\[Errno") as error:
            write_whole(file, b"a token", 0o600)
    finally:
        medium.refuses("")
    assert error.value.filename == str(file)
    assert file.read_bytes() == b"what was there"
    assert "join.yaml" in medium.names()
    assert ".join.yaml.new" not in medium.names()


def test_too_little_space_is_refused_before_the_first_byte(desk: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "none", small], check=True)
    try:
        for verb in (create, split, join):
            assert run(*verb(desk, small)) == 8
            assert not [path for path in small.rglob("*") if path.suffix in {".part", ".tar"}]
        with pytest.raises(HostError, match=r"4\.0 MiB are needed, 10\d\d\.0 KiB are free"):
            require_room(small / "x", 4 << 20)
        require_room(small / "x", 4 << 20, there=7 << 19)
    finally:
        subprocess.run(["umount", small], check=True)


def test_file_too_large_for_fat_is_refused_before_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_room(tmp_path / "x", FAT_LARGEST // 4)
    monkeypatch.setattr("keystone.files._file_system", lambda _: "vfat")
    with pytest.raises(HostError, match="FAT allows at most 4 GiB") as error:
        require_room(tmp_path / "x", FAT_LARGEST + 1)
    assert "bundle split" in error.value.hint
