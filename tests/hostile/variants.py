"""Hostile variants of a bundle, in the classes B01 to B30 of the threat list; a function per class.

A function takes a random generator and returns a variant. Each class is a small grammar: it picks
a production, and its terminals (member, byte, number), at random.
"""

from __future__ import annotations

import copy
import gzip
import json
import lzma
import random
import struct
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from kit import (
    CREATED,
    OCI,
    ROLES,
    Draft,
    Entry,
    Key,
    ar,
    chart,
    compact,
    control,
    deb,
    pack,
    plain,
    sha,
    tar,
)

if TYPE_CHECKING:
    from collections.abc import Callable

LEAF = ROLES[1:]
CONTENT = ("keystone.json", "index.json", "oci-layout")
OUTSIDE = (
    "../escaped", "../../etc/cron.d/x", "../" * 12 + "etc/passwd", "/etc/passwd", "/escaped",
    "blobs/../../escaped", "blobs/sha256/../../../escaped", "./escaped", "a//b", "blobs/./x",
    "..", ".", "../", "blobs/..", "~root/.ssh/authorized_keys", "etc/../../escaped",
)  # fmt: skip
ODD = (
    b"a\0b", b"a\nb", b"\xe2\x80\xaegpj.exe", b"\xff\xfe\xfd", b"a b", b"\x1b[2J\x1b[31m", b"C:\\x",
    b"blobs\\sha256\\x", b"-rf", b"a\tb", b"\xc0\xae\xc0\xae/x", b"\xef\xbc\x8e\xef\xbc\x8e/x",
)  # fmt: skip
LINKS = ("/etc/passwd", "../../etc/passwd", "/", "..", ".", "../../..", "/staging", "index.json")


@dataclass
class Variant:
    """Bytes, and how a reader gets them.

    note: the production. files: other files in staging, by path. odd: other paths that are a
    "directory", a "fifo", or a link to this target. readers: those that must refuse it; all when
    empty. accepted: the host's accepted bundle. clock: the host's time (ISO 8601). special: the
    type of a path that is not a file, or a medium that fails or changes at byte `at`.
    """

    data: bytes
    note: str
    accepted: dict[str, Any] | None = None
    clock: str = ""
    special: str = ""
    other: bytes = b""
    at: int = 0
    fields: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    odd: dict[str, str] = field(default_factory=dict)
    readers: tuple[str, ...] = ()


