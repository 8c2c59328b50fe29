"""A store, the next bundle and the delta between them; a test can make any part wrong.

As kit.py, this module does not use the packager's code: it makes frames, patches and unfolded gzip
files as docs/reference/bundle-format.md describes them.
"""

from __future__ import annotations

import json
import random
import struct
import sys
import zlib
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from kit import CREATED, Draft, Entry, Json, compact, pack, sha, valid_root

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable

HEADS = ("metadata/targets.json", "keystone.json", "index.json")
"""Files in a have-list, against which the head's frames are made."""
HEADER = struct.Struct("<QII")
WINDOW = zstd.CompressionParameter.window_log


def squeeze(data: bytes, old: bytes = b"", window: int = 22) -> bytes:
    """One zstd frame with `old` as prefix."""
    options = {WINDOW: window}
    if len(old) < 8:
        return bytes(zstd.compress(data, options=options))
    prefix = zstd.ZstdDict(old, is_raw=True).as_prefix
    return bytes(zstd.compress(data, options=options, zstd_dict=prefix))


def wide(data: bytes) -> bytes:
    """A frame that needs a window of 128 MiB."""
    engine = zstd.ZstdCompressor(options={WINDOW: 27})
    return bytes(engine.compress(data) + engine.flush())


def segment(new: bytes, old: bytes, offset: int = 0) -> bytes:
    """A patch of one segment, or a segment of a patch."""
    frame = squeeze(new, old)
    return HEADER.pack(offset, len(old), len(frame)) + frame


def record(kind: bytes, payload: bytes) -> bytes:
    """A record of an unfolded gzip file."""
    return struct.pack("<cI", kind, len(payload)) + payload


