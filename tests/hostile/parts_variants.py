"""Hostile parts of a bundle, in the classes P01 to P13; a function per class, as in variants.py.

This module implements the split again from docs/reference/bundle-format.md; reedsolo gives the
factors of parity, as the format specifies.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
from typing import TYPE_CHECKING, Any

import reedsolo
from kit import Draft, Entry, Json, Key, pack, sha, valid_root
from variants import ODD, OUTSIDE, Variant, codes, flip

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 256 << 10
NUMBERS = (-1, 0, True, None, "3", 1.5, 2**53, 2**53 - 1, 2**45, 10**30, 999, [], {})
Members = list[tuple[str, bytes]]


def sums(data: bytes) -> bytes:
    """SHA-256 of each chunk."""
    pieces = (data[at : at + CHUNK] for at in range(0, len(data), CHUNK))
    return b"".join(hashlib.sha256(piece).digest() for piece in pieces)


@functools.cache
def factors(data: int, parity: int) -> list[list[bytes]]:
    """The multiplication table (GF(256), 0x11d) of each parity part for each data part."""
    codec = reedsolo.RSCodec(parity)
    rows: list[list[bytes]] = [[] for _ in range(parity)]
    for index in range(data):
        word = codec.encode(bytes(index) + b"\1" + bytes(data - index - 1))[data:]
        for row, factor in zip(rows, word, strict=True):
            row.append(bytes(reedsolo.gf_mul(factor, value) for value in range(256)))
    return rows


class Cut:
    """A bundle in parts that a test can change.

    describe, members, entries: hooks on a part's description, members and archive; they get its
    number. data: the bytes of each part, by number; sums: the stated digests of their chunks.
    """

    def __init__(self, rng: random.Random, draft: Draft | None = None) -> None:
        self.rng = rng
        self.draft = draft or Draft(rng)
        for index in range(rng.randint(4, 6)):
            self.draft.add(
                "file", f"thing-{index}", "1", rng.randbytes(rng.randint(90_000, 260_000))
            )
        entries = self.draft.entries()
        self.bundle = pack(entries, self.draft.mtime)
        self.places: list[tuple[int, int, str]] = []
        at, end = 0, 0
        for entry in entries:
            gap = (4096 - 512 - end) % 4096
            at = end + (gap + 512 if gap else 512)
            end = at + -(-len(entry.data) // 512) * 512
            name = entry.name.decode()
            if not name.startswith("metadata/"):
                self.places.append((at, len(entry.data), name))
            if name == "keystone.json":
                self.head = self.bundle[:end]
        self.layout = "".join(f"{at} {size} {name}\n" for at, size, name in self.places).encode()
        self.part_bytes, self.parity = CHUNK * rng.choice([1, 1, 2]), rng.choice([1, 2])
        self.count = -(-len(self.bundle) // self.part_bytes)
        self.size = len(self.bundle)
        self.describe: Callable[[Json, int], Any] = lambda _d, _n: None
        self.members: Callable[[Members, int], Any] = lambda _m, _n: None
        self.entries: Callable[[list[Entry], int], Any] = lambda _e, _n: None
        self.fill()

    def fill(self) -> None:
        """Compute the data of all parts from the bundle's bytes."""
        step = self.part_bytes
        self.data = {n + 1: self.bundle[n * step : (n + 1) * step] for n in range(self.count)}
        for row, tables in enumerate(factors(self.count, self.parity)):
            total = 0
            for number, table in enumerate(tables, 1):
                total ^= int.from_bytes(self.data[number].translate(table), "little")
            length = min(step, self.size)
            self.data[self.count + 1 + row] = total.to_bytes(length, "little")
        self.sums = {number: sums(data) for number, data in self.data.items()}
        self.every = b"".join(self.sums[number] for number in range(1, self.count + 1))

    def build(self, number: int) -> bytes:
        every = self.every if number > self.count else b""
        members: Members = [
            ("head", self.head),
            ("layout", self.layout),
            ("chunks", self.sums[number]),
        ]
        members += [("all-chunks", every)] if number > self.count else []
        members += [("data", self.data[number])]
        self.members(members, number)
        found = dict(members)
        targets = next(e.data for e in self.draft.entries() if e.name == b"metadata/targets.json")
        document: Json = {
            "apiVersion": "keystone/v1alpha1", "kind": "BundlePart",
            "set": {
                "bundle": {"digest": f"sha256:{sha(targets)}", "number": 7, "size": self.size},
                "partBytes": self.part_bytes, "data": self.count, "parity": self.parity,
                "head": sha(found.get("head", b"")), "layout": sha(found.get("layout", b"")),
            },
            "part": number, "chunks": sha(found.get("chunks", b"")),
            "allChunks": sha(found.get("all-chunks", b"")),
        }  # fmt: skip
        self.describe(document, number)
        text = (json.dumps(document, sort_keys=True) + "\n").encode()
        entries = [Entry(f"part-{sha(text)}.json".encode(), text)]
        entries += [Entry(name.encode(), data) for name, data in members]
        self.entries(entries, number)
        return pack(entries, self.draft.mtime)

    def files(self) -> dict[str, bytes]:
        return {f"parts/b.{number:03d}": self.build(number) for number in self.data}