def flip(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def nudge(rng: random.Random, data: bytes) -> bytes:
    """Change, insert or remove one byte."""
    at = rng.randrange(len(data))
    kind = rng.randrange(3)
    if kind == 0:
        return flip(rng, data)
    return data[:at] + data[at + 1 :] if kind == 1 else data[:at] + rng.randbytes(1) + data[at:]


def pick(rng: random.Random, entries: list[Entry], *, content: bool = True) -> int:
    """The index of a member after the metadata, or of a metadata file."""
    found = [i for i, e in enumerate(entries) if e.name.startswith(b"metadata/") != content]
    return rng.choice([i for i in found if entries[i].data])


def with_entries(rng: random.Random, change: Callable[[list[Entry]], object], note: str) -> Variant:
    draft = Draft(rng)
    entries = draft.entries()
    change(entries)
    return Variant(pack(entries, draft.mtime), note)


def b01(rng: random.Random) -> Variant:
    """No signature."""
    draft = Draft(rng)
    kind = rng.randrange(5)
    role = rng.choice(ROLES)
    if kind == 0:
        draft.signers[role] = []
    elif kind == 1:
        draft.after[role] = lambda d: compact({"signed": json.loads(d)["signed"]})
    elif kind == 2:
        draft.after[role] = lambda d: compact(json.loads(d)["signed"])
    entries = draft.entries()
    if kind == 3:
        keep = rng.random() < 0.5
        entries = [e for e in entries if not e.name.startswith(b"metadata/")
                   or (keep and b"root" in e.name)]  # fmt: skip
    elif kind == 4:
        entries = [e for e in entries if e.name != f"metadata/{rng.choice(LEAF)}.json".encode()]
        if len(entries) == len(draft.entries()):
            entries = entries[1:]
    return Variant(pack(entries, draft.mtime), f"{('none', 'key', 'bare', 'all', 'file')[kind]}")


def b02(rng: random.Random) -> Variant:
    """Signature by an unknown key."""
    draft = Draft(rng)
    stranger = Key("stranger", rng.randrange(1 << 30))
    kind = rng.randrange(5)
    if kind == 0:
        draft.root_key, draft.release = Key("other root", 1), stranger
    elif kind == 1:
        draft.signers[rng.choice(LEAF)] = [(stranger, "")]
    elif kind == 2:
        draft.signers[rng.choice(LEAF)] = [(stranger, draft.release.id)]
    elif kind == 3:
        draft.signers = {role: [(stranger, "")] for role in LEAF}
    else:
        draft.signers[rng.choice(LEAF)] = [(draft.release, ""), (stranger, "")]
    return Variant(draft.build(), ("all", "id", "borrowed", "leaves", "beside")[kind])


def b03(rng: random.Random) -> Variant:
    """Signature by a revoked key."""
    draft = Draft(rng)
    first = draft.signed("root", draft.root_document())
    new = Key("release", 2)
    second = draft.root_document()
    second["version"] = 2
    second["keys"][new.id] = new.entry()
    for role in LEAF:
        second["roles"][role]["keyids"] = [new.id]
    if rng.random() < 0.5:
        del second["keys"][draft.release.id]
    draft.roots = [first, draft.signed("root", second)]
    old = rng.sample(LEAF, rng.randint(1, 3))
    draft.signers = {role: [(draft.release if role in old else new, "")] for role in LEAF}
    return Variant(draft.build(), "+".join(sorted(old)))


def b04(rng: random.Random) -> Variant:
    """One key listed twice to reach a threshold of two."""
    draft = Draft(rng)
    role = rng.choice(ROLES)
    key = draft.root_key if role == "root" else draft.release
    alias = sha(b"alias")
    kind = rng.randrange(4)

    def edit(root: dict[str, Any]) -> None:
        root["roles"][role]["threshold"] = 2
        if kind == 0:
            root["roles"][role]["keyids"] = [key.id, key.id]
        elif kind in {1, 2}:
            entry = key.entry()
            if kind == 2:
                entry["keyval"]["public"] = key.public.upper()
            root["keys"][alias] = entry
            root["roles"][role]["keyids"] = [key.id, alias]

    draft.edit["root"] = edit
    twice = alias if kind in {1, 2} else key.id
    draft.signers[role] = [(key, ""), (key, twice)]
    data = draft.build()
    root = next(e.data for e in draft.entries() if b"root" in e.name)
    return Variant(data, ("listed", "alias", "upper", "signed")[kind], fields={"pin": sha(root)})


def b05(rng: random.Random) -> Variant:
    """A threshold of zero, negative, or not a number."""
    draft = Draft(rng)
    role, value = rng.choice(ROLES), rng.choice([0, -1, -(2**31), 2, 99, True, None, "1", [1]])
    draft.edit["root"] = lambda root: root["roles"][role].update(threshold=value)
    if rng.random() < 0.5:
        draft.signers[role] = []
    data = draft.build()
    root = next(e.data for e in draft.entries() if b"root" in e.name)
    return Variant(data, f"{role} {value}", fields={"pin": sha(root)})


def b06(rng: random.Random) -> Variant:
    """Valid signatures of another bundle."""
    one, two = Draft(rng), Draft(rng, number=rng.choice([6, 7, 8]))
    ours, theirs = one.entries(), two.entries()
    kind = rng.randrange(4)
    names = {f"metadata/{role}.json".encode() for role in LEAF}
    if kind == 0:
        swap = set(rng.sample(sorted(names), rng.randint(1, 2)))
    elif kind == 1:
        swap = names
    elif kind == 2:
        swap = {rng.choice(CONTENT[:2]).encode()}
    else:
        one.manifest["number"] = 8
        return Variant(one.build(), "number")
    other = {entry.name: entry for entry in theirs}
    entries = [other[e.name] if e.name in swap else e for e in ours]
    return Variant(pack(entries, one.mtime), b" ".join(sorted(swap)).decode())


def b07(rng: random.Random) -> Variant:
    """Metadata changed by one byte."""

    def change(entries: list[Entry]) -> None:
        at = pick(rng, entries, content=False)
        entries[at].data = nudge(rng, entries[at].data)
        if rng.random() < 0.2:
            entries[at].data = rng.choice([b" " + entries[at].data, entries[at].data + b"\n"])

    return with_entries(rng, change, "byte")


def b08(rng: random.Random) -> Variant:
    """One bit of one member flipped."""

    def change(entries: list[Entry]) -> None:
        at = pick(rng, entries)
        entries[at].data = flip(rng, entries[at].data)

    return with_entries(rng, change, "bit")


def b09(rng: random.Random) -> Variant:
    """A truncated member or bundle."""
    kind = rng.randrange(3)
    if kind == 0:
        data = Draft(rng).build()
        return Variant(data[: rng.randrange(len(data))], "archive")

    def change(entries: list[Entry]) -> None:
        at = pick(rng, entries)
        whole = entries[at].data
        if kind == 2:
            entries[at].size = b"%011o\0" % len(whole)
        entries[at].data = whole[: rng.randrange(len(whole))]

    return with_entries(rng, change, ("", "declared", "not declared")[kind])


def b10(rng: random.Random) -> Variant:
    """Bytes after a member."""

    def change(entries: list[Entry]) -> None:
        at = pick(rng, entries)
        whole = entries[at].data
        if kind:
            entries[at].size = b"%011o\0" % len(whole)
        entries[at].data += rng.randbytes(rng.choice([1, 511, 512, 4096, rng.randint(1, 9999)]))

    kind = rng.randrange(2)
    return with_entries(rng, change, ("declared", "not declared")[kind])


def b11(rng: random.Random) -> Variant:
    """A declared size that is smaller or larger than the member."""
    kind = rng.randrange(3)
    off = rng.choice([-1, 1, -512, 512, 4096, rng.randint(2, 10**6), 2**32, 2**33])
    if kind == 0:

        def change(entries: list[Entry]) -> None:
            at = pick(rng, entries)
            size = min(8**11 - 1, max(0, len(entries[at].data) + off))
            size += size == len(entries[at].data)
            entries[at].size = b"%011o\0" % size

        return with_entries(rng, change, "header")
    draft = Draft(rng)
    if kind == 1:

        def edit(targets: dict[str, Any]) -> None:
            entry = targets["targets"][rng.choice(sorted(targets["targets"]))]
            entry["length"] = max(0, entry["length"] + off) + (entry["length"] + off <= 0)

        draft.edit["targets"] = edit
    else:
        item = rng.choice(draft.items)
        item["size"] = max(0, item["size"] + off) + (item["size"] + off <= 0) * 2
    return Variant(draft.build(), ("", "signed list", "contents")[kind])


def b12(rng: random.Random) -> Variant:
    """Invalid sizes."""
    kind = rng.randrange(3)
    if kind == 0:
        field_ = rng.choice([
            b"\x80" + (2**63).to_bytes(11, "big"), b"\xff" * 12, b"-0000000001\0", b"777777777777",
            b"0o000000012\0", b"0x00000000a\0", b"  000000012\0", b"0000000_012\0",
            b"12\0" + b" " * 9, b"\0" * 12, b" " * 12, b"00000000012 ", b"9999999999\0\0",
            b"\x80" + bytes(10) + b"\x05",
        ])  # fmt: skip

        def change(entries: list[Entry]) -> None:
            entries[pick(rng, entries, content=rng.random() < 0.7)].size = field_

        return with_entries(rng, change, f"header {field_!r}")
    draft = Draft(rng)
    value = rng.choice([2**63, 2**53, -1, -(2**63), 1.5, "1", True, None, [1], 8**11, 1e300])
    if kind == 1:
        signed = rng.choice(["targets", "snapshot", "timestamp"])
        if isinstance(value, float):
            value = 2**64

        def edit(document: dict[str, Any]) -> None:
            place = document["targets"] if signed == "targets" else document["meta"]
            place[rng.choice(sorted(place))]["length"] = value

        draft.edit[signed] = edit
    else:
        rng.choice(draft.items)["size"] = value
    return Variant(draft.build(), f"{('', 'signed list', 'contents')[kind]} {value!r}")


def b13(rng: random.Random) -> Variant:
    """Invalid digests."""
    draft = Draft(rng)
    good = sha(b"x")
    bad = rng.choice([
        "../../x", "../" * 20 + "etc/passwd", good.upper(), good[:-1], good + "0", "", "\0" * 64,
        f"{good[:63]}/", f"sha256:{good}", good[:63] + "g", good[:-2] + "..", "/etc/passwd",
        f" {good[:-1]}", f"{good}\n",
    ])  # fmt: skip
    kind = rng.randrange(5)
    if kind == 0:

        def edit(targets: dict[str, Any]) -> None:
            name = rng.choice(sorted(targets["targets"]))
            hashes = rng.choice([{"sha256": bad}, {"md5": "0" * 32}, {}, {"sha256": 5},
                                 {"sha256": good, "md5": bad}])  # fmt: skip
            targets["targets"][name]["hashes"] = hashes

        draft.edit["targets"] = edit
    elif kind == 1:

        def rename(targets: dict[str, Any]) -> None:
            name = rng.choice([n for n in targets["targets"] if n.startswith("blobs/")])
            targets["targets"][f"blobs/sha256/{bad}"] = targets["targets"].pop(name)

        draft.edit["targets"] = rename
    elif kind == 2:
        rng.choice(draft.items)["digest"] = rng.choice([f"sha256:{bad}", bad, "md5:" + "0" * 32, 5])
    elif kind == 3:
        draft.index[0]["digest"] = rng.choice([f"sha256:{bad}", bad, "sha512:" + "0" * 128, None])
    else:
        manifest = copy.deepcopy(draft.image_manifest)
        place = rng.choice([manifest["config"], manifest["layers"][0]])
        place["digest"] = f"sha256:{bad}"
        draft.set_image(compact(manifest))
    return Variant(draft.build(), ("hash", "name", "item", "index", "manifest")[kind])


def b14(rng: random.Random) -> Variant:
    """Names that leave the folder, or that a person cannot see."""
    text = rng.choice(OUTSIDE)
    kind = rng.randrange(5)
    if kind < 2:
        raw = rng.choice([text.encode(), rng.choice(ODD), b"x" * rng.choice([101, 300])])

        def change(entries: list[Entry]) -> None:
            new = Entry(raw, rng.randbytes(rng.randint(0, 99)))
            if len(raw) > 100:
                new.prefix = raw[100:255]
            if kind == 0:
                entries.insert(rng.randint(0, len(entries)), new)
            else:
                entries[pick(rng, entries)].name = raw

        return with_entries(rng, change, f"member {raw[:40]!r}")
    draft = Draft(rng)
    if kind == 2:
        data = rng.randbytes(9)
        draft.edit["targets"] = lambda targets: targets["targets"].update(
            {text: {"length": len(data), "hashes": {"sha256": sha(data)}}}
        )
        entries = draft.entries()
        if rng.random() < 0.5:
            entries.append(Entry(text.encode(), data))
        return Variant(pack(entries, draft.mtime), f"signed {text!r}")
    text = rng.choice([text, "a\nb", "\u202egpj.exe", "a b", "\x1b[2J", "x" * 300, "", "a\0b", "é"])
    item = rng.choice(draft.items)
    if kind == 3:
        item[rng.choice(["name", "kind"])] = text
    else:
        label = rng.choice(["filename", "suite", "version"])
        if label == "version":
            item["version"] = text or "a/../b"
        else:
            item["labels"][label] = text
    return Variant(draft.build(), f"contents {text[:40]!r}")


def b15(rng: random.Random) -> Variant:
    """Members that are not regular files."""
    flag = rng.choice([b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8", b"\0", b"S", b"V", b"M",
                       b"N", b"D", b"Z"])  # fmt: skip
    kind = rng.randrange(3)

    def change(entries: list[Entry]) -> None:
        link = rng.choice(LINKS).encode() if flag in b"12" else b""
        if kind == 0:
            at = pick(rng, entries, content=rng.random() < 0.8)
            entries[at].flag, entries[at].link = flag, link
            if flag in b"12":
                entries[at].data = b""
        elif kind == 1:
            name = rng.choice(
                [b"blobs/sha256/" + sha(b"new").encode(), b"index.json", b"new", b"d/"]
            )
            entries.insert(rng.randint(0, len(entries)), Entry(name, b"", flag, link))
        else:
            at = pick(rng, entries)
            choice = rng.randrange(4)
            if choice == 0:
                entries[at].mode = rng.choice(
                    [b"0004755\0", b"0002755\0", b"0000777\0", b"0000755\0"]
                )
            elif choice == 1:
                entries[at].magic = rng.choice([b"ustar  \0", b"\0" * 8, b"ustar\x0001"])
            elif choice == 2:
                entries[at].mtime = b"%011o\0" % rng.randrange(8**11)
            else:
                entries[at].link = rng.choice(LINKS).encode()

    return with_entries(rng, change, f"{('in place', 'added', 'fields')[kind]} {flag!r}")


def b16(rng: random.Random) -> Variant:
    """Links, and files written through them."""
    target = rng.choice(LINKS).encode()
    kind = rng.randrange(5)
    payload = b"escaped"
    chain: list[Entry] = []
    if kind == 0:
        chain = [Entry(b"l", b"", b"2", target), Entry(b"l/escaped", payload)]
    elif kind == 1:
        chain = [Entry(b"s", b"", b"2", b"/etc/passwd"), Entry(b"h", b"", b"1", b"s"),
                 Entry(b"h", payload)]  # fmt: skip
    elif kind == 2:
        count = rng.randint(2, 100)
        chain = [Entry(b"c0", b"", b"2", b"..")]
        chain += [Entry(b"c%d" % i, b"", b"2", b"c%d/.." % (i - 1)) for i in range(1, count)]
        chain.append(Entry(b"c%d/escaped" % (count - 1), payload))
    elif kind == 3:
        chain = [Entry(b"a/b/", b"", b"5", b""), Entry(b"a/b/up", b"", b"2", b"../..")]
        chain += [Entry(b"out", b"", b"2", b"a/b/up/.."), Entry(b"out/escaped", payload)]
    else:
        chain = [Entry(b"blobs", b"", b"2", target), Entry(b"index.json", b"", b"1", target)]
    front = rng.random() < 0.5

    def change(entries: list[Entry]) -> None:
        at = 0 if front else rng.randint(0, len(entries))
        entries[at:at] = chain

    return with_entries(rng, change, f"{('through', 'hard', 'chain', 'walk', 'planted')[kind]}")


def b17(rng: random.Random) -> Variant:
    """A duplicate member."""

    def change(entries: list[Entry]) -> None:
        at = pick(rng, entries, content=rng.random() < 0.7)
        twin = copy.copy(entries[at])
        if rng.random() < 0.7:
            twin.data = flip(rng, twin.data)
        entries.insert(rng.randint(at + 1, len(entries)), twin)

    return with_entries(rng, change, "twice")


def pax(**records: str) -> bytes:
    out = b""
    for key, value in records.items():
        text = f" {key}={value}\n".encode()
        length = len(text) + 1
        while len(str(length)) + len(text) != length:
            length = len(str(length)) + len(text)
        out += str(length).encode() + text
    return out


def b18(rng: random.Random) -> Variant:
    """Headers that modify the next one."""
    out = rng.choice(OUTSIDE)
    kind = rng.randrange(5)

    def change(entries: list[Entry]) -> None:
        at = pick(rng, entries)
        if kind == 0:
            extra = Entry(b"././@LongLink", out.encode() + b"\0", b"L", magic=b"ustar  \0")
        elif kind == 1:
            extra = Entry(b"././@LongLink", out.encode() + b"\0", b"K", magic=b"ustar  \0")
        elif kind == 2:
            extra = Entry(b"PaxHeaders/x", pax(path=out), b"x")
        elif kind == 3:
            size = rng.choice(["0", "-1", str(2**63), str(len(entries[at].data) + 512)])
            extra = Entry(b"PaxHeaders/x", pax(size=size), b"x")
        else:
            extra = Entry(b"pax_global_header", pax(path=out, linkpath="/etc/passwd"), b"g")
        entries.insert(at, extra)

    return with_entries(rng, change, ("long name", "long link", "path", "size", "global")[kind])


def b19(rng: random.Random) -> Variant:
    """More or fewer members than the signed list."""
    kind = rng.randrange(4)
    draft = Draft(rng)
    if kind == 2:
        gone = rng.choice(draft.items)["digest"].removeprefix("sha256:")
        draft.edit["targets"] = lambda t: t["targets"].pop(f"blobs/sha256/{gone}")
        entries = draft.entries()
        if rng.random() < 0.5:
            entries = [e for e in entries if gone.encode() not in e.name]
        return Variant(pack(entries, draft.mtime), "contents only")
    entries = draft.entries()
    if kind == 0:
        data = rng.randbytes(rng.randint(0, 999))
        name = rng.choice(
            [f"blobs/sha256/{sha(data)}", "new", "keystone-install", "metadata/x.json"]
        )
        entries.insert(rng.randint(0, len(entries)), Entry(name.encode(), data))
    elif kind == 1:
        del entries[pick(rng, entries)]
    else:
        rng.shuffle(entries)
        if entries[0].name == b"metadata/1.root.json":
            entries.append(entries.pop(0))
    return Variant(pack(entries, draft.mtime), ("extra", "missing", "", "order")[kind])


def b20(rng: random.Random) -> Variant:
    """Too many members, or too much metadata."""
    kind = rng.randrange(5)
    count = rng.choice([100, 1000, 4000])

    def change(entries: list[Entry]) -> None:
        if kind == 0:
            entries[-1:-1] = [Entry(b"e%d" % i, aligned=False) for i in range(count)]
        elif kind == 1:
            at = rng.randint(0, len(entries))
            entries[at:at] = [Entry(b".padding", aligned=False)] * count
        elif kind == 2:
            entries[1:1] = [copy.copy(entries[0]) for _ in range(300)]
            for i in range(301):
                entries[i].name = b"metadata/%d.root.json" % (i + 1)
        elif kind == 3:
            at = pick(rng, entries, content=False)
            entries[at].data += b" " * rng.choice([70_000, 600_000, 9_000_000])
        else:
            at = pick(rng, entries, content=False)
            text = json.loads(entries[at].data)
            text["signatures"] *= 100
            entries[at].data = compact(text)

    return with_entries(rng, change, ("empty", "padding", "roots", "spaces", "signatures")[kind])


@cache
def zeros(mebibytes: int, *, xz: bool = False) -> bytes:
    data = bytes(mebibytes << 20)
    return lzma.compress(data, preset=0) if xz else gzip.compress(data, 1, mtime=0)


@cache
def many_files() -> bytes:
    files = [plain(f"web/f{i}", bytes(4 << 20)) for i in range(30)]
    return gzip.compress(tar([plain("web/Chart.yaml", b"x"), *files]), 1, mtime=0)


def b21(rng: random.Random) -> Variant:
    """Decompression bombs and false frame headers."""
    draft = Draft(rng)
    kind = rng.randrange(6)
    if kind == 0:
        draft.replace("chart", zeros(rng.choice([120, 200])))
    elif kind == 1:
        draft.replace("chart", many_files())
    elif kind in {2, 3}:
        inner = zeros(40, xz=kind == 2)
        name = f"control.tar.{'xz' if kind == 2 else 'gz'}"
        draft.replace("deb", ar([("debian-binary", b"2.0\n"), (name, inner), ("data.tar.xz", b"")]))
    elif kind == 4:
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 28}]
        inner = lzma.compress(tar([plain("./control", control("tool", "1.0-1"))]), filters=filters)
        draft.replace("deb", ar([("debian-binary", b"2.0\n"), ("control.tar.xz", inner),
                                 ("data.tar.xz", b"")]))  # fmt: skip
    else:
        frame = zstd(rng)
        draft.replace("deb", ar([("debian-binary", b"2.0\n"), ("control.tar.zst", frame),
                                 ("data.tar.zst", b"")]))  # fmt: skip
    return Variant(draft.build(), ("gzip", "files", "xz", "gz", "dictionary", "zstd")[kind])