def bits(count: int, value: int) -> bytes:
    return struct.pack("<H", count) + value.to_bytes(-(-count // 8), "little")


GZIP = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"


def stored(content: bytes) -> tuple[bytes, bytes]:
    """A gzip file of stored blocks, and its unfolded form (RFC 1951, 3.2.4)."""
    file, records = GZIP, record(b"R", GZIP)
    for at in range(0, len(content), 60_000):
        piece = content[at : at + 60_000]
        start = bytes([at + 60_000 >= len(content)])
        start += struct.pack("<HH", len(piece), len(piece) ^ 0xFFFF)
        file += start + piece
        records += record(b"B", bits(40, int.from_bytes(start, "little"))) + record(b"R", piece)
    end = struct.pack("<II", zlib.crc32(content), len(content))
    return file + end, records + record(b"B", bits(0, 0)) + record(b"R", end)


def changed(rng: random.Random, data: bytes) -> bytes:
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(found))
        found[at : at + 9] = rng.randbytes(rng.randint(1, 30))
    return bytes(found)


@dataclass
class Patch:
    """A patched member. name: the result; source: digest of the old blob; data: the patch."""

    name: str
    source: str
    form: str
    data: bytes


@dataclass
class Journey:
    """A site's bundle (base), the next one (full), and the delta between them (signed by outer).

    describe: hooks on delta.json. frames: hooks on a frame of the head, by name. members: hooks on
    the delta's contents before signing. entries: hooks on the archive after signing. odd: store
    blobs that are missing or not files, by name. store: other files of the store.
    """

    rng: random.Random
    describe: list[Callable[[Json], Any]] = field(default_factory=list)
    frames: dict[str, Callable[[bytes], bytes]] = field(default_factory=dict)
    members: list[Callable[[list[tuple[str, bytes]]], Any]] = field(default_factory=list)
    entries: list[Callable[[list[Entry]], Any]] = field(default_factory=list)
    odd: dict[str, str] = field(default_factory=dict)
    store: dict[str, bytes] = field(default_factory=dict)
    carried: list[bytes] = field(default_factory=list)
    accepted: Json = field(default_factory=dict)
    raw: Callable[[bytes], bytes] = bytes
    other: Draft | None = None

    def __post_init__(self) -> None:
        rng, seed = self.rng, self.rng.random()
        then = CREATED + timedelta(hours=1)
        self.base = Draft(random.Random(seed))
        self.full = Draft(random.Random(seed), number=8, created=then)
        self.outer = Draft(random.Random(seed), number=8, created=then)
        self.old = rng.randbytes(rng.randint(20_000, 90_000))
        self.new = changed(rng, self.old)
        text = rng.randbytes(rng.randint(20_000, 90_000))
        self.old_gz, self.old_records = stored(text)
        self.new_gz, self.new_records = stored(changed(rng, text))
        news = rng.randbytes(rng.randint(1, 9000))
        self.base.add("file", "data", "1", self.old)
        self.base.add("file", "layer", "1", self.old_gz)
        for name, data in (("data", self.new), ("layer", self.new_gz), ("news", news)):
            self.full.add("file", name, "2", data)
        self.carried = [news]
        self.patches = [
            Patch(blob(self.new), sha(self.old), "raw", segment(self.new, self.old)),
            Patch(blob(self.new_gz), sha(self.old_gz), "gzip",
                  segment(self.new_records, self.old_records)),
        ]  # fmt: skip

    def base_files(self) -> dict[str, bytes]:
        return {entry.name.decode(): entry.data for entry in self.base.entries()}

    def build(self) -> bytes:
        full = {entry.name.decode(): entry.data for entry in self.full.entries()}
        made = {entry.name.decode(): entry.data for entry in (self.other or self.full).entries()}
        base = self.base_files()
        files, frames = [], []
        for name, data in made.items():
            if not name.startswith("metadata/") and name not in {*HEADS, "oci-layout"}:
                continue
            old = base[name] if name in HEADS else b""
            frame = b"" if data == valid_root() else squeeze(data, old)
            frame = self.frames.get(name, bytes)(frame)
            source = f"sha256:{sha(old)}" if old else ""
            files.append({"name": name, "size": len(data), "digest": f"sha256:{sha(data)}",
                          "source": source, "frame": len(frame)})  # fmt: skip
            frames.append(frame)
        new = {sha(blob) for blob in self.full.blobs} - {sha(blob) for blob in self.base.blobs}
        description: Json = {
            "apiVersion": "keystone/v1alpha1", "kind": "BundleDelta",
            "from": {"number": 7, "digest": f"sha256:{sha(self.base_files()[HEADS[0]])}"},
            "to": {"name": "small", "number": 8, "digest": f"sha256:{sha(full[HEADS[0]])}"},
            "head": files,
            "patches": [
                {"name": one.name, "member": f"patches/{sha(one.data)}",
                 "source": f"sha256:{one.source}", "form": one.form} for one in self.patches
            ],
            "leftOut": {"blobs": len(self.full.blobs) - len(new), "bytes": 1},
        }  # fmt: skip
        for hook in self.describe:
            hook(description)
        items = [item for item in self.full.items if item["digest"][7:] in new]
        table = {"apiVersion": "keystone/v1alpha1", "kind": "BundleManifest",
                 "metadata": {"name": "small"}, "number": 8, "items": items}  # fmt: skip
        members = [
            ("keystone.json", json.dumps(table, sort_keys=True).encode()),
            ("delta.json", self.raw(compact(description))),
            ("head", b"".join(frames)),
            *((blob(data), data) for data in self.carried),
            *((f"patches/{sha(one.data)}", one.data) for one in self.patches),
        ]
        for change in self.members:
            change(members)
        self.outer.contents = lambda: members  # type: ignore[method-assign] instead of its own
        entries = self.outer.entries()
        for alter in self.entries:
            alter(entries)
        return pack(entries, self.outer.mtime)

    def site(self) -> dict[str, bytes]:
        """The store and trust folder of the site, by path."""
        base = self.base_files()
        found = {f"store/{name}": data for name, data in base.items() if name != "keystone.json"}
        found["store/metadata/keystone.json"] = base["keystone.json"]
        created = CREATED.isoformat()
        accepted = {"number": 7, "created": created, "seen": created,
                    "digest": f"sha256:{sha(base[HEADS[0]])}", "keys": [self.base.release.public],
                    } | self.accepted  # fmt: skip
        found["trust/accepted.json"] = compact(accepted)
        found["trust/root.json"] = valid_root()
        found.update({f"store/{name}": data for name, data in self.store.items()})
        return {path: data for path, data in found.items() if path not in self.away()}

    def away(self) -> dict[str, str]:
        """The type of path that replaces a file, by path; "" for a missing file."""
        return {f"store/blobs/sha256/{name}": kind for name, kind in self.odd.items()}


def blob(data: bytes) -> str:
    return f"blobs/sha256/{sha(data)}"
