"""A receiver's store of sparse blobs, and locks that differ from it, to make deltas from.

Except for their first bytes, the blobs of the store are holes; changed layers are random bytes, as
compressed layers are. It takes about a tenth of the nominal size on disk.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from typing import TYPE_CHECKING

from workload import CREATED, MIB, OCI

from keystone.bundle import media
from keystone.bundle.model import Digest, Item
from keystone.packager import lock as locks
from keystone.packager import members, pack
from keystone.packager.keys import keys
from keystone.packager.lock import Lock, LockedBlob
from keystone.packager.sources.upstream import Sources
from keystone.packager.supply import Supply

if TYPE_CHECKING:
    from pathlib import Path

IMAGES, LAYERS = 100, 5
LAYER = f"{OCI}.layer.v1.tar"


class Receiver:
    """A lock of 100 images with 5 layers each, `total` bytes in all, and a store with them."""

    def __init__(self, folder: Path, total: int) -> None:
        folder.mkdir()
        self.folder = folder
        self.size = total // (IMAGES * LAYERS)
        self.fingerprint = keys.init(folder / "keys", None, CREATED)
        self.layers = {
            (image, layer): self._blob(b"%d/%d" % (image, layer), real=False)
            for image in range(IMAGES)
            for layer in range(LAYERS)
        }
        self._fill(self.lock(1))

    def change(self, *places: tuple[int, int]) -> None:
        """Replace layers by random bytes. places: (image, layer)."""
        for place in places:
            self.layers[place] = self._blob(b"changed %d/%d" % place, real=True)

    def lock(self, number: int) -> Path:
        """Write a lock of the current layers; return its path."""
        items, blobs = [], dict[str, LockedBlob]()
        for image in range(IMAGES):
            layers = [self.layers[image, layer] for layer in range(LAYERS)]
            described = [{"digest": f"sha256:{digest}", "size": self.size, "mediaType": LAYER}
                         for digest in layers]  # fmt: skip
            document = json.dumps(
                {"schemaVersion": 2, "mediaType": media.MANIFEST, "config": described[0],
                 "layers": described}
            ).encode()  # fmt: skip
            root = hashlib.sha256(document).hexdigest()
            (self.folder / root).write_bytes(document)
            for digest in layers:
                blobs[digest] = LockedBlob(Digest(digest), self.size, f"local:{digest}", LAYER)
            blobs[root] = LockedBlob(Digest(root), len(document), f"local:{root}", media.MANIFEST)
            items.append(
                Item("image", f"registry.example/team/image-{image}", "1", Digest(root),
                     len(document), {"mediaType": media.MANIFEST},
                     tuple(Digest(digest) for digest in dict.fromkeys(layers)))
            )  # fmt: skip
        made = Lock("bench", number, CREATED, 700, ("amd64",), tuple(items), tuple(blobs.values()))
        path = self.folder / f"{number}.lock.json"
        path.write_bytes(locks.dump(made))
        return path

    def _blob(self, start: bytes, *, real: bool) -> str:
        """Write a layer: `start` and a hole, or random bytes (real). Return its digest in hex."""
        part = self.folder / "part"
        seen = hashlib.sha256()
        chance = random.Random(start)
        with part.open("wb") as file:
            for at in range(0, self.size, MIB):
                count = min(self.size - at, MIB)
                data = chance.randbytes(count) if real else bytes(count)
                data = start + data[len(start) :] if at == 0 else data
                seen.update(data)
                if real or at == 0:
                    file.write(data)
            file.truncate(self.size)
        part.rename(self.folder / seen.hexdigest())
        return seen.hexdigest()

    def _fill(self, lock: Path) -> None:
        """Make the store as ingesting the bundle would, without writing all bytes."""
        store, trust = self.folder / "store", self.folder / "trust"
        (store / "blobs/sha256").mkdir(parents=True)
        (store / "metadata").mkdir()
        supply = Supply(self.folder, Sources())
        targets = b""
        for part in pack.plan(locks.load(lock), members.Signing(self.folder / "keys"), supply):
            name = part.name.rpartition("/")[2]
            source = self.folder / name
            if part.name.startswith("blobs/") and source.exists():
                (store / part.name).hardlink_to(source)
                continue
            data = b"".join(part.read())
            is_head = part.name.startswith("metadata/") or name == "keystone.json"
            folder = "" if part.name.startswith("blobs/") else "metadata" if is_head else "."
            (store / (f"{folder}/{name}" if folder else part.name)).write_bytes(data)
            targets = data if name == "targets.json" else targets
        accept(trust, targets)
        shutil.copy(self.folder / "keys/1.root.json", trust / "root.json")


def accept(trust: Path, targets: bytes) -> None:
    """Record that this host accepted the bundle with this targets.json."""
    trust.mkdir()
    accepted = {"number": 1, "created": CREATED.isoformat(),
                "digest": f"sha256:{hashlib.sha256(targets).hexdigest()}"}  # fmt: skip
    (trust / "accepted.json").write_text(json.dumps(accepted))