def zstd(rng: random.Random) -> bytes:
    """A frame (RFC 8878) that needs or gives too much."""
    magic = b"\x28\xb5\x2f\xfd"
    last = b"\x01\0\0"
    rle = (1 << 1 | (128 << 10) << 3).to_bytes(3, "little") + b"\0"
    return rng.choice([
        magic + b"\x00" + bytes([(31 - 10) << 3]) + last,  # window of 2 GiB
        magic + b"\x03\x00" + struct.pack("<I", 5) + last,  # dictionary
        magic + b"\x00\x50" + rle * rng.choice([200, 3000]) + last,  # RLE: 25 MiB and more
        magic + b"\x00\x50" + rle * 20,  # no last block
        b"\x50\x2a\x4d\x18" + struct.pack("<I", 2**32 - 1) + b"x",  # skippable, 4 GiB
        (magic + b"\x00\x50" + last) * 2,  # two frames
        magic + b"\xe0" + struct.pack("<Q", 2**40) + last,  # one segment of 1 TiB
        magic + b"\x00\x50" + b"\x07\0\0",  # reserved block
        magic + b"\x08\x50" + last,  # reserved bit
        magic,
    ])  # fmt: skip


def b22(rng: random.Random) -> Variant:
    """Bytes where nothing or zeros are required."""
    draft = Draft(rng)
    data = draft.build()
    kind = rng.randrange(5)
    if kind == 0:
        data += rng.randbytes(rng.randint(1, 9000)) if rng.random() < 0.7 else bytes(512)
    elif kind == 1:
        data += Draft(rng).build()
    elif kind == 2:
        entries = draft.entries()
        data = pack(entries, draft.mtime)
        tail = len(data) - rng.randint(1, 1000)
        data = data[:tail] + b"\1" + data[tail + 1 :]
    elif kind == 3:
        whole = pack(draft.entries(), draft.mtime)
        data = whole[:512] + bytes([rng.randint(1, 255)]) + whole[513:]
    else:
        data = data.rstrip(b"\0")
        data += bytes(rng.choice([0, 512, 1024]))
        data += b"" if len(data) % 4096 else b"\1"
    return Variant(data, ("behind", "joined", "end", "padding", "short end")[kind])


