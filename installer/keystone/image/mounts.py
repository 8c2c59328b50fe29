"""File systems that are looked at for a moment, in a folder of their own."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from keystone.run import run

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def mounted(source: Path, kind: str, options: str) -> Iterator[Path]:
    """Where it is mounted; a file needs the option "loop" (mount(8)).

    Raises CommandError when it cannot be.
    """
    with tempfile.TemporaryDirectory() as name:
        run(["mount", "-t", kind, "-o", options, source, name])
        try:
            yield Path(name)
        finally:
            run(["umount", name])