def sent(made: Cut, note: str, *readers: str, one: int = 0, **fields: Any) -> Variant:
    """All parts in a folder; or only the part `one`."""
    files = made.files()
    path = f"parts/b.{one:03d}" if one else "parts"
    fields = {"path": path, "want": sha(made.bundle), **fields}
    return Variant(b"", note, files=files, readers=readers, fields=fields)


def some(rng: random.Random, made: Cut) -> int:
    """The number of a random part."""
    return rng.randint(1, len(made.data))


def p01(rng: random.Random) -> Variant:
    """An invalid description, or one of another kind"""
    made = Cut(rng)
    part, kind = some(rng, made), rng.randrange(3)
    if kind == 0:
        where = rng.choice([(), ("set",), ("set", "bundle")])

        def drop(document: Json, number: int) -> None:
            if number == part:
                for key in where:
                    document = document[key]
                document.pop(rng.choice(sorted(document)))

        made.describe = drop
    elif kind == 1:
        key, value = rng.choice([("kind", "BundleDelta"), ("apiVersion", "x"), ("set", 5),
                                 ("set", []), ("chunks", "x"), ("chunks", 5)])  # fmt: skip
        made.describe = lambda d, n: d.update({key: value}) if n == part else None
    else:
        texts: list[Callable[[bytes], bytes]] = [
            lambda d: d[:-2] + b',"part":1}\n', lambda d: b"\xef\xbb\xbf" + d, lambda d: d[:99],
            lambda _: b"", lambda _: b"[" * 60_000, lambda d: d[:-2] + b',"x":NaN}',
            lambda d: d[:-2] + b',"x":"' + b"y" * rng.randint(65_000, 3_000_000) + b'"}',
        ]  # fmt: skip
        text = rng.choice(texts)

        def spoil(entries: list[Entry], number: int) -> None:
            if number == part:
                data = text(entries[0].data)
                entries[0] = Entry(f"part-{sha(data)}.json".encode(), data)

        made.entries = spoil
    return sent(made, ("without", "kind", "text")[kind], one=part)


def p02(rng: random.Random) -> Variant:
    """Set numbers that are invalid, negative, huge, or inconsistent"""
    made = Cut(rng)
    field = rng.choice(["part", "partBytes", "data", "parity", "size", "number"])
    bad = rng.choice(NUMBERS)
    part = some(rng, made)
    if field == "parity" and bad == 0:
        bad = 33
    if field == "number" and bad in (0, 999, 2**45):
        bad = 2**60

    def edit(document: Json, number: int) -> None:
        if number == part or field != "part":
            places = {"part": document, "size": document["set"]["bundle"],
                      "number": document["set"]["bundle"]}  # fmt: skip
            places.get(field, document["set"])[field] = bad

    made.describe = edit
    return sent(made, f"{field} {bad!r:.20}", one=part if field == "part" else 0)