JSON_TRICKS: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "twice": lambda r, d: b'{"%s":null,' % r.choice(sorted(json.loads(d))).encode() + d[1:],
    "deep": lambda r, d: b'{"a":' + b"[" * r.choice([70, 2000, 100_000]) + b"0",
    "deep closed": lambda r, d: b'{"a":' + b"[" * 300 + b"]" * 300 + b"," + d.lstrip(b" \n")[1:],
    "NaN": lambda r, d: b'{"a":' + r.choice([b"NaN", b"Infinity", b"-Infinity", b"1e999", b"1.5"])
        + b"," + d[1:],
    "long": lambda r, d: b'{"a":"' + b"x" * 5_000_000 + b'",' + d[1:],
    "BOM": lambda r, d: b"\xef\xbb\xbf" + d,
    "UTF-16": lambda r, d: d.decode().encode("utf-16"),
    "big": lambda r, d: b'{"a":' + str(2 ** r.choice([53, 63, 64, 5000])).encode() + b"," + d[1:],
    "surrogate": lambda r, d: b'{"a":"\\ud800",' + d[1:],
    "not UTF-8": lambda r, d: b'{"a":"\xff",' + d[1:],
    "behind": lambda r, d: d + r.choice([b"x", b"{}", b"\0", b" {}"]),
    "empty": lambda r, d: r.choice([b"", b"null", b"[]", b"0", b'""', b"{}"]),
    "many": lambda r, d: b'{"a":[' + b"0," * 450_000 + b"0]," + d[1:],
    "comment": lambda r, d: b"/**/" + d,
}  # fmt: skip


