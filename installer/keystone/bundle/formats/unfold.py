"""In which form two blobs are compared: as they are, or with their compression taken off.

A patch between compressed files is as large as the files: one changed byte changes all that
follow. Most image layers and archives are gzip, so they are compared unfolded (see deflate.py).
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from keystone.bundle.formats import deflate
from keystone.errors import DamagedBundleError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RAW, GZIP = "raw", "gzip"
MOST_GZIP = 256 << 20
"""Bytes of the largest gzip file that is unfolded: a site spends 0.4 s a MiB on making it again."""
MOST_UNFOLDED = 1 << 30
"""Bytes of what a gzip file may become beside the disk's other uses; honest layers triple."""
KNOWN = frozenset({RAW, GZIP})


def shared(old: IO[bytes], new: IO[bytes]) -> str:
    """The form in which both are best compared."""
    return GZIP if all(_is_gzip(file) for file in (old, new)) else RAW


@contextmanager
def unfolded(form: str, blob: IO[bytes], folder: Path) -> Iterator[IO[bytes]]:
    """A blob in a form, as a file; a nameless one in `folder` if it needs one.

    Raises DamagedBundleError for a form that this version does not know, ValueError for a blob
    that does not have it.
    """
    size = blob.seek(0, 2)
    blob.seek(0)
    if form == RAW:
        yield blob
    elif form == GZIP:
        if size > MOST_GZIP:
            raise ValueError("larger than what is unfolded")
        with tempfile.TemporaryFile(dir=folder) as kept:
            for record in deflate.unfold(blob):
                kept.write(record)
                if kept.tell() > MOST_UNFOLDED:
                    raise ValueError("it becomes more than any honest one")
            kept.flush()
            yield kept
    else:
        raise unknown(form)


def folded(form: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The blob again, from its pieces in that form. Raises ValueError when they are none."""
    if form == RAW:
        return pieces
    if form == GZIP:
        return deflate.fold(pieces)
    raise unknown(form)


def _is_gzip(file: IO[bytes]) -> bool:
    file.seek(0)
    start = file.read(len(deflate.MAGIC))
    return start == deflate.MAGIC and file.seek(0, 2) <= MOST_GZIP


def unknown(form: str) -> DamagedBundleError:
    """What to say of a form that only a newer version has."""
    return DamagedBundleError(
        f"form {form!r:.40} of a patch is not known here",
        hint="use the keystone-install of whoever made the delta",
        code="KSB-23",
    )
