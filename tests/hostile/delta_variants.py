"""Hostile deltas, in the classes U01 to U16 (updates); a function per class, as in variants.py."""

from __future__ import annotations

import json
import random
import struct
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from delta_kit import GZIP, HEADER, HEADS, Journey, bits, blob, record, segment, squeeze, wide
from kit import OCI, Draft, Entry, Key, compact, sha
from variants import ODD, OUTSIDE, Variant, codes, flip, nudge

if TYPE_CHECKING:
    from collections.abc import Callable

STORE_ONLY = ("ingest",)
"""Readers of variants that only the store can detect, not `bundle verify` of the delta alone."""
SEGMENT = 2 << 20
SKIPPED = struct.pack("<II", 0x184D2A50, 10) + bytes(10)
"""A skippable frame (RFC 8878, 3.1.2)."""
EMPTY_BITS = (b"", b"\1", b"\xff\xff\0")
FRAMED = ("metadata/timestamp.json", "metadata/snapshot.json", *HEADS[:2])
"""Files that the store lacks: readers skip the frame of a file that the store has."""
NUMBERS = (-1, True, None, "7", 1.5, 2**53, 10**30, [], {})
ROLES = ("timestamp", "snapshot", "targets")


def sent(made: Journey, note: str, *readers: str) -> Variant:
    """The delta, and the site that receives it."""
    data, away = made.build(), made.away()
    return Variant(
        data, note, files=made.site(), odd={path: kind for path, kind in away.items() if kind},
        readers=readers or ("verify", "ingest"), fields={"remembers": bool(made.accepted)},
    )  # fmt: skip


