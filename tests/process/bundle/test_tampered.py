"""Tampered bundles are refused with the right error and a message that names the problem.

A case is a change to the bytes of a valid bundle, the expected error, and text that the message
must contain. No changed content may reach the store.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from keystone.bundle.formats import tar
from keystone.bundle.model import Digest, Item
from keystone.bundle.trust import verify
from keystone.errors import DamagedBundleError, KeystoneError, UntrustedBundleError
from keystone.packager import pack
from keystone.packager.keys import keys
from keystone.packager.lock import Lock, LockedBlob
from keystone.packager.members import Signing
from keystone.packager.sources.upstream import Sources
from keystone.store import store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CREATED = datetime(2026, 11, 20, 12, tzinfo=UTC)
TEXTS = ("first file " * 1000, "second file " * 900)


def locked(number: int = 1, created: datetime = CREATED, days: int = 700) -> Lock:
    items, blobs = [], []
    for index, text in enumerate(TEXTS):
        digest = Digest(hashlib.sha256(text.encode()).hexdigest())
        items.append(Item("file", f"file{index}", "1", digest, len(text)))
        blobs.append(LockedBlob(digest, len(text), f"inline:{text}"))
    return Lock("tiny", number, created, days, ("amd64",), tuple(items), tuple(blobs))


class Maker:
    """Makes bundles with one set of keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fingerprint = keys.init(folder / "keys", None, CREATED)

    def bundle(self, lock: Lock) -> bytes:
        output = self.folder / f"{lock.number}-{lock.created.timestamp()}-{lock.valid_days}.tar"
        pack.bundle(lock, self.folder, output, Signing(self.folder / "keys"), Sources())
        return output.read_bytes()


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    return Maker(tmp_path_factory.mktemp("maker"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    return Maker(tmp_path_factory.mktemp("other"))


def members(data: bytes) -> list[tuple[tar.Member, bytes]]:
    """Every member except padding, with its data."""
    found, position = [], 0
    while any(block := data[position : position + tar.BLOCK]):
        member = tar.parse(block, position)
        position += tar.BLOCK
        if member.name != tar.PADDING:
            found.append((member, data[position : position + member.size]))
        position += tar.padded(member.size)
    return found


def packed(parts: list[tuple[tar.Member, bytes]]) -> bytes:
    """The archive of these members, aligned as the format requires."""
    out = bytearray()
    for place, (_, data) in zip(tar.place(part[0] for part in parts), parts, strict=True):
        out += place.prefix + data.ljust(tar.padded(len(data)), b"\0")
    return bytes(out + bytes(tar.end_bytes(len(out))))


def edited(data: bytes, change: Callable[[list[tuple[tar.Member, bytes]]], object]) -> bytes:
    parts = members(data)
    change(parts)
    return packed(parts)


def flip(data: bytes, needle: bytes, offset: int = 0) -> bytes:
    at = data.index(needle) + offset
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def header_with(data: bytes, name: str, at: int, value: bytes) -> bytes:
    """Change a header field of a member and correct its checksum."""
    start = data.index(name.encode() + b"\0")
    block = bytearray(data[start : start + tar.BLOCK])
    block[at : at + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return data[:start] + bytes(block) + data[start + tar.BLOCK :]


BLOB = f"blobs/sha256/{hashlib.sha256(TEXTS[1].encode()).hexdigest()}"
EXTRA = (tar.Member("blobs/sha256/" + "0" * 64, 3, mtime=int(CREATED.timestamp())), b"abc")
SLIP = (tar.Member("../../etc/cron.d/x", 3, mtime=int(CREATED.timestamp())), b"abc")


def without_metadata(parts: list[tuple[tar.Member, bytes]]) -> None:
    parts[:] = [part for part in parts if not part[0].name.startswith("metadata/")]


def last_dropped(parts: list[tuple[tar.Member, bytes]]) -> None:
    parts.pop()


def another_spelling(parts: list[tuple[tar.Member, bytes]]) -> None:
    """The same time to a lenient parser, so the signature of the parsed content stays valid."""
    for at, (member, data) in enumerate(parts):
        if member.name == "metadata/timestamp.json":
            changed = data.replace(b"12:00:00Z", b"12:00:0Z", 1)
            parts[at] = (replace(member, size=len(changed)), changed)


def another_time(parts: list[tuple[tar.Member, bytes]]) -> None:
    parts[:] = [(replace(member, mtime=5), data) for member, data in parts]


CASES: dict[str, tuple[Callable[[bytes], bytes], type[KeystoneError], str]] = {
    "unsigned": (lambda b: edited(b, without_metadata), UntrustedBundleError, "not signed"),
    "metadata byte": (
        lambda b: flip(b, b'"_type":"targets"', 3),
        UntrustedBundleError,
        "targets.json",
    ),
    "root byte": (lambda b: flip(b, b'"_type":"root"', 3), UntrustedBundleError, "root"),
    "blob byte": (lambda b: flip(b, b"second file", 2), DamagedBundleError, "file file1"),
    "contents byte": (lambda b: flip(b, b'"BundleManifest"', 4), DamagedBundleError, "keystone.j"),
    "truncated in a blob": (
        lambda b: b[: b.index(b"second file") + 100],
        DamagedBundleError,
        "truncated",
    ),
    "truncated in metadata": (lambda b: b[:5000], DamagedBundleError, "truncated"),
    "truncated at the end": (lambda b: b[:-512], DamagedBundleError, "truncated"),
    "empty": (lambda _: b"", DamagedBundleError, "truncated"),
    "not a tar": (lambda b: b"PK\3\4" + b[4:], DamagedBundleError, "not a member"),
    "bytes after the end": (lambda b: b + b"x", DamagedBundleError, "after the end"),
    "undeclared": (
        lambda b: edited(b, lambda p: p.append(EXTRA)),
        DamagedBundleError,
        "name this member",
    ),
    "traversal": (
        lambda b: edited(b, lambda p: p.append(SLIP)),
        DamagedBundleError,
        "not a member",
    ),
    "twice": (lambda b: edited(b, lambda p: p.append(p[-1])), DamagedBundleError, "twice"),
    "spelling of a time": (
        lambda b: edited(b, another_spelling),
        UntrustedBundleError,
        "not in canonical",
    ),
    "time": (lambda b: edited(b, another_time), DamagedBundleError, "modification time"),
    "missing": (lambda b: edited(b, last_dropped), DamagedBundleError, "missing"),
    "symbolic link": (lambda b: header_with(b, BLOB, 156, b"2"), DamagedBundleError, "a link"),
    "hard link": (lambda b: header_with(b, BLOB, 156, b"1"), DamagedBundleError, "a link"),
    "directory": (lambda b: header_with(b, BLOB, 156, b"5"), DamagedBundleError, "a directory"),
    "pax header": (lambda b: header_with(b, BLOB, 156, b"x"), DamagedBundleError, "dialect"),
    "link name": (lambda b: header_with(b, BLOB, 157, b"/etc"), DamagedBundleError, "not a member"),
    "setuid": (lambda b: header_with(b, BLOB, 100, b"0004755"), DamagedBundleError, "not a member"),
    "negative size": (
        lambda b: header_with(b, BLOB, 124, b"-0000000001"),
        DamagedBundleError,
        "not",
    ),
    "base-256 size": (lambda b: header_with(b, BLOB, 124, b"\x80"), DamagedBundleError, "not"),
    "longer": (lambda b: header_with(b, BLOB, 124, b"77777777777"), DamagedBundleError, "signed"),
    "padding used": (lambda b: b[:600] + b"x" + b[601:], DamagedBundleError, "padding"),
}


@pytest.mark.parametrize("name", CASES)
def test_tampered_bundle_is_refused(maker: Maker, tmp_path: Path, name: str) -> None:
    change, error, word = CASES[name]
    valid = maker.bundle(locked())
    hostile = change(valid)
    assert hostile != valid
    with pytest.raises(error, match=word):
        store.ingest(
            io.BytesIO(hostile), tmp_path / "store", verify.Pin(fingerprint=maker.fingerprint)
        )
    if error is UntrustedBundleError:
        assert not (tmp_path / "store").exists()
    assert not store.status(tmp_path / "store").complete
    kept = list((tmp_path / "store/blobs/sha256").glob("*"))
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in kept)
    assert {path.name for path in tmp_path.iterdir()} <= {"store"}


def test_ingest_completes_after_an_interruption(maker: Maker, tmp_path: Path) -> None:
    valid, pin = maker.bundle(locked()), verify.Pin(fingerprint=maker.fingerprint)
    incomplete = valid[: valid.index(b"second file") + 100]
    with pytest.raises(DamagedBundleError):
        store.ingest(io.BytesIO(incomplete), tmp_path, pin)
    done, _ = store.ingest(io.BytesIO(valid), tmp_path, pin)
    # The first run wrote the first blob completely; it is not written again.
    assert done.changed
    assert done.bytes < sum(len(text) for text in TEXTS)
    assert store.status(tmp_path).complete
    again, _ = store.ingest(io.BytesIO(valid), tmp_path, pin)
    assert not again.changed


def test_bundle_signed_by_another_key_is_refused(
    maker: Maker, other: Maker, tmp_path: Path
) -> None:
    foreign = other.bundle(locked())
    root = (maker.folder / "keys/1.root.json").read_bytes()
    for pin in (verify.Pin(fingerprint=maker.fingerprint), verify.Pin(root=root), verify.Pin()):
        with pytest.raises(UntrustedBundleError, match=other.fingerprint):
            store.ingest(io.BytesIO(foreign), tmp_path / "s", pin)
    assert not (tmp_path / "s").exists()


def test_mixed_metadata_of_two_valid_bundles_is_refused(maker: Maker, tmp_path: Path) -> None:
    new, old = members(maker.bundle(locked(2))), members(maker.bundle(locked(1)))
    swapped = [
        o if n[0].name == "metadata/targets.json" else n for n, o in zip(new, old, strict=True)
    ]
    with pytest.raises(UntrustedBundleError, match=r"targets\.json"):
        store.ingest(
            io.BytesIO(packed(swapped)), tmp_path, verify.Pin(fingerprint=maker.fingerprint)
        )


def test_older_bundle_is_refused_and_newer_accepted(maker: Maker, tmp_path: Path) -> None:
    folder = tmp_path / "trust"
    bundles = [maker.bundle(locked(number)) for number in (1, 2)]
    pin = verify.Pin(fingerprint=maker.fingerprint)
    _, verified = store.ingest(io.BytesIO(bundles[1]), tmp_path / "s", pin)
    verify.remember(verified, folder)
    with pytest.raises(UntrustedBundleError, match="older"):
        store.ingest(io.BytesIO(bundles[0]), tmp_path / "s", verify.host_pin(folder))
    same_number_but_earlier = maker.bundle(locked(2, CREATED - timedelta(days=1)))
    with pytest.raises(UntrustedBundleError, match="older"):
        store.ingest(io.BytesIO(same_number_but_earlier), tmp_path / "s", verify.host_pin(folder))
    store.ingest(io.BytesIO(maker.bundle(locked(3))), tmp_path / "s", verify.host_pin(folder))


def test_expired_bundle_is_refused_even_with_a_clock_at_1970(maker: Maker) -> None:
    files = {
        member.name.removeprefix("metadata/"): data
        for member, data in members(maker.bundle(locked(days=1)))
        if member.name.startswith("metadata/")
    }
    pin = verify.Pin(fingerprint=maker.fingerprint)
    late = CREATED + timedelta(days=2)
    verify.verify(files, pin, clock=CREATED)
    with pytest.raises(UntrustedBundleError, match="expired"):
        verify.verify(files, pin, clock=late)
    seen = replace(pin, accepted=verify.Accepted(1, late, "sha256:"))
    with pytest.raises(UntrustedBundleError, match="expired"):
        verify.verify(files, seen, clock=datetime(1970, 1, 1, tzinfo=UTC))


def test_same_lock_gives_the_same_bytes(maker: Maker, tmp_path: Path) -> None:
    first, second = tmp_path / "a.tar", tmp_path / "b.tar"
    for output in (first, second):
        signing = Signing(maker.folder / "keys")
        pack.bundle(locked(), tmp_path, output, signing, Sources())
    assert first.read_bytes() == second.read_bytes()
    assert not pack.bundle(locked(), tmp_path, second, signing, Sources()).changed


def test_every_member_is_aligned(maker: Maker) -> None:
    data = maker.bundle(locked())
    for place in tar.place(member for member, _ in members(data)):
        assert place.offset % tar.ALIGN == 0
        assert data[place.offset - tar.BLOCK :].startswith(tar.header(place.member))
    assert len(data) % tar.ALIGN == 0
