"""Hostile have-lists for `bundle create --have`, in the classes L01 to L07."""

from __future__ import annotations

import json
import random
import struct
import sys
from typing import TYPE_CHECKING, Any

from delta_kit import wide
from kit import Draft, Json, Key, compact, sha
from variants import Variant, codes, flip

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable

OPTION = zstd.CompressionParameter
NUMBERS = (-1, True, None, "7", 2**53, 10**30, [], {}, 2**40, 10**9)


class List:
    """A have-list to change. edit: hook on the statement before signing; late: on the line."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.key = Key("site")
        draft = Draft(rng)
        files = {entry.name.decode(): entry.data for entry in draft.entries()}
        names = sorted(sha(blob) for blob in draft.blobs)
        self.sections = {
            "blobs": "".join(f"{name}\n" for name in names).encode(),
            "index.json": files["index.json"],
            "keystone.json": files["keystone.json"],
            "targets.json": files["metadata/targets.json"],
        }
        self.digest = f"sha256:{sha(files['metadata/targets.json'])}"
        self.sizes: Json = {}
        self.edit: Callable[[Json], Any] = lambda _: None
        self.late: Callable[[bytes], bytes] = bytes
        self.press: Callable[[bytes], bytes] = lambda data: bytes(
            zstd.compress(data, options={OPTION.window_log: 24})
        )
        self.behind: Callable[[bytes], bytes] = bytes

    def build(self) -> bytes:
        content = self.press(b"".join(data for _, data in sorted(self.sections.items())))
        statement: Json = {
            "apiVersion": "keystone/v1alpha1", "kind": "BundleHave",
            "bundle": {"number": 7, "digest": self.digest},
            "sections": {name: len(data) for name, data in self.sections.items()} | self.sizes,
            "content": {"size": len(content), "sha256": sha(content)}, "key": self.key.public,
        }  # fmt: skip
        self.edit(statement)
        try:
            statement["signature"] = self.key.private.sign(compact(statement)).hex()
        except ValueError:
            statement["signature"] = "00" * 64
        return self.late(json.dumps(statement, sort_keys=True).encode() + b"\n") + self.behind(
            content
        )


def sent(made: List, note: str, **fields: Any) -> Variant:
    return Variant(made.build(), note, fields={"key": Key("site").public, **fields})


def l01(rng: random.Random) -> Variant:
    """A first line that is invalid, too long, or missing"""
    made = List(rng)
    kind = rng.randrange(5)
    if kind == 0:
        bad = rng.choice(NUMBERS)
        at = rng.choice([("bundle", "number"), ("content", "size"), ("content", "sha256")])
        if bad in NUMBERS[-2:]:
            at = ("content", "size")
        made.edit = lambda s: s[at[0]].update({at[1]: bad})
    elif kind == 1:
        made.edit = lambda s: s.pop(rng.choice(sorted(set(s) - {"key"})))
    elif kind == 2:
        key, value = rng.choice([("kind", "BundleDelta"), ("apiVersion", "keystone/v2"),
                                 ("bundle", 5), ("sections", []), ("content", "x")])  # fmt: skip
        made.edit = lambda s: s.update({key: value})
    elif kind == 3:
        digest = rng.choice(["sha256:x", "", "md5:" + "0" * 32, f"sha256:{'A' * 64}", 5, "../x"])
        made.edit = lambda s: s["bundle"].update(digest=digest)
    else:
        found: list[Callable[[bytes], bytes]] = [
            lambda d: d[:-2] + b',"kind":"BundleHave"}\n',
            lambda d: b"\xef\xbb\xbf" + d,
            lambda d: d[:-2] + b',"x":' + b"[" * 1500 + b"]" * 1500 + b"}\n",
            lambda d: d[:-2] + b',"x":"' + b"y" * rng.randint(5000, 40_000_000) + b'"}\n',
            lambda d: d[: rng.randrange(len(d))] + b"\n",
            lambda _: b"",
            lambda d: d[:-2] + b',"x":1e400}\n',
            lambda d: b" " * 5000 + d,
            lambda d: rng.randbytes(len(d)),
        ]
        made.late = rng.choice(found)
    return sent(made, ("number", "without", "kind", "digest", "text")[kind])


def l02(rng: random.Random) -> Variant:
    """Not signed, signed by another key, or changed after signing"""
    made = List(rng)
    kind = rng.randrange(5)
    fields: Json = {}
    if kind == 0:
        made.key = Key("stranger", rng.randrange(1 << 30))
    elif kind == 1:
        made.key = Key("stranger", rng.randrange(1 << 30))
        made.edit = lambda s: s.update(key=Key("site").public)
    elif kind == 2:
        wrong = rng.choice(["", "00" * 64, "zz" * 64, "00" * 63, "0" * 20_000, 5, None, []])
        made.late = lambda d: compact({**json.loads(d), "signature": wrong}) + b"\n"
    elif kind == 3:
        made.late = lambda d: compact({**json.loads(d), "bundle": {
            "number": rng.randint(8, 99), "digest": made.digest}}) + b"\n"  # fmt: skip
    else:
        # The operator names text that is not a key.
        wrong = rng.choice(["", "x", "0" * 64, "f" * 64, None])
        made.edit = lambda s: s.update(key=wrong)
        fields = {"key": str(wrong)}
    return sent(made, ("stranger", "borrowed", "signature", "number", "key")[kind], **fields)


def l03(rng: random.Random) -> Variant:
    """Unknown sections, or sections of a wrong size"""
    made = List(rng)
    kind = rng.randrange(4)
    name = rng.choice(sorted(made.sections))
    if kind == 0:
        made.sizes = {name: rng.choice(NUMBERS)}
    elif kind == 1:
        made.sizes = {name: max(len(made.sections[name]) + rng.choice([-65, -1, 1, 65, 10**6]), 0)}
    elif kind == 2:
        made.sizes = {rng.choice(["../x", "root.json", "", "blobs/", "x" * 900]): rng.randint(0, 9)}
    else:
        made.edit = lambda s: s["sections"].pop(rng.choice(["blobs", name]))
    return sent(made, ("number", "size", "name", "without")[kind])


def l04(rng: random.Random) -> Variant:
    """A frame with a false header, or that exceeds its size"""
    made = List(rng)
    bomb = bytes(rng.randint(30_000_000, 200_000_000)) if rng.random() < 0.1 else b""
    found: list[Callable[[bytes], bytes]] = [
        lambda d: bytes(zstd.compress(d + (bomb or bytes(65 * 1000)))),
        wide,
        lambda d: struct.pack("<II", 0x184D2A50, 10) + bytes(10) + bytes(zstd.compress(d)),
        lambda d: bytes(zstd.compress(d[:99])) + bytes(zstd.compress(d[99:])),
        lambda d: bytes(zstd.compress(d)) + bytes(zstd.compress(b"")),
        lambda d: bytes(zstd.compress(d))[:-rng.randint(1, 20)],
        lambda d: bytes(zstd.compress(d)) + rng.randbytes(rng.randint(1, 99)),
        lambda d: b"\x28\xb5\x2f\xfd\x03" + bytes(zstd.compress(d))[5:],
        lambda d: rng.randbytes(len(d)),
        lambda _: b"",
        lambda d: struct.pack("<II", 0x184D2A50, 0xFFFFFFFF) + d,
        lambda d: bytes(zstd.compress(d))[:6] + rng.randbytes(90),
    ]  # fmt: skip
    kind = rng.randrange(len(found) + 2)
    if kind < len(found):
        made.press = found[kind]
    elif kind == len(found):
        # Other content than the signed one.
        made.behind = lambda d: rng.choice([flip(rng, d), d[:-1], d + b"x", b""])
    else:
        # Nine million bytes: above the limit.
        made.press = lambda _: rng.randbytes(9_000_000)
    return sent(made, str(kind))


def l05(rng: random.Random) -> Variant:
    """Digests that are invalid, duplicate, out of order, or too many"""
    made = List(rng)
    lines = made.sections["blobs"].splitlines()
    at = rng.randrange(len(lines))
    kind = rng.randrange(6)
    if kind == 0:
        lines[at] = lines[at].upper()
        if lines[at].isdigit():
            lines[at] = b"A" * 64
    elif kind == 1:
        lines[at] = rng.choice([b" " * 64, b"x" * 64, lines[at][:62] + b"  ", b"../" * 21 + b"x",
                                bytes(64), b"sha256:" + lines[at][:57], b"\xff" * 64])  # fmt: skip
    elif kind == 2:
        lines.insert(at, lines[at])
    elif kind == 3:
        lines.reverse()
    elif kind == 4:
        lines[at] = lines[at][: rng.randrange(64)]
    else:
        lines = [b"%064x" % number for number in range(rng.randint(100_001, 300_000))]
    made.sections["blobs"] = b"".join(line + b"\n" for line in lines)
    return sent(made, ("upper", "none", "twice", "order", "short", "many")[kind])


def l06(rng: random.Random) -> Variant:
    """Head files with invalid content"""
    made = List(rng)
    kind = rng.randrange(4)
    if kind == 0:
        document = json.loads(made.sections["targets.json"])
        entry = rng.choice(list(document["signed"]["targets"].values()))
        wrong: list[tuple[str, Any]] = [("length", one) for one in NUMBERS if one != 10**9]
        wrong += [("hashes", {"sha256": "x"}), ("hashes", {}), ("hashes", {"md5": "0" * 32})]
        field, value = rng.choice(wrong)
        entry[field] = value
        made.sections["targets.json"] = json.dumps(document).encode()
    elif kind == 1:
        document = json.loads(made.sections["keystone.json"])
        field, value = rng.choice([("name", "../x"), ("size", -1), ("digest", "x"), ("labels", 5),
                                   ("kind", "X"), ("blobs", ["x"]), ("extra", 1)])  # fmt: skip
        rng.choice(document["items"])[field] = value
        made.sections["keystone.json"] = compact(document)
    elif kind == 2:
        name = rng.choice(["keystone.json", "targets.json"])
        made.sections[name] = rng.choice([b"{}", b"[]", b"x", b"\xff", b'{"signed":5}',
            b"[" * 100_000, b'{"a":1,"a":2}', b'{"items":[' + b"0," * 500_000 + b"0]}",
        ])  # fmt: skip
    else:
        name = rng.choice(["index.json", "keystone.json", "targets.json"])
        made.sections[name] = bytes(rng.randint(4 << 20, 9 << 20) + 1)
    return sent(made, ("targets", "contents", "text", "huge")[kind])


def l07(rng: random.Random) -> Variant:
    """Media that are not files, or have no end"""
    special = rng.choice(["fifo", "directory", "socket", "/dev/zero", "/dev/null", "/dev/urandom",
        "/proc/self/mem", "/proc/self/environ", "missing", "dangling", "sparse", "empty",
    ])  # fmt: skip
    variant = sent(List(rng), special)
    if special == "sparse":
        name = "have"
        variant.files[name], variant.data = rng.choice([b"", variant.data]), b""
        variant.fields |= {"sizes": {name: 1 << 40}, "path": name}
    elif special == "empty":
        variant.data = b""
    else:
        variant.special = special
    return variant


CLASSES = {f"L{number:02d}": globals()[f"l{number:02d}"] for number in range(1, 8)}

CODES = {
    "L01": codes(2, 7, 23), "L02": codes(2, 7, 23), "L03": codes(23), "L04": codes(23),
    "L05": codes(23), "L06": codes(14, 23), "L07": codes(23, 30),
}  # fmt: skip


def valid(rng: random.Random) -> Variant:
    return sent(List(rng), "valid")
