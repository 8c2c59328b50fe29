"""The system of an image: one read-only squashfs, followed by its dm-verity hash tree.

Its root hash identifies it: the slot on a disk has it as PARTUUID, the file on a medium as its
name. The signed kernel command line contains it, so no other bytes can be started. See squashfs
(kernel documentation), veritysetup(8), and the UAPI Group's Discoverable Partitions Specification.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING
from uuid import NAMESPACE_URL, UUID, uuid5

from keystone.errors import KeystoneError
from keystone.image import steps
from keystone.sandbox import Inside, Tree

if TYPE_CHECKING:
    from pathlib import Path

    from keystone.image.rootfs import Materials

VERSION = 1
LEVEL = 3
"""Level of zstd. Measured: 6 s, 253 MiB; level 6: 12 s, 246 MiB; level 9: 18 s, 244 MiB."""
BLOCK = 4096


@dataclass(frozen=True)
class System:
    """file: squashfs, padding, hash tree. tree: its offset in bytes. digest: root hash, hex."""

    file: Path
    tree: int
    digest: str

    @property
    def partition(self) -> UUID:
        """The PARTUUID of its slot: the first half of the root hash."""
        return UUID(self.digest[:32])

    def options(self) -> tuple[str, ...]:
        """The kernel options that name this system."""
        return (f"keystone.root={self.digest}", f"keystone.tree={self.tree}")


def system(materials: Materials, tree: Tree, tools: Tree) -> System:
    """Pack a tree. The bytes depend on tree, tools and the date of the lock only."""
    name = steps.key("root", VERSION, LEVEL, tree.stack(), tools.stack(), materials.epoch)

    def make(half: Path) -> None:
        inside = Inside(tools, None, {"tree": tree, "out": half}, materials.env)
        inside.run([
            "mksquashfs", "/mnt/tree", "/mnt/out/root", "-noappend", "-quiet", "-no-progress",
            "-comp", "zstd", "-Xcompression-level", str(LEVEL), "-b", "128K", "-xattrs",
            "-no-exports",
        ])  # fmt: skip
        file = half / "root"
        start = -(-file.stat().st_size // BLOCK) * BLOCK
        with file.open("r+b") as squashfs:
            squashfs.truncate(start)
        salt = sha256(name.encode()).hexdigest()
        output = inside.run([
            "veritysetup", "format", f"--hash-offset={start}", f"--salt={salt}",
            f"--uuid={uuid5(NAMESPACE_URL, name)}", "/mnt/out/root", "/mnt/out/root",
        ]).stdout  # fmt: skip
        found = [line.split(":")[1].strip() for line in output.splitlines() if "Root hash" in line]
        if len(found) != 1:
            raise KeystoneError(f"veritysetup printed no root hash:\n{output}")
        (half / "facts.json").write_text(json.dumps({"tree": start, "digest": found[0]}))

    folder = steps.step(name, "squashfs and its hash tree", make)
    facts = json.loads((folder / "facts.json").read_text())
    return System(folder / "root", facts["tree"], facts["digest"])