def b23(rng: random.Random) -> Variant:
    """JSON that is ambiguous or invalid."""
    draft = Draft(rng)
    name, trick = rng.choice(sorted(JSON_TRICKS.items(), key=lambda pair: pair[0]))
    where = rng.choice([*LEAF, *LEAF, "root", "keystone.json", "index.json", "image"])

    def change(data: bytes) -> bytes:
        return trick(rng, data)

    if where == "image":
        draft.set_image(change(compact(draft.image_manifest)))
    elif where in ROLES:
        rng.choice([draft.after, draft.late])[where] = change
    else:
        draft.raw[where] = change
    return Variant(draft.build(), f"{where}: {name}")


def b24(rng: random.Random) -> Variant:
    """Manifests that do not match their media type."""
    draft = Draft(rng)
    manifest: dict[str, Any] = copy.deepcopy(draft.image_manifest)
    kind = rng.randrange(9)
    if kind == 0:
        manifest["manifests"] = [draft.descriptor(draft.config, f"{OCI}.manifest.v1+json")]
    elif kind == 1:
        manifest["mediaType"] = rng.choice([f"{OCI}.index.v1+json", "text/plain", 5, "", None])
    elif kind == 2:
        del manifest[rng.choice(["config", "layers", "schemaVersion"])]
    elif kind == 3:
        manifest["layers"] = rng.choice([{}, "x", None, [None], [5], [{}], 5])
    elif kind == 4:
        place = rng.choice([manifest["config"], manifest["layers"][0]])
        place["size"] = rng.choice([-1, "5", place["size"] + 1, True, None, 2**50])
    elif kind == 5:
        manifest["schemaVersion"] = rng.choice([1, 3, "2", None])
    elif kind == 6:
        manifest["layers"].append(draft.descriptor(rng.randbytes(5), f"{OCI}.layer.v1.tar"))
    elif kind == 7:
        manifest["config"]["data"] = rng.choice(["aGVsbG8=", "!!!", 5])
    draft.set_image(compact(manifest))
    if kind == 8:
        choice = rng.randrange(4)
        wrong = f"{OCI}.manifest.v1+json"
        if choice == 0:
            draft.index[0]["mediaType"] = rng.choice([wrong, "text/plain"])
        elif choice == 1:
            draft.items[0]["labels"]["mediaType"] = rng.choice([wrong, "text/plain"])
        elif choice == 2:
            draft.index[0]["size"] += 1
        else:
            draft.raw["oci-layout"] = lambda _: b'{"imageLayoutVersion":"2.0.0"}'
    names = ("both", "type", "missing", "shape", "size", "version", "absent", "data", "index")
    return Variant(draft.build(), names[kind])