def u01(rng: random.Random) -> Variant:
    """An invalid description, or one of another kind"""
    made = Journey(rng)
    kind = rng.randrange(5)
    bad = rng.choice(NUMBERS)
    if kind == 0:
        at = rng.choice([("from", "number"), ("to", "number"), ("leftOut", "blobs")])
        made.describe.append(lambda d: d[at[0]].update({at[1]: bad}))
    elif kind == 1:
        field = rng.choice(["size", "frame", "digest", "source", "name"])
        values = [
            one for one in (*NUMBERS, "sha256:x", "../x") if one is not None or field != "source"
        ]
        values = [one for one in values if one or field != "source"]
        value = rng.choice(values)
        made.describe.append(lambda d: rng.choice(d["head"]).update({field: value}))
    elif kind == 2:
        made.describe.append(lambda d: d.pop(rng.choice(sorted(d))))
    elif kind == 3:
        wrong = [("kind", "BundleManifest"), ("apiVersion", "keystone/v2"), ("head", 5),
                 ("patches", {"a": 1}), ("to", []), ("from", "x")]  # fmt: skip
        key, value = rng.choice(wrong)
        made.describe.append(lambda d: d.update({key: value}))
    else:
        spoil: list[Callable[[bytes], bytes]] = [
            lambda d: d[:-1] + b',"kind":"BundleDelta"}',
            lambda d: b"\xef\xbb\xbf" + d,
            lambda d: d[:-1] + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            lambda d: d[:-1] + b',"x":NaN}',
            lambda d: d[: len(d) // 2],
            lambda _: b"",
            lambda d: d + d,
            lambda d: d[:-1] + b',"x":' + b"9" * 100_000 + b"}",
            lambda d: d[:-1] + b',"x":"\\ud800"}',
        ]
        made.raw = rng.choice(spoil)
    return sent(made, ("number", "head", "without", "kind", "text")[kind])


def u02(rng: random.Random) -> Variant:
    """A description with duplicates, or with more entries than the limit"""
    made = Journey(rng)
    kind = rng.randrange(6)
    if kind == 0:
        made.describe.append(lambda d: d["head"].append(rng.choice(d["head"])))
    elif kind == 1:
        made.describe.append(lambda d: d["patches"].append(rng.choice(d["patches"])))
    elif kind == 2:
        # One patch for two members.
        made.describe.append(lambda d: d["patches"][0].update(member=d["patches"][1]["member"]))
    elif kind == 3:
        root = {"size": 8_000_000, "digest": f"sha256:{sha(bytes(8_000_000))}", "source": ""}
        frame = squeeze(bytes(8_000_000))
        count = rng.randint(300, 4000)
        more = [{**root, "name": f"metadata/{n}.root.json", "frame": len(frame)}
                for n in range(2, count)]  # fmt: skip
        made.describe.append(lambda d: d["head"].extend(more))
        made.members.append(lambda m: m.__setitem__(2, ("head", m[2][1] + frame * len(more))))
    elif kind == 4:
        one = {"source": f"sha256:{sha(made.old)}", "form": "raw"}
        more = [{**one, "name": f"blobs/sha256/{n:064x}", "member": f"patches/{n:064x}"}
                for n in range(rng.randint(4100, 9000))]  # fmt: skip
        made.describe.append(lambda d: d["patches"].extend(more))
    else:
        made.describe.append(lambda d: d.update(x="x" * rng.randint(2_000_001, 9_000_000)))
    return sent(made, ("file", "patch", "member", "roots", "patches", "bytes")[kind])


def u03(rng: random.Random) -> Variant:
    """Names in the description that leave the folder, or are not allowed there"""
    made = Journey(rng)
    odd = [one.decode("latin-1") for one in ODD]
    name = rng.choice([*OUTSIDE, *odd, "metadata/../../etc/cron.d/x", "metadata/0.root.json",
                       "metadata/root.json", "blobs/sha256/" + "A" * 64, "patches/../x", 5, None,
                       f"blobs/sha512/{sha(b'x')}", "keystone.json.", "x" * 300])  # fmt: skip
    kind = rng.randrange(5)
    if kind == 0:
        made.describe.append(lambda d: d["head"][-1].update(name=name))
    elif kind == 1:
        made.describe.append(lambda d: rng.choice(d["patches"]).update(name=name))
    elif kind == 2:
        made.describe.append(lambda d: rng.choice(d["patches"]).update(member=name))
    elif kind == 3:
        form = rng.choice(["zip", "../raw", "", "RAW", "x" * 5000, None, 5, "gzip\n", "raw\0"])
        made.describe.append(lambda d: rng.choice(d["patches"]).update(form=form))
    else:
        made.describe.append(lambda d: d["to"].update(name=name))
    return sent(made, ("head", "patch", "member", "form", "bundle")[kind])


def u04(rng: random.Random) -> Variant:
    """A delta's signed list with forbidden members, or without required ones"""
    made = Journey(rng)
    kind = rng.randrange(5)

    def change(members: list[tuple[str, bytes]]) -> None:
        if kind == 0:
            name = rng.choice(["index.json", "oci-layout", "x", "patches/x", f"patches/{sha(b'')}"])
            members.insert(rng.randrange(3, len(members)), (name, b"x"))
        elif kind == 1:
            members.pop(2)
        elif kind == 2:
            members[1], members[2] = members[2], members[1]
        elif kind == 3:
            members.pop(rng.choice([one for one in range(3, len(members))
                                    if members[one][0].startswith("patches/")]))  # fmt: skip
        else:
            members.insert(1, members.pop(3))

    made.members.append(change)
    # Only ingest refuses a wrong order: verify finds the description at any position.
    readers = STORE_ONLY if kind in {2, 4} else ()
    return sent(made, ("member", "no head", "order", "no patch", "late")[kind], *readers)


def u05(rng: random.Random) -> Variant:
    """Head frames with false headers, or that exceed their size"""
    made = Journey(rng)
    name = rng.choice(FRAMED)
    plain = b"x" * rng.randint(1, 5000)
    kinds: list[Callable[[bytes], bytes]] = [
        lambda _: squeeze(bytes(rng.randint(9_000_000, 300_000_000))),
        lambda _: wide(plain),
        lambda d: d[:4] + bytes([0, 21 << 3]) + d[6:],
        lambda d: SKIPPED + d,
        lambda d: d + d,
        lambda d: d[: rng.randrange(len(d))],
        lambda d: d + rng.randbytes(9),
        lambda _: b"",
        lambda _: squeeze(plain),
        lambda d: nudge(rng, d),
        lambda d: b"\x28\xb5\x2f\xfd\x03" + d[5:],
        lambda d: struct.pack("<II", 0x184D2A50, 0xFFFFFFFF) + d,
    ]  # fmt: skip
    kind = rng.randrange(len(kinds) + 1)
    if kind < len(kinds):
        made.frames[name] = kinds[kind]
    else:
        made.describe.append(lambda d: d["head"][-1].update(frame=rng.choice([0, 1, 7_999_999])))
    return sent(made, f"{name} {kind}", *STORE_ONLY)


def _other(made: Journey, rng: random.Random, **words: Any) -> Draft:
    """Use another bundle than the described one for the head."""
    draft = Draft(
        random.Random(rng.random()), **{"number": 8, "created": made.full.created, **words}
    )
    draft.items, draft.blobs = list(made.full.items), list(made.full.blobs)
    draft.index = list(made.full.index)
    made.other = draft
    return draft


def u06(rng: random.Random) -> Variant:
    """The head of another bundle than the one in the description"""
    made = Journey(rng)
    kind = rng.randrange(4)
    if kind == 0:
        _other(made, rng).add("file", "evil", "1", b"evil")
        made.other.blobs.pop()  # type: ignore[union-attr] just made
        made.other.blobs.append(made.carried[0])  # type: ignore[union-attr] as above
    elif kind == 1:
        _other(made, rng, number=9)
    elif kind == 2:
        _other(made, rng, created=made.full.created + timedelta(minutes=1))
    else:
        made.describe.append(lambda d: d["to"].update(digest=f"sha256:{sha(rng.randbytes(9))}"))
    return sent(made, ("content", "number", "time", "digest")[kind], *STORE_ONLY)


def u07(rng: random.Random) -> Variant:
    """Untrusted metadata in the head"""
    made = Journey(rng)
    stranger, role, kind = (
        Key("stranger", rng.randrange(1 << 30)),
        rng.choice(ROLES),
        rng.randrange(6),
    )
    draft = made.full
    if kind == 0:
        draft.signers[role] = [(stranger, "")]
    elif kind == 1:
        draft.signers[role] = []
    elif kind == 2:
        draft.root_key, draft.release = Key("other root"), stranger
    elif kind == 3:
        moment = rng.choice(["2026-10-30T00:00:00Z", "1970-01-01T00:00:00Z", "never", 5])
        draft.edit[role] = lambda signed: signed.update(expires=moment)
    elif kind == 4:
        # Change a signed file, before or after the file above names its digest.
        hooks = rng.choice([draft.after, draft.late])
        hooks[role] = lambda data: _signature(rng, data)
    else:
        draft.edit[role] = lambda signed: signed.update(version=rng.choice([7, 9, 0, "8", 2**53]))
    names = ("stranger", "unsigned", "root", "expired", "changed", "version")
    return sent(made, f"{names[kind]} {role}", *STORE_ONLY)


def _signature(rng: random.Random, data: bytes) -> bytes:
    document = json.loads(data)
    one = document["signatures"][0]
    one["sig"] = f"{int(one['sig'], 16) ^ 1 << rng.randrange(500):0128x}"
    return compact(document)


def u08(rng: random.Random) -> Variant:
    """Older than the accepted bundle, the same number again, or a root from before a rotation"""
    made = Journey(rng)
    kind = rng.randrange(4)
    readers: tuple[str, ...] = ()
    if kind == 0:
        made.accepted = {"number": rng.randint(9, 10**9), "digest": f"sha256:{sha(b'newer')}"}
    elif kind == 1:
        # The delta may have the accepted number, but the bundle that it makes may not.
        made.accepted = {"number": 8, "digest": f"sha256:{sha(b'other')}"}
        readers = STORE_ONLY
    elif kind == 2:
        made.accepted = rng.choice(
            [{"number": "x"}, {"created": "yesterday"}, {"digest": None, "number": None}]
        )
    else:
        # The delta has a second root, which withdraws the key; the head lacks that root.
        first = made.outer.signed("root", made.outer.root_document())
        new, second = Key("release", 2), made.outer.root_document()
        second["version"] = 2
        second["keys"][new.id] = new.entry()
        del second["keys"][made.outer.release.id]
        for role in ROLES:
            second["roles"][role]["keyids"] = [new.id]
        made.outer.roots = [first, made.outer.signed("root", second)]
        made.outer.signers = {role: [(new, "")] for role in ROLES}
        if rng.random() < 0.5:
            made.full.roots = list(made.outer.roots)
        readers = STORE_ONLY
    return sent(made, ("older", "same number", "memory", "withdrawn")[kind], *readers)


def u09(rng: random.Random) -> Variant:
    """A delta for another store"""
    made = Journey(rng)
    kind = rng.randrange(3)
    shared = [one for one in made.base.blobs if one in made.full.blobs]
    if kind == 0:
        name = rng.choice(["metadata/targets.json", "metadata/keystone.json", "index.json"])
        made.store[name] = rng.choice([b"", b"{}", rng.randbytes(99)])
    elif kind == 1:
        for data in rng.sample(shared, rng.randint(1, 3)):
            made.odd[sha(data)] = ""
    else:
        made.odd[sha(rng.choice([made.old, made.old_gz]))] = ""
    return sent(made, ("head", "left out", "source")[kind], *STORE_ONLY)


def u10(rng: random.Random) -> Variant:
    """Store blobs that are folders, links, pipes, or have a wrong size"""
    made = Journey(rng)
    shared = [one for one in made.base.blobs if one in made.full.blobs]
    data = rng.choice([*shared, made.old, made.old_gz])
    kind = rng.choice(["directory", "fifo", "/etc/passwd", "/dev/zero", "/nowhere", "..",
                       f"../../../store2/{sha(data)}", "size"])  # fmt: skip
    made.odd[sha(data)] = kind
    extra = {}
    if kind.startswith("../../../store2"):
        extra = {f"store2/{sha(data)}": data}
    variant = sent(made, kind[:20], *STORE_ONLY)
    if kind == "size":
        variant.odd = {}
        other = data + b"x" if data in shared else rng.randbytes(len(data))
        variant.files[f"store/blobs/sha256/{sha(data)}"] = other
    variant.files.update(extra)
    return variant


def _patched(made: Journey, at: int, data: bytes) -> None:
    made.patches[at].data = data


def u11(rng: random.Random) -> Variant:
    """Patches that give too much, too little, or have no end"""
    made = Journey(rng)
    old, new = made.old, made.new
    good = segment(new, old)
    zeros = squeeze(bytes(SEGMENT))
    big = rng.choice([2**64 - 1, 2**63, 2**63 - 1, 2**40, len(old), len(old) + 1])
    frame = squeeze(new, old)
    found = [
        (HEADER.pack(0, 0, len(zeros)) + zeros) * rng.randint(1, 60),
        good + HEADER.pack(0, 0, len(zeros)) + zeros,
        good + (HEADER.pack(0, 0, len(squeeze(b""))) + squeeze(b"")) * rng.randint(1, 400),
        HEADER.pack(big, rng.choice([8, 100, 4 << 20]), len(frame)) + frame,
        HEADER.pack(0, rng.choice([2**32 - 1, (4 << 20) + 1, len(old) + 1]), len(frame)) + frame,
        HEADER.pack(0, len(old), rng.choice([2**32 - 1, (4 << 20) + 1, 0, 1])) + frame,
        HEADER.pack(0, 0, 40) + squeeze(bytes(SEGMENT + 1))[:40],
        good[: rng.randrange(1, len(good))],
        segment(new[:-1], old),
        b"",
        HEADER.pack(0, 0, len(wide(new))) + wide(new),
        HEADER.pack(0, rng.randint(1, 7), len(frame)) + frame,
        HEADER.pack(0, len(old), len(SKIPPED + frame)) + SKIPPED + frame,
        HEADER.pack(0, len(old), 2 * len(frame)) + frame + frame,
        segment(new, rng.randbytes(len(old))),
    ]  # fmt: skip
    kind = rng.randrange(len(found))
    _patched(made, 0, found[kind])
    return sent(made, str(kind), *STORE_ONLY)


def _flood(rng: random.Random, piece: bytes, most: int = 6) -> bytes:
    """Segments that repeat a few records many times in a small patch."""
    data = piece * (SEGMENT // len(piece))
    one = HEADER.pack(0, 0, 0)[:-4]
    frame = squeeze(data)
    return (one + struct.pack("<I", len(frame)) + frame) * rng.randint(1, most)


def u12(rng: random.Random) -> Variant:
    """Unfolded gzip files that loop, grow, or are invalid"""
    made = Journey(rng)
    start = record(b"R", GZIP)
    table = record(b"D", bits(17 + 3 * 19, rng.getrandbits(40)))
    tokens = struct.pack("<BBH", 0, 255, 32768)
    found = [
        _flood(rng, record(b"F", b"")),
        _flood(rng, record(b"B", bits(0, 0))),
        _flood(rng, table),
        _flood(rng, record(b"T", b"\0")),
        _flood(rng, record(b"B", bits(10, 0b11))),
        _flood(rng, record(b"R", b"")),
        segment(start + record(b"F", b"") + record(b"T", b"\0" + tokens * 200_000), b""),
        segment(start + struct.pack("<cI", b"T", rng.choice([2**32 - 1, 1 << 20, 300_000])), b""),
        segment(start + record(rng.choice([b"B", b"D"]), rng.choice(EMPTY_BITS)), b""),
        segment(start + record(bytes([rng.randrange(256)]), rng.randbytes(9)), b""),
        segment(start + record(b"T", b"\1"), b""),
        segment(start + record(b"F", b"") + record(b"T", rng.randbytes(rng.randint(1, 99))), b""),
        segment(start + record(b"B", bits(3, 1)) + record(b"R", b"x"), b""),
        segment(start + record(b"D", bits(17 + 12, rng.getrandbits(29))), b""),
        segment(made.new_records[:-rng.randint(1, 30)], made.old_records),
        segment(nudge(rng, made.new_records), made.old_records),
        segment(start + record(b"B", struct.pack("<H", 3) + b"\xff" * 90_000), b""),
    ]  # fmt: skip
    kind = rng.randrange(len(found) + 1)
    if kind < len(found):
        _patched(made, 1, found[kind])
        return sent(made, str(kind), *STORE_ONLY)
    return _bad_source(rng)


def _bad_source(rng: random.Random) -> Variant:
    """A gzip patch against an old blob that is not gzip, or that is built to be slow."""
    made = Journey(rng)
    crc = bytes(8)
    # Empty blocks of fixed codes: ten bits each, 3 of the header and 7 zeros for the block's end.
    empty = int("0" * 7 + "010", 2)
    many = rng.randint(100_000, 400_000)
    loop = sum(empty << 10 * n for n in range(64)).to_bytes(80, "little") * (many // 64)
    old = rng.choice([
        rng.randbytes(3000), b"", GZIP, GZIP + b"\7" + crc, GZIP + loop + b"\3\0" + crc,
        GZIP[:3] + b"\x1f" + GZIP[4:] + b"\xff\xff" + bytes(9),
        GZIP[:3] + b"\x08" + GZIP[4:] + b"n" * 200_000 + b"\0\3\0" + crc,
        (GZIP + b"\3\0" + crc) * rng.randint(1, 40_000),
        GZIP + b"\x05" + rng.randbytes(200), GZIP + rng.randbytes(5000),
        GZIP + b"\x01\xff\xff\0\0" + b"short",
    ])  # fmt: skip
    made.base.add("file", "slow", "1", old)
    made.patches[1].source = sha(old)
    made.patches[1].data = segment(made.new_records[:-1], b"")
    made.full.replace("file", made.full.blobs[-1])
    return sent(made, "source", *STORE_ONLY)


def u13(rng: random.Random) -> Variant:
    """Patches of the head, of carried members, or of foreign members; foreign members"""
    made = Journey(rng)
    kind = rng.randrange(6)
    if kind == 0:
        name = rng.choice(["keystone.json", "index.json", "oci-layout", "metadata/targets.json"])
        made.describe.append(lambda d: d["patches"][0].update(name=name))
    elif kind == 1:
        made.describe.append(lambda d: d["patches"][0].update(name=blob(rng.randbytes(9))))
    elif kind == 2:
        made.describe.append(lambda d: d["patches"][0].update(name=blob(made.carried[0])))
    elif kind == 3:
        made.carried.append(rng.randbytes(rng.randint(1, 5000)))
    elif kind == 4:
        made.carried.append(made.new)
    else:
        _patched(made, 0, segment(made.new, made.old) + rng.randbytes(len(made.new)))
    names = ("head", "stranger", "carried", "blob", "both", "larger")
    return sent(made, names[kind], *STORE_ONLY)


def u14(rng: random.Random) -> Variant:
    """A forbidden result: a delta of a delta, or other names"""
    made = Journey(rng)
    name = rng.choice(["delta.json", "head", "x", "patches/x", "keystone-install2", "etc/passwd",
                       f"patches/{sha(b'x')}", "store", "state.json", ".lock"])  # fmt: skip
    own = made.full.contents
    made.full.contents = lambda: [*own(), (name, b"x")]  # type: ignore[method-assign] one more
    if rng.random() < 0.5:
        made.accepted = {"number": 8, "digest": f"sha256:{sha(b'other')}"}
    if name != ".lock" and rng.random() < 0.3:
        made.members.append(lambda m: m.append((name, b"x")) if name not in dict(m) else None)
    return sent(made, name[:12], *STORE_ONLY)


def u15(rng: random.Random) -> Variant:
    """A delta with changed, missing or additional bytes"""
    made = Journey(rng)
    kind = rng.randrange(4)
    data = made.build()
    if kind == 0:
        entries: list[Entry] = []

        def change(found: list[Entry]) -> None:
            at = rng.choice([i for i, e in enumerate(found) if not e.name.startswith(b"metadata/")])
            found[at].data = flip(rng, found[at].data)
            entries.extend(found)

        made.entries.append(change)
        data = made.build()
    elif kind == 1:
        data = data[: rng.randrange(len(data))]
    elif kind == 2:
        data += rng.choice([b"\0", b"x", data, bytes(4096), rng.randbytes(600)])
    else:
        made.entries.append(lambda e: e.insert(rng.randrange(8, len(e)), rng.choice(e[4:])))
        data = made.build()
    variant = sent(made, ("bit", "cut", "longer", "twice")[kind])
    variant.data = data
    return variant


def u16(rng: random.Random) -> Variant:
    """A correctly signed result with inconsistent contents"""
    made = Journey(rng)
    full, kind = made.full, rng.randrange(6)
    if kind == 0:
        full.items[-1]["size"] += 1
    elif kind == 1:
        full.items[-1]["digest"] = f"sha256:{sha(b'nowhere')}"
    elif kind == 2:
        full.manifest = {"number": 9}
    elif kind == 3:
        wrong = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json"}
        full.raw["index.json"] = lambda _: compact(rng.choice([
            {}, {**wrong, "manifests": 5}, {**wrong, "manifests": [{"digest": "x"}]},
            {**wrong, "layers": [], "manifests": []}]))  # fmt: skip
    elif kind == 4:
        full.raw["keystone.json"] = lambda d: rng.choice([b"[]", b"", d[:-5], b'{"items":[]}'])
    else:
        full.raw["oci-layout"] = lambda _: b'{"imageLayoutVersion":"9.9.9"}'
    names = ("size", "digest", "number", "index", "contents", "layout")
    return sent(made, names[kind], *STORE_ONLY)


CLASSES = {f"U{number:02d}": globals()[f"u{number:02d}"] for number in range(1, 17)}

CODES = {
    "U01": codes(6, 19, 20, 23), "U02": codes(17, 20), "U03": codes(6, 23),
    "U04": codes(14, 19), "U05": codes(8, 19), "U06": codes(6, 8, 19),
    "U07": codes(1, 2, 6, 7, 23, 28, 29), "U08": codes(2, 3, 28), "U09": codes(31),
    "U10": codes(8, 31), "U11": codes(8, 11), "U12": codes(8, 11), "U13": codes(11, 17, 19, 23),
    "U14": codes(14, 28), "U15": codes(8, 9, 15, 17, 19, 22), "U16": codes(6, 11, 14, 19, 23, 24),
}  # fmt: skip


def valid(rng: random.Random) -> Variant:
    return sent(Journey(rng), "valid")
