"""What says on a disk that its system is being written, so that a write that was cut is known.

A partition table is several writes, and a disk may keep a later one and lose an earlier one when
the power goes. What is left then looks like somebody's damaged table, which nobody may wipe; beside
this mark it is ours. It stands between the table and the first partition, where UEFI 2.10, 5.3 has
nothing, and goes when the write is whole: here, or at the system's first start (the script `grow`).
"""

from __future__ import annotations

import os
from pathlib import Path

from keystone.errors import HostError

SIZE = 4096
AT = (1 << 20) - SIZE
"""Bytes from the disk's begin: the last ones before the first partition (disk_layout.py)."""
WORDS = "keystone: being written: "


def of(serial: str) -> bytes:
    """The mark of the disk with this serial number: a copy on another disk says nothing there."""
    return f"{WORDS}{serial}\n".encode().ljust(SIZE, b"\0")


def is_on(disk: str, serial: str) -> bool:
    """Whether a write of ours was begun on it and not ended. Raises HostError."""
    try:
        with Path(disk).open("rb", buffering=0) as file:
            return os.pread(file.fileno(), SIZE, AT) == of(serial)
    except OSError as error:
        raise _unusable(disk, serial, error) from error


def put(disk: str, serial: str) -> None:
    """It is on the disk when this returns. Raises HostError."""
    try:
        with Path(disk).open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), of(serial), AT)
            os.fsync(file.fileno())
    except OSError as error:
        raise _unusable(disk, serial, error) from error


def clear(disk: int) -> None:
    """The write is whole. disk: open for writing. Raises OSError."""
    os.pwrite(disk, bytes(SIZE), AT)
    os.fsync(disk)


def _unusable(disk: str, serial: str, error: OSError) -> HostError:
    return HostError(f"disk {serial} ({disk}): {error.strerror}", hint="use another disk")
