"""Files that are whole or not there: what a power cut may not leave half-written."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def half_made(temporary: Path, final: Path, *, goes_on: bool = False) -> Iterator[None]:
    """Have no litter left: the temporary file is removed when the block fails.

    An OSError says then that it was about `final`: write(2) and fsync(2) name no file. goes_on:
    the next run uses what is there; it is removed only where it can never become whole (EFBIG).
    """
    try:
        yield
    except BaseException as error:
        too_large = isinstance(error, OSError) and error.errno == errno.EFBIG
        if isinstance(error, OSError) and error.filename in (None, temporary, str(temporary)):
            error.filename = str(final)
        if too_large or not goes_on:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        raise


def write_whole(file: Path, content: bytes, mode: int) -> None:
    """Write a file whole or not at all: temporary file, fsync, rename, fsync of the folder.

    Makes the folder (0700) when it is not there. mode: of the file, whatever the umask.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with half_made(temporary, file), os.fdopen(descriptor, "wb") as stream:
        os.fchmod(stream.fileno(), mode)
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    with half_made(temporary, file):
        temporary.rename(file)
    _sync_folder(file.parent)


def write_new(file: Path, content: bytes, mode: int) -> None:
    """As write_whole, but never over a file that is there: raises FileExistsError."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    write_whole(temporary, content, mode)
    try:
        file.hardlink_to(temporary)
    except PermissionError:  # FAT has no links: the empty file is the claim, then it is replaced
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
        temporary.rename(file)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(file.parent)


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
