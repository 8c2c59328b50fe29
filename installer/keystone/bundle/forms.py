"""In which form two blobs are compared: as they are, or with their compression taken off.

A patch between compressed files is as large as the files: one changed byte changes all that
follow. `raw` takes blobs as they are.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from keystone.errors import DamagedBundleError

if TYPE_CHECKING:
    from collections.abc import Iterator

RAW = "raw"


def shared(old: IO[bytes], new: IO[bytes]) -> str:
    """The form in which both are best compared."""
    return RAW


@contextmanager
def unfolded(form: str, blob: IO[bytes]) -> Iterator[IO[bytes]]:
    """A blob in a form, as a file. Raises DamagedBundleError for a form we do not know."""
    if form != RAW:
        raise DamagedBundleError(f"form {form!r} is not known", hint="use a newer keystone-install")
    yield blob


def folded(form: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The blob again, from its pieces in that form."""
    if form != RAW:
        raise DamagedBundleError(f"form {form!r} is not known", hint="use a newer keystone-install")
    return pieces
