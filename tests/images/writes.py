"""The recorded writes of a disk, and the disks that a power failure may leave.

Reads the log of QEMU's blklogwrites driver, which is dm-log-writes' (Linux,
Documentation/admin-guide/device-mapper/log-writes.rst; drivers/md/dm-log-writes.c).
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone.run import run

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MAGIC = 0x6A736677736872
SUPER, ENTRY = struct.Struct("<QQQI"), struct.Struct("<QQQQ")
FLUSH, DISCARD = 1, 4


@dataclass(frozen=True)
class Write:
    """A write. offset: on the disk. at: offset of the bytes in the log. A flush has size 0."""

    offset: int
    size: int
    at: int
    flush: bool


@dataclass(frozen=True)
class Log:
    """All writes to a disk, starting with a blank one."""

    file: Path
    writes: tuple[Write, ...]

    def flushed(self, moment: int) -> int:
        """How many of the first `moment` writes are flushed and certainly on the disk."""
        return next((number for number in range(moment, 0, -1) if self.writes[number - 1].flush), 0)

    def apply(self, image: Path, numbers: Iterable[int]) -> None:
        """Apply these writes, in order, to an image."""
        with self.file.open("rb") as log, image.open("r+b") as disk:
            for number in numbers:
                write = self.writes[number]
                log.seek(write.at)
                disk.seek(write.offset)
                disk.write(log.read(write.size))

    def after_power_failure(self, stable: Path, moment: int, seed: int | None) -> Path:
        """The disk after a power failure at this moment. stable: with the writes `flushed` by then.

        seed: for a random selection of the later writes that the disk kept; None for all of them.
        """
        image = stable.with_name(f"cut-{moment}-{seed}.raw")
        run(["cp", "--sparse=always", stable, image])
        later = range(self.flushed(moment), moment)
        chance = random.Random(seed)
        self.apply(image, [n for n in later if seed is None or chance.random() < 0.5])
        return image


def read(file: Path) -> Log:
    """Read a log. Discards are left out, because the content of discarded blocks is undefined."""
    writes = []
    with file.open("rb") as log:
        magic, _version, count, sector = SUPER.unpack(log.read(SUPER.size))
        assert magic == MAGIC
        position = sector
        for _ in range(count):
            log.seek(position)
            where, sectors, flags, _size = ENTRY.unpack(log.read(ENTRY.size))
            position += sector
            if flags & DISCARD:
                continue
            size = sectors * sector
            writes.append(Write(where * sector, size, position, bool(flags & FLUSH)))
            position += size
    return Log(file, tuple(writes))
