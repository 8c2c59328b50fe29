"""The archive in a backup: read in pieces of any size, and nothing but what `Packed` makes."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import subprocess  # noqa: TID251 tar itself reads the archive
from dataclasses import replace
from typing import IO, TYPE_CHECKING

import pytest

from keystone.backup import pack
from keystone.backup.manifest import Entry, Manifest
from keystone.bundle.formats import tar
from keystone.errors import DamagedBundleError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONTENTS = {
    "pki/sa.key": b"k" * 227,
    "pki/leaves/p1/server.crt": b"",
    "site.yaml": b"s" * 512,
    "etcd/snapshot.db": bytes(range(256)) * 9000,
}


def manifest(contents: dict[str, bytes] = CONTENTS) -> Manifest:
    files = tuple(
        Entry(name, len(data), hashlib.sha256(data).hexdigest(), 0o600)
        for name, data in contents.items()
    )
    taken = dt.datetime(2026, 11, 30, tzinfo=dt.UTC)
    return Manifest("north", "ab" * 32, "ab" * 32, taken, "p1", 3, 1, 2, files)


def packed(made: Manifest | None = None, contents: dict[str, bytes] = CONTENTS) -> bytes:
    return pack.Packed(made or manifest(), lambda entry: [contents[entry.name]]).read()


class Kept(io.BytesIO):
    """Keeps its content when it is closed."""

    def close(self) -> None:
        """Keep it."""


class Memory:
    """Receives the members."""

    def __init__(self) -> None:
        self.seen: dict[str, Kept] = {}

    def begin(self, manifest: Manifest) -> None:
        """Take the manifest."""

    def open(self, entry: Entry) -> IO[bytes]:
        self.seen[entry.name] = Kept()
        return self.seen[entry.name]


def read(data: bytes, step: int = 65536) -> dict[str, bytes]:
    memory = Memory()
    unpacker = pack.Unpacker("b.age", memory)
    for start in range(0, len(data), step):
        unpacker.write(data[start : start + step])
    unpacker.finish()
    return {name: kept.getvalue() for name, kept in memory.seen.items()}


@pytest.mark.parametrize("step", [1 << 30, 65536, 1000, 513])
def test_archive_is_read_in_pieces_of_any_size(step: int) -> None:
    assert read(packed(), step) == CONTENTS


def test_archive_is_given_out_in_pieces_of_any_size() -> None:
    stream = pack.Packed(manifest(), lambda entry: [CONTENTS[entry.name]])
    assert b"".join(iter(lambda: stream.read(777), b"")) == packed()


def test_tar_reads_the_archive(tmp_path: Path) -> None:
    (tmp_path / "b.tar").write_bytes(packed())
    subprocess.run(["tar", "xf", "b.tar"], cwd=tmp_path, check=True)
    assert {name: (tmp_path / name).read_bytes() for name in CONTENTS} == CONTENTS


def test_file_that_changes_while_it_is_packed_is_refused() -> None:
    with pytest.raises(RefusedError, match="changed while the backup was made"):
        packed(contents={**CONTENTS, "site.yaml": b"t" * 512})


def with_names(*names: str) -> bytes:
    made = manifest()
    files = tuple(replace(made.files[0], name=name) for name in names)
    return packed(replace(made, files=files), dict.fromkeys(names, CONTENTS["pki/sa.key"]))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda _data: b"",
        lambda data: data + b"x",
        lambda data: data + data,
        lambda data: data[:-1024] + tar.header(tar.Member("more", 0)) + bytes(1024),
        lambda data: b"x" + data[1:],
        lambda data: data.replace(b"k" * 227, b"l" * 227),
        lambda data: data.replace(b'"north"', b'"south"', 1)[:700],
        lambda _data: bytes(1 << 16),
        lambda _data: with_names("../../etc/passwd"),
        lambda _data: with_names("/etc/passwd"),
        lambda _data: with_names("pki/.lock"),
        lambda _data: with_names("a", "a"),
        lambda _data: with_names("a", "a/b"),
        lambda _data: with_names("a/b/c", "a/b"),
        lambda _data: with_names("manifest.json"),
    ],
)
def test_anything_else_is_damaged(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(DamagedBundleError, match=r"b\.age"):
        read(damage(packed()))