def b25(rng: random.Random) -> Variant:
    """Foreign layers, which must be fetched from another place."""
    draft = Draft(rng)
    manifest: dict[str, Any] = copy.deepcopy(draft.image_manifest)
    kind = rng.randrange(3)
    place = rng.choice([manifest["config"], manifest["layers"][0]])
    urls = ["https://evil.example/x", "http://127.0.0.1:5000/", "file:///etc/passwd"]
    if kind == 0:
        place["urls"] = rng.sample(urls, rng.randint(1, 3))
    elif kind == 1:
        manifest["layers"][0]["mediaType"] = rng.choice([
            f"{OCI}.layer.nondistributable.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ])  # fmt: skip
    draft.set_image(compact(manifest))
    if kind == 2:
        draft.index[0]["urls"] = urls[:1]
    return Variant(draft.build(), ("urls", "foreign", "index")[kind])


def b26(rng: random.Random) -> Variant:
    """Charts that Helm must not open."""
    draft = Draft(rng)
    kind = rng.randrange(9)
    bad = rng.choice([*OUTSIDE, "web/../../x", "web/..\\x", "web/a\nb"])
    if kind == 0:
        data = chart([plain(bad, b"x")])
    elif kind == 1:
        flag = rng.choice([b"1", b"2"])
        name = rng.choice(["web/Chart.lock", "web/templates/x.yaml"])
        data = chart([plain(name, b"", type=flag, linkname=rng.choice(LINKS))])
    elif kind == 2:
        data = chart([plain("web/values.schema.json", bytes(rng.choice([6, 60]) << 20))])
    elif kind == 3:
        data = chart(top=rng.choice(["web/chart.yaml", "Chart.yaml", "other/Chart.yaml"]))
    elif kind == 4:
        data = chart() + rng.choice([b"x", chart(), bytes(8)])
    elif kind == 5:
        whole = chart()
        data = whole[: rng.randrange(len(whole))]
    elif kind == 6:
        data = rng.choice([b"", b"PK\3\4", rng.randbytes(50), tar([plain("web/Chart.yaml", b"")])])
    elif kind == 7:
        data = chart([plain("web/values.yaml", b"b: 2\n")])
    else:
        flag = rng.choice([b"3", b"4", b"6", b"S"])
        data = chart([plain("web/dev", b"", type=flag)])
    draft.replace("chart", data)
    names = ("name", "link", "large", "no chart", "behind", "cut", "other", "twice", "device")
    return Variant(draft.build(), names[kind])


def b27(rng: random.Random) -> Variant:
    """Debs that do not match their name, or are built to be misread."""
    draft = Draft(rng)
    kind = rng.randrange(9)
    good = control("tool", "1.0-1")
    squeeze = rng.choice(["", ".gz", ".xz"])
    if kind == 0:
        bad = plain(rng.choice(OUTSIDE[:7]), b"x")
        data = deb(good, extra=[bad], squeeze=squeeze)
    elif kind == 1:
        fields = rng.choice(
            [("tool", "1.0-1", "arm64"), ("tool", "9.9", "amd64"), ("sudo", "1.0-1", "amd64")]
        )
        data = deb(control(*fields), squeeze=squeeze)
    elif kind == 2:
        flag = rng.choice([b"1", b"2", b"3", b"6"])
        data = deb(
            good, extra=[plain("./postinst", b"", type=flag, linkname="/bin/sh")], squeeze=squeeze
        )
    elif kind == 3:
        data = deb(good, extra=[plain("./postinst", b"#!/bin/sh\n", mode=0o4755)], squeeze=squeeze)
    elif kind == 4:
        parts = [
            ("debian-binary", b"2.0\n"),
            ("control.tar", tar([plain("control", good)])),
            ("data.tar", b""),
        ]
        rng.choice([
            lambda: parts.append(("../../etc/x", b"x")), lambda: parts.reverse(),
            lambda: parts.pop(), lambda: parts.insert(0, ("x", b"")),
            lambda: parts.append(parts[1]),
            lambda: parts.__setitem__(0, ("debian-binary", b"3.0\n")),
            lambda: parts.__setitem__(1, ("control.tar.bz2", b"")),
        ])()  # fmt: skip
        data = ar(parts)
    elif kind == 5:
        whole = bytearray(draft.deb)
        size = rng.choice([b"-1", b"9999999999", b"0x10", b" 5", b"1e9"]).ljust(10)
        at = rng.choice([8, 72])
        whole[at + 48 : at + 58] = size
        data = bytes(whole)
    elif kind == 6:
        data = draft.deb[: rng.randrange(len(draft.deb))]
        if rng.random() < 0.3:
            data = draft.deb + rng.randbytes(7)
    elif kind == 7:
        data = deb(
            rng.choice([b"", good + good, b"Package: tool\n", b"\xff" * 30]), squeeze=squeeze
        )
    else:
        data = deb(good, extra=[plain("./control", control("tool", "2"))], squeeze=squeeze)
    draft.replace("deb", data)
    names = ("name", "other", "link", "setuid", "parts", "size", "cut", "control", "two")
    return Variant(draft.build(), names[kind])


def b28(rng: random.Random) -> Variant:
    """Older than the accepted bundle, or with a number that blocks all later ones."""
    kind = rng.randrange(4)
    if kind == 3:
        draft = Draft(rng, number=rng.choice([2**63 - 1, 2**53, 10**15, 10**13, 0, -1, 2**53 - 1]))
        return Variant(draft.build(), "number")
    draft = Draft(rng, number=rng.randint(1, 6) if kind == 0 else 7)
    created = CREATED + timedelta(days=1) if kind == 1 else CREATED
    accepted = {"number": 7, "created": created.isoformat(), "seen": created.isoformat(),
                "digest": f"sha256:{sha(b'other')}", "keys": [draft.release.public]}  # fmt: skip
    if kind == 2:
        accepted = rng.choice([{"number": "x"}, {}, [], {**accepted, "created": "yesterday"}])
    return Variant(draft.build(), ("older", "same number", "memory", "")[kind], accepted=accepted)


def b29(rng: random.Random) -> Variant:
    """Expired, at any clock time."""
    draft = Draft(rng)
    clock = rng.choice(["", "1970-01-01T00:00:00+00:00", "2099-01-01T00:00:00+00:00"])
    role = rng.choice(ROLES)
    kind = rng.randrange(3)
    pin = {}
    if kind == 0:
        moment = rng.choice(
            ["2026-10-30T00:00:00Z", "1970-01-01T00:00:00Z", "2020-02-29T23:59:59Z"]
        )
        draft.edit[role] = lambda signed: signed.update(expires=moment)
    elif kind == 1:
        bad = rng.choice(["", "never", "2030-13-01T00:00:00Z", "2030-01-01", 5, None,
                          "2030-01-01T00:00:00+14:00", "9999-99-99T99:99:99Z"])  # fmt: skip
        draft.edit[role] = lambda signed: signed.update(expires=bad)
    else:
        role = rng.choice(["timestamp", "targets"])
        if rng.random() < 0.5:
            bad = rng.choice(["tomorrow", "2026-11-20T12:00:00", 5, "", None])
            draft.edit["timestamp"] = lambda signed: signed.update({"x-keystone-created": bad})
        else:
            clock = "2099-01-01T00:00:00+00:00"
    data = draft.build()
    root = next(e.data for e in draft.entries() if b"root" in e.name)
    if role == "root":
        pin = {"pin": sha(root)}
    return Variant(data, f"{role} {('past', 'no date', 'created')[kind]}", clock=clock, fields=pin)


def b30(rng: random.Random) -> Variant:
    """Media that are not files, fail, or change during the read."""
    data, other = Draft(rng).build(), Draft(rng).build()
    special = rng.choice(["fifo", "directory", "socket", "/dev/zero", "/dev/null", "/dev/urandom",
        "/proc/self/mem", "/proc/self/environ", "/proc/self/maps", "missing", "dangling", "error",
        "swap", "swap", "half", "empty", "zeros"])  # fmt: skip
    at = rng.randrange(len(data.rstrip(b"\0")))
    if special == "half":
        # A copy whose space was reserved first: the rest is zeros.
        return Variant(data[:at] + bytes(len(data) - at), "half-copied")
    if special == "empty":
        return Variant(b"", "empty")
    if special == "zeros":
        return Variant(bytes(rng.choice([512, 4096, 1 << 20])), "zeros")
    # Between the first different byte and the last bytes, which may be equal: otherwise the reader
    # would read one complete, valid bundle.
    first = next(i for i, pair in enumerate(zip(data, other, strict=False)) if len({*pair}) > 1)
    return Variant(data, special, special=special, other=other, at=max(first + 1, at // 2))


CLASSES: dict[str, Callable[[random.Random], Variant]] = {
    f"B{number:02d}": globals()[f"b{number:02d}"] for number in range(1, 31)
}


def valid(rng: random.Random) -> Variant:
    """The control group: a bundle that must be accepted."""
    return Variant(Draft(rng).build(), "valid")


def codes(*numbers: int) -> frozenset[str]:
    return frozenset(f"KSB-{number:02d}" for number in numbers)


CODES = {
    "B01": codes(1, 2, 23), "B02": codes(2, 7), "B03": codes(2, 3), "B04": codes(4, 5, 23),
    "B05": codes(5, 23), "B06": codes(6, 8, 11), "B07": codes(2, 4, 5, 6, 7, 13, 14, 23),
    "B08": codes(8), "B09": codes(8, 9, 11, 15, 19, 22), "B10": codes(11, 15, 22),
    "B11": codes(11, 12, 14, 19, 23), "B12": codes(6, 12, 14, 23), "B13": codes(13, 14, 19, 24),
    "B14": codes(14, 19), "B15": codes(15), "B16": codes(15), "B17": codes(1, 17, 19),
    "B18": codes(18), "B19": codes(1, 15, 19), "B20": codes(6, 20, 22), "B21": codes(26, 27),
    "B22": codes(9, 22), "B23": codes(1, 14, 20, 23, 24), "B24": codes(11, 19, 24),
    "B25": codes(25),
    "B26": codes(26), "B27": codes(27), "B28": codes(23, 28), "B29": codes(23, 29),
    "B30": codes(1, 6, 7, 8, 9, 11, 13, 15, 19, 22, 23, 30),
}  # fmt: skip
"""The allowed error codes of a class: its own, and those of earlier checks."""
