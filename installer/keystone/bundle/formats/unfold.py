"""The forms in which two blobs are compared: unchanged, or with their gzip coding removed.

A patch between two compressed files is as large as the files, because one changed byte changes all
that follow. Most image layers and archives are gzip, so they are compared unfolded (deflate.py).
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
MAX_GZIP = 256 << 20
"""Maximum bytes of a gzip file to unfold: a site needs 0.4 s per MiB to restore it."""
MAX_UNFOLDED = 1 << 30
"""Maximum bytes of an unfolded file on disk; real layers grow to about three times their size."""
KNOWN = frozenset({RAW, GZIP})


def shared(old: IO[bytes], new: IO[bytes]) -> str:
    """The best form to compare two blobs: gzip when both are, else raw."""
    return GZIP if all(_is_gzip(file) for file in (old, new)) else RAW


@contextmanager
def unfolded(form: str, blob: IO[bytes], folder: Path) -> Iterator[IO[bytes]]:
    """Open a blob in the given form. folder: for an unnamed temporary file, if one is needed.

    Raises DamagedBundleError for a form that this version does not know, ValueError for a blob
    that does not have this form.
    """
    size = blob.seek(0, 2)
    blob.seek(0)
    if form == RAW:
        yield blob
    elif form == GZIP:
        if size > MAX_GZIP:
            raise ValueError(f"the gzip file has more than {MAX_GZIP} bytes")
        with tempfile.TemporaryFile(dir=folder) as kept:
            for record in deflate.unfold(blob):
                kept.write(record)
                if kept.tell() > MAX_UNFOLDED:
                    raise ValueError(f"it unfolds to more than {MAX_UNFOLDED} bytes")
            kept.flush()
            yield kept
    else:
        raise unknown(form)


def folded(form: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Restore the blob from its pieces in the given form. Raises ValueError when invalid."""
    if form == RAW:
        return pieces
    if form == GZIP:
        return deflate.fold(pieces)
    raise unknown(form)


def _is_gzip(file: IO[bytes]) -> bool:
    file.seek(0)
    start = file.read(len(deflate.MAGIC))
    return start == deflate.MAGIC and file.seek(0, 2) <= MAX_GZIP


def unknown(form: str) -> DamagedBundleError:
    """The error for a form that this version does not know."""
    return DamagedBundleError(
        f"this version does not know the patch form {form!r:.40}",
        hint="use the keystone-install version that made the delta",
        code="KSB-23",
    )