def p03(rng: random.Random) -> Variant:
    """False digests of a part"""
    made = Cut(rng)
    part, kind = some(rng, made), rng.randrange(5)
    if kind == 0:
        made.sums[part] = flip(rng, made.sums[part])
    elif kind == 1:
        made.sums[part] = rng.choice([b"", made.sums[part][:-1], made.sums[part] + bytes(32),
                                      bytes(rng.randint(100_000, 9_000_000))])  # fmt: skip
    elif kind == 2:
        field = rng.choice(["chunks", "head", "layout"])

        def edit(document: Json, number: int) -> None:
            if number == part:
                place = document if field == "chunks" else document["set"]
                place[field] = sha(rng.randbytes(9))

        made.describe = edit
    elif kind == 3:
        part = rng.randint(made.count + 1, len(made.data))
        made.describe = lambda d, n: d.update(allChunks=sha(b"x")) if n == part else None
    else:
        # The name has another digest than the description.
        wrong = rng.choice([sha(b"x"), "0" * 63, "A" * 64]).encode()

        def rename(entries: list[Entry], number: int) -> None:
            if number == part:
                entries[0].name = b"part-" + wrong + b".json"

        made.entries = rename
    return sent(made, ("bit", "count", "digest", "all", "name")[kind], one=part)


def _inside(rng: random.Random, made: Cut) -> int:
    """An offset in a blob that is completely in one part."""
    step = made.part_bytes
    found = [
        (at, size)
        for at, size, name in made.places
        if name.startswith("blobs/") and size and at // step == (at + size - 1) // step
    ]
    at, size = rng.choice(found)
    return at + rng.randrange(size)


def p04(rng: random.Random) -> Variant:
    """Changed data with matching changed digests"""
    made = Cut(rng)
    want, at = sha(made.bundle), _inside(rng, made)
    kind = rng.randrange(2)
    changed = (
        made.bundle[:at] + bytes([made.bundle[at] ^ 1 << rng.randrange(8)]) + made.bundle[at + 1 :]
    )
    if kind == 0:
        # Change everything, also parity, as if the changed bundle had been split.
        made.bundle = changed
        made.fill()
        return sent(made, "all", want=want)
    # Change only one part, which then contradicts parity.
    part = at // made.part_bytes + 1
    made.data[part] = changed[(part - 1) * made.part_bytes : part * made.part_bytes]
    made.sums[part] = sums(made.data[part])
    return sent(made, "one")


