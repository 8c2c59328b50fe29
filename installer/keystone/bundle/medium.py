"""The file or block device that a bundle is read from."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, cast

from keystone.errors import DamagedBundleError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HINT = "give the bundle's file or block device, or - for a pipe"


@contextmanager
def open_bundle(path: Path) -> Iterator[tuple[BinaryIO, bool]]:
    """The bytes, and whether they end where the archive does (a device is larger).

    Raises DamagedBundleError (KSB-30) for what is no regular file and no block device: opening a
    FIFO would wait for ever, and reading a terminal too.
    """
    try:
        # Without O_NONBLOCK the open itself waits when the path is a FIFO.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise DamagedBundleError(
            f"{path}: cannot be opened: {error.strerror}", hint=HINT, code="KSB-30"
        ) from error
    with os.fdopen(handle, "rb", buffering=0) as stream:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            raise DamagedBundleError(
                f"{path}: neither a file nor a block device", hint=HINT, code="KSB-30"
            )
        yield cast("BinaryIO", stream), stat.S_ISREG(mode)
