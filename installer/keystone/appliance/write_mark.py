"""The write mark: a marker on a disk while its system is written, to recognize interrupted writes.

A partition table is several writes, and a disk may keep a later one and lose an earlier one when
the power fails. The result looks like somebody else's damaged table, which must not be erased;
together with this mark it is ours. The mark lies between the table and the first partition, a space
that UEFI 2.10, 5.3 leaves unused. It is removed when the write is complete, by `clear` or at the
system's first start (the script `grow`).
"""

from __future__ import annotations

import os
from pathlib import Path

from keystone.errors import HostError

SIZE = 4096
AT = (1 << 20) - SIZE
"""Offset in bytes: the last SIZE bytes before the first partition (disk_layout.py)."""
WORDS = "keystone: being written: "


def of(serial: str) -> bytes:
    """The mark for the disk with this serial number: a copy of it on another disk is not valid."""
    return f"{WORDS}{serial}\n".encode().ljust(SIZE, b"\0")


def is_on(disk: str, serial: str) -> bool:
    """Whether the disk has its mark: a write of ours is incomplete. Raises HostError."""
    try:
        with Path(disk).open("rb", buffering=0) as file:
            return os.pread(file.fileno(), SIZE, AT) == of(serial)
    except OSError as error:
        raise _unusable(disk, serial, error) from error


def put(disk: str, serial: str) -> None:
    """Write the mark and sync it to the disk. Raises HostError."""
    try:
        with Path(disk).open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), of(serial), AT)
            os.fsync(file.fileno())
    except OSError as error:
        raise _unusable(disk, serial, error) from error


def clear(disk: int) -> None:
    """Remove the mark: the write is complete. disk: a descriptor for writing. Raises OSError."""
    os.pwrite(disk, bytes(SIZE), AT)
    os.fsync(disk)


def _unusable(disk: str, serial: str, error: OSError) -> HostError:
    return HostError(f"disk {serial} ({disk}): {error.strerror}", hint="use another disk")