def p05(rng: random.Random) -> Variant:
    """Parts of other sets mixed in"""
    made = Cut(rng)
    kind = rng.randrange(3)
    if kind == 0:
        other = Cut(rng)
    elif kind == 1:
        other = Cut(rng, Draft(rng, number=8))
    else:
        # The same bundle, split with other sizes.
        other = Cut(rng)
        for name in ("draft", "bundle", "places", "head", "layout", "size"):
            setattr(other, name, getattr(made, name))
        other.part_bytes = CHUNK * (3 if made.part_bytes != 3 * CHUNK else 2)
        other.count = -(-other.size // other.part_bytes)
        other.fill()
    variant = sent(made, ("bundle", "number", "cut")[kind])
    for number in rng.sample(sorted(other.data), rng.randint(1, len(other.data))):
        name = f"parts/{rng.choice('ac')}.{number:03d}"
        variant.files[name] = other.build(number)
    return variant


def p06(rng: random.Random) -> Variant:
    """A false layout: offsets, sizes, names that leave the folder or control a terminal"""
    made = Cut(rng)
    lines = made.layout.splitlines()
    index = rng.randrange(len(lines))
    at, size, name = lines[index].split(b" ")
    kind = rng.randrange(6)
    if kind == 0:
        odd = rng.choice([*(one.encode() for one in OUTSIDE), *ODD, b"", b"x" * 101, b"a b"])
        lines[index] = b" ".join((at, size, odd))
    elif kind == 1:
        wrong = rng.choice([b"-1", b"+5", b"1_0", b"1e3", b"", b"x", b"9" * 5000, b"%d" % 2**63,
                            b"0x1", b"00", b"\xd9\xa1"])  # fmt: skip
        field = rng.choice([(wrong, size), (at, wrong)])
        lines[index] = b" ".join((*field, name))
    elif kind == 2:
        moved = rng.choice(
            [0, int(at) + 512, int(at) + 1, max(int(at) - 512, 0), made.size, 10**12]
        )
        lines[index] = b"%d %b %b" % (moved + (moved == int(at)), size, name)
    elif kind == 3:
        lines.pop(index)
    elif kind == 4:
        lines.insert(
            index,
            rng.choice([lines[index], b"0 0 x", b"%d 1 blobs/sha256/%b" % (made.size, b"0" * 64)]),
        )
    else:
        lines = [b"%d 0 a" % number for number in range(rng.randint(400_000, 900_000))]
    made.layout = b"\n".join(lines) + b"\n"
    # Join reads it only for messages.
    readers = ("parts",) if kind in {2, 3, 4} else ()
    return sent(made, ("name", "number", "moved", "less", "more", "many")[kind], *readers)


def p07(rng: random.Random) -> Variant:
    """The head of another bundle, an unsigned or foreign one, or none"""
    kind = rng.randrange(5)
    draft = Draft(rng)
    if kind == 0:
        draft.release = Key("stranger", rng.randrange(1 << 30))
        draft.root_key = Key("other root")
    elif kind == 1:
        draft.signers[rng.choice(["timestamp", "snapshot", "targets"])] = []
    made = Cut(rng, draft)
    if kind == 2:
        made.head = Cut(rng).head
    elif kind == 3:
        made.head = rng.choice([b"", made.head[:9000], rng.randbytes(9000), bytes(4096)])
    elif kind == 4:
        made.head = flip(rng, made.head)
    return sent(made, ("stranger", "unsigned", "other", "none", "bit")[kind], "parts")


def p08(rng: random.Random) -> Variant:
    """False parity for a lost part"""
    made = Cut(rng)
    lost = rng.randint(1, made.count)
    kind = rng.randrange(3)
    first = made.count + 1
    for part in range(first, len(made.data) + 1):
        if kind == 0:
            # Parity with other factors.
            table = bytes(reedsolo.gf_mul(7, value) for value in range(256))
            made.data[part] = made.data[part].translate(table)
        elif kind == 1:
            made.data[part] = rng.randbytes(len(made.data[part]))
        made.sums[part] = sums(made.data[part])
    if kind == 2:
        made.every = b"".join(hashlib.sha256(rng.randbytes(9)).digest()
                              for _ in range(len(made.every) // 32))  # fmt: skip
    variant = sent(made, ("factors", "noise", "sums")[kind], "join")
    del variant.files[f"parts/b.{lost:03d}"]
    return variant


def p09(rng: random.Random) -> Variant:
    """A truncated part"""
    made = Cut(rng)
    part = some(rng, made)
    variant = sent(made, "cut", one=part)
    name = f"parts/b.{part:03d}"
    data = variant.files[name]
    variant.files[name] = data[
        : rng.choice([rng.randrange(len(data)), rng.randrange(6000), len(data) - 1])
    ]
    if rng.random() < 0.5:
        # The other parts can replace it, if its description is complete.
        variant.readers, variant.fields["path"] = ("join",), "parts"
    return variant


def p10(rng: random.Random) -> Variant:
    """Bytes after a part, or where zeros are required"""
    made = Cut(rng)
    part, kind = some(rng, made), rng.randrange(3)
    variant = sent(made, ("behind", "zeros", "two")[kind], "parts", one=part)
    name = f"parts/b.{part:03d}"
    data = variant.files[name]
    if kind == 0:
        variant.files[name] = data + rng.choice([b"\0", b"x", bytes(4096), rng.randbytes(9)])
    elif kind == 1:
        variant.files[name] = data[:-600] + rng.randbytes(600)
    else:
        variant.files[name] = data + data
    return variant


def p11(rng: random.Random) -> Variant:
    """Claimed sizes that would fill a disk, in sparse files"""
    made = Cut(rng)
    part, kind = some(rng, made), rng.randrange(4)
    huge = rng.choice([2**33 - 512, 2**32, 2**31])
    name = f"parts/b.{part:03d}"
    fields: Json = {}
    if kind == 0:
        # Its header and the set state a huge size of the data.
        def edit(document: Json, _number: int) -> None:
            found = document["set"]
            found["partBytes"] = huge - huge % CHUNK
            found["bundle"]["size"] = found["partBytes"] * found["data"]

        def claim(entries: list[Entry], number: int) -> None:
            if number == part:
                entries[-1].size = b"%011o\0" % (huge - huge % CHUNK)

        made.describe, made.entries = edit, claim
        fields["sizes"] = {name: huge + 20_000}
    elif kind == 1:
        # Give only the last part of a bundle of petabytes.
        last = made.count
        size = 2**45 * (last - 1) + len(made.data[last])
        made.describe = lambda d, _n: (
            d["set"].update(partBytes=2**45),
            d["set"]["bundle"].update(size=size),
        )
        return sent(made, "petabytes", one=last)
    elif kind == 2:
        index = rng.randrange(5)
        made.entries = lambda e, n: (
            setattr(e[index], "size", b"%011o\0" % huge) if n == part else None
        )
        fields["sizes"] = {name: huge + 20_000}
    else:
        fields["sizes"] = {name: 1 << 40}
        return sent(made, "sparse", "parts", one=part, **fields)
    return sent(made, ("set", "", "header")[kind], one=part, **fields)


def p12(rng: random.Random) -> Variant:
    """Wrong members of a part, or members that are not files"""
    made = Cut(rng)
    part, kind = some(rng, made), rng.randrange(5)
    name = rng.choice([*(one.encode() for one in OUTSIDE), *ODD, b"Data", b"data2"])

    def alter(entries: list[Entry], number: int) -> None:
        if number != part:
            return
        index = rng.randrange(len(entries))
        if kind == 0:
            entries[index].name = name
        elif kind == 1:
            entries[index].flag = rng.choice([b"1", b"2", b"3", b"5", b"6", b"L", b"x", b"K", b"g"])
            entries[index].link = rng.choice([b"/etc/passwd", b"../..", b"data"])
        elif kind == 2:
            entries.pop(index)
        elif kind == 3:
            entries.insert(index, entries[index])
        else:
            other = rng.choice([one for one in range(len(entries)) if one != index])
            entries[index], entries[other] = entries[other], entries[index]

    made.entries = alter
    return sent(made, ("name", "link", "less", "twice", "order")[kind], one=part)


def p13(rng: random.Random) -> Variant:
    """Media with parts that are not files, or without parts"""
    made = Cut(rng)
    kind = rng.choice(["fifo", "directory", "/dev/zero", "/dev/urandom", "/proc/self/mem",
                       "/nowhere", "/etc/passwd", "loop", "empty"])  # fmt: skip
    variant = Variant(b"", kind, fields={"path": "parts/b.001", "want": sha(made.bundle)})
    if kind == "empty":
        variant.files = {"parts/b.001": b""}
        variant.readers = ("join",)
    else:
        variant.odd = {"parts/b.001": "b.001" if kind == "loop" else kind}
    return variant


CLASSES = {f"P{number:02d}": globals()[f"p{number:02d}"] for number in range(1, 14)}

CODES = {
    "P01": codes(14, 19, 23), "P02": codes(6, 19, 23), "P03": codes(8, 19, 23), "P04": codes(6, 8),
    "P05": codes(6), "P06": codes(19, 23), "P07": codes(1, 2, 6, 7, 8, 9, 13, 14, 15, 22, 23),
    "P08": codes(6, 19), "P09": codes(8, 9, 19, 22, 23), "P10": codes(8),
    "P11": codes(8, 9, 12, 19, 22, 23), "P12": codes(8, 14, 15, 18, 19, 22, 23),
    "P13": codes(9, 19, 23, 30),
}  # fmt: skip


def valid(rng: random.Random) -> Variant:
    made = Cut(rng)
    assert made.draft.signed("root", made.draft.root_document()) == valid_root()
    return sent(made, "valid")
