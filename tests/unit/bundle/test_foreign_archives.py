"""Readers of other people's archives: the honest come out, the hostile are refused early."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from keystone.bundle.formats import ar, compressed, foreign_tar, zstd
from keystone.bundle.formats.foreign_tar import ANY, Limits
from keystone.bundle.formats.pieces import CutError, Reader, Seekable, UnreadableError, of_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STRICT = Limits(total=1 << 20, member=1 << 16, count=10)
PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress, "xz": lzma.compress, "bzip2": bz2.compress, "zstd": zstd.compress,
}  # fmt: skip
OCTAL = b"%011o\0"
LONG = "d/" * 80 + "file"


def header(name: bytes, size: bytes = OCTAL % 0, kind: bytes = b"0", link: bytes = b"") -> bytes:
    head = bytearray(512)
    head[: len(name)], head[124 : 124 + len(size)] = name, size
    head[156:157], head[157 : 157 + len(link)] = kind, link
    head[257:265] = b"ustar\x0000"
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def extended(kind: bytes, body: bytes) -> bytes:
    return header(b"x", OCTAL % len(body), kind) + body.ljust(-(-len(body) // 512) * 512, b"\0")


def pax(key: str, value: bytes) -> bytes:
    rest = b" " + key.encode() + b"=" + value + b"\n"
    length = len(rest) + len(str(len(rest) + 2))
    return str(length).encode() + rest


def member(name: bytes, data: bytes, kind: bytes = b"0") -> bytes:
    padded = data.ljust(-(-len(data) // 512) * 512, b"\0")
    return header(name, OCTAL % len(data), kind) + padded


END = bytes(1024)


def read(data: bytes, limits: Limits = ANY) -> list[tuple[str, str, bytes]]:
    source = Reader([data])
    return [(m.name, m.kind, b"".join(m.data)) for m in foreign_tar.members(source, limits)]


def strict(data: bytes) -> list[foreign_tar.Entry]:
    return list(foreign_tar.entries(iter([data]), STRICT, keep=None))


def honest(form: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for name, kind, link in (
            ("folder", tarfile.DIRTYPE, ""), (LONG, tarfile.REGTYPE, ""),
            ("soft", tarfile.SYMTYPE, "t" * 150), ("hard", tarfile.LNKTYPE, LONG),
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            info.size = 700 if kind == tarfile.REGTYPE else 0
            info.uid, info.gid, info.mode = 3_000_000, 7, 0o640
            tar.addfile(info, io.BytesIO(b"x" * 700))
    return file.getvalue()


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("step", [1, 513, 1 << 20])
def test_names_links_owners_and_places_in_each_dialect(form: int, step: int) -> None:
    data = honest(form)
    source = Seekable(lambda at, count: data[at : at + min(count, step)], len(data))
    found = list(foreign_tar.members(source))
    assert [(m.name.rstrip("/"), m.kind, m.link) for m in found] == [
        ("folder", "directory", ""), (LONG, "file", ""),
        ("soft", "symbolic link", "t" * 150), ("hard", "hard link", LONG),
    ]  # fmt: skip
    assert {(m.mode, m.gid) for m in found} == {(0o640, 7)}
    assert found[1].uid == (3_000_000 if form == tarfile.GNU_FORMAT else found[1].uid)
    assert data[found[1].offset :][: found[1].size] == b"x" * 700


def test_a_member_beyond_eight_gibibytes_is_passed_by_without_being_read() -> None:
    size = (8 << 30) + 1
    places = {0: header(b"large", b"\x80" + size.to_bytes(11, "big"))}
    end = 512 + -(-size // 512) * 512
    places[end] = member(b"small", b"here") + END
    reads = []

    def at(offset: int, count: int) -> bytes:
        reads.append(offset)
        start = max(place for place in places if place <= offset)
        return places[start][offset - start :][:count].ljust(min(count, 512), b"\0")

    found = list(foreign_tar.members(Seekable(at, end + 2048)))
    assert [(m.name, m.size, m.offset) for m in found] == [
        ("large", size, 512), ("small", 4, end + 512),
    ]  # fmt: skip
    assert len(reads) < 10


HOSTILE = {
    "no tar": b"\x7fELF" + bytes(1020),
    "cut head": header(b"a")[:300],
    "cut data": header(b"a", OCTAL % 600) + bytes(300),
    "unending member": header(b"a", OCTAL % (8**11 - 1)) + bytes(1024),
    "negative": header(b"a", b"\xff" * 12) + END,
    "beyond all": header(b"a", b"\x80" + b"\xff" * 11) + END,
    "no number": header(b"a", b"99999999999\0") + END,
    "long name of 8 GiB": header(b"a", OCTAL % (8**11 - 1), b"L") + END,
    "pax of 8 GiB": header(b"a", OCTAL % (8**11 - 1), b"x") + END,
    "pax length": extended(b"x", b"99 path=x\n") + member(b"a", b"") + END,
    "pax no length": extended(b"x", b"ab path=x\n") + member(b"a", b"") + END,
    "pax size": extended(b"x", pax("size", b"9" * 30)) + member(b"a", b"") + END,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_tar_is_refused_both_ways(name: str) -> None:
    with pytest.raises(UnreadableError):
        read(HOSTILE[name])
    with pytest.raises((UnreadableError, EOFError)):
        strict(HOSTILE[name])


READ_DIFFERENTLY = {
    "sparse": extended(b"x", pax("GNU.sparse.realsize", b"1" + b"0" * 12)),
    "size": extended(b"x", pax("size", b"3")),
    "link": extended(b"x", pax("linkpath", b"/etc/passwd")),
    "global name": extended(b"g", pax("path", b"all")),
}


@pytest.mark.parametrize("name", READ_DIFFERENTLY)
def test_what_two_programs_read_differently_is_refused_in_verification(name: str) -> None:
    data = READ_DIFFERENTLY[name] + member(b"a", b"abc") + END
    assert [data for _, _, data in read(data)] == [b"abc"]
    with pytest.raises(UnreadableError, match=r"sparse|changes"):
        strict(data)


def test_bounds_of_verification() -> None:
    assert [e.content for e in strict(member(b"a", b"abc") + END)] == [b"abc"]
    with pytest.raises(UnreadableError, match="the limit is 65536"):
        strict(member(b"a", bytes(1 << 17)) + END)
    with pytest.raises(UnreadableError, match="more than 10 members"):
        strict(member(b"a", b"") * 11 + END)
    with pytest.raises(UnreadableError, match="larger than the limit"):
        strict(member(b"a", b"") + bytes(2 << 20))
    with pytest.raises(UnreadableError, match="after the end of the archive"):
        strict(END + b"hidden" + bytes(506))
    with pytest.raises(EOFError, match="the archive is incomplete"):
        strict(member(b"a", b"abc"))
    with pytest.raises(UnreadableError, match="more than 3 members"):
        read(member(b"a", b"") * 4 + END, Limits(1 << 20, 1 << 20, 3, strict=False))


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"5", b"6"])
def test_a_link_or_device_with_a_size_hides_no_member(kind: bytes) -> None:
    data = header(b"first", OCTAL % 512, kind, b"/etc/shadow") + member(b"second", b"x") + END
    assert [name for name, _, _ in read(data)] == ["first", "second"]
    assert [entry.name for entry in strict(data)] == ["first", "second"]


def test_holes_of_gnu_tar_are_no_content() -> None:
    head = bytearray(header(b"holes", OCTAL % 5, b"S"))
    head[482] = 1
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    more = bytearray(512)
    more[504] = 0
    data = bytes(head) + bytes(more) + b"bytes".ljust(512, b"\0") + member(b"b", b"x") + END
    assert read(data) == [("holes", "sparse", b"bytes"), ("b", "file", b"x")]


def test_an_extended_name_is_the_next_members_only() -> None:
    data = extended(b"x", pax("path", b"long")) + member(b"a", b"") + member(b"b", b"") + END
    assert [name for name, _, _ in read(data)] == ["long", "b"]
    # A record's value may hold what looks like another record.
    inner = pax("SCHILY.xattr.user.x", b"1\n12 path=evil\n")
    assert read(extended(b"x", inner) + member(b"a", b"") + END)[0][0] == "a"


def test_one_member_is_copied_out_and_nothing_else() -> None:
    def copied(data: bytes) -> tuple[bool, bytes]:
        sink = io.BytesIO()
        source = compressed.expanded(Reader([data]))
        return foreign_tar.copy_out(
            source, lambda name: name == "tool", sink.write
        ), sink.getvalue()

    others = member(b"../tool", b"up") + member(b"/tool", b"root") + header(b"tool", kind=b"2")
    data = others + member(b"./tool", b"right") + END
    assert copied(gzip.compress(data)) == (True, b"right")
    assert copied(others + END) == (False, b"")
    with pytest.raises(UnreadableError, match="'tool' is a duplicate"):
        copied(member(b"./tool", b"one") + member(b"tool", b"two") + END)


def test_is_tar() -> None:
    assert foreign_tar.is_tar(header(b"a"))
    assert not foreign_tar.is_tar(bytes(512))
    assert not foreign_tar.is_tar(header(b"a")[:500])
    assert not foreign_tar.is_tar(b"\xff" * 512)


@pytest.mark.parametrize("name", PACK)
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_streams_one_behind_another_and_cut_ones(name: str, step: int) -> None:
    def unpacked(data: bytes) -> bytes:
        parts = [data[at : at + step] for at in range(0, len(data), step)]
        source = compressed.expanded(Reader(parts))
        return b"".join(iter(source.some, b""))

    pack = PACK[name]
    assert unpacked(pack(b"one") + pack(b"two") + bytes(8)) == b"onetwo"
    with pytest.raises(CutError, match=f"the {name} stream is incomplete"):
        unpacked(pack(b"one" * 99)[:-3])
    with pytest.raises(UnreadableError, match=f"bytes after the {name} stream"):
        unpacked(pack(b"one") + b"and more")
    damaged = bytearray(pack(bytes(range(256)) * 9))
    damaged[len(damaged) // 2 :] = b"\xaa" * (len(damaged) - len(damaged) // 2)
    with pytest.raises(UnreadableError):
        unpacked(bytes(damaged))


def test_frames_of_zstd_that_hold_nothing_are_passed_by() -> None:
    data = zstd.compress(b"one") + b"\x50\x2a\x4d\x18\4\0\0\0toc." + zstd.compress(b"two")
    source = compressed.expanded(Reader([data]))
    assert source.exactly(6) == b"onetwo"
    with pytest.raises(UnreadableError, match="too much memory"):
        compressed.expanded(Reader([b"\x28\xb5\x2f\xfd\x00\xf8" + bytes(64)])).peek(1)


@pytest.mark.parametrize("name", PACK)
def test_a_bomb_stops_at_what_was_allowed(name: str) -> None:
    bomb = PACK[name](bytes(32 << 20))
    tracemalloc.start()
    try:
        source = compressed.expanded(Reader([bomb]), 1 << 20)
        with pytest.raises(UnreadableError, match="expands to more than 1048576 bytes"):
            source.pass_by(32 << 20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12 << 20  # xz holds a dictionary of 8 MiB


def test_a_bomb_stops_at_its_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed, "ROOM", 1 << 20)
    source = compressed.expanded(Reader([gzip.compress(bytes(64 << 20), 9)]))
    with pytest.raises(UnreadableError, match="more than 250 times its size"):
        source.pass_by(64 << 20)


def test_what_is_not_compressed_has_a_bound_too() -> None:
    assert compressed.expanded(Reader([b"plain"])).exactly(5) == b"plain"
    with pytest.raises(UnreadableError, match="more than 3 bytes"):
        compressed.expanded(Reader([b"plain"]), 3).peek(1)


def test_verification_takes_one_stream_alone() -> None:
    assert b"".join(compressed.gunzip([gzip.compress(b"one")])) == b"one"
    assert b"".join(compressed.unxz([lzma.compress(b"one")])) == b"one"
    two = [gzip.compress(b"one"), gzip.compress(b"two")]
    with pytest.raises(UnreadableError, match="bytes after the gzip stream"):
        list(compressed.gunzip(two))
    with pytest.raises(UnreadableError, match="bytes after the xz stream"):
        list(compressed.unxz([lzma.compress(b"one") + bytes(4)]))
    with pytest.raises(UnreadableError, match="limit"):  # a dictionary of 64 MiB
        list(compressed.unxz([lzma.compress(b"one", preset=9)]))
    with pytest.raises(UnreadableError, match="the gzip stream is incomplete"):
        list(compressed.gunzip([]))


def test_a_failing_disk_is_no_damage_of_the_archive() -> None:
    def failing(_at: int, _count: int) -> bytes:
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        list(compressed.gunzip(foreign_tar.plain(failing, 10)))


def one(name: bytes, data: bytes) -> bytes:
    head = name.ljust(16) + b"0".ljust(12) + b"0     0     " + b"100644  "
    return head + str(len(data)).encode().ljust(10) + b"`\n" + data + b"\n" * (len(data) % 2)


def test_members_of_ar(tmp_path: Path) -> None:
    data = ar.MAGIC + one(b"debian-binary", b"2.0\n") + one(b"odd/", b"abc") + one(b"last", b"")
    path = tmp_path / "a.deb"
    path.write_bytes(data)
    with path.open("rb") as file:
        found = [(m.name, m.offset, m.size) for m in ar.members(of_file(file))]
    assert found == [("debian-binary", 68, 4), ("odd", 132, 3), ("last", 196, 0)]
    passed = [(m.name, b"".join(m.data)) for m in ar.members(Reader([data]))]
    assert passed[1] == ("odd", b"abc")


@pytest.mark.parametrize(
    "data",
    [
        b"!<arch>", b"!<arch>\nshort", ar.MAGIC + one(b"a", b"abc")[:-2],
        ar.MAGIC + one(b"a", b"").replace(b"`\n", b"xx"),
        ar.MAGIC + one(b"a", b"").replace(b"0         `", b"-5        `"),
        ar.MAGIC + one(b"a", b"").replace(b"0         `", b"1_0       `"),
        ar.MAGIC + one(b"a", b"").replace(b"0         `", b"9999999999`"),
        ar.MAGIC + one(b"\xff", b""),
    ],
)  # fmt: skip
def test_what_is_no_ar_is_refused(data: bytes) -> None:
    for source in (Reader([data]), Seekable(lambda at, n: data[at : at + n], len(data))):
        with pytest.raises(UnreadableError):
            list(ar.members(source))
