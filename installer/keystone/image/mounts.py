"""Mount a file system temporarily, in a folder of its own."""

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
    """Mount `source` inside the block, and yield the mount point.

    kind: of the file system. options: of mount(8); a file needs "loop". Raises CommandError.
    """
    with tempfile.TemporaryDirectory() as name:
        run(["mount", "-t", kind, "-o", options, source, name])
        try:
            yield Path(name)
        finally:
            run(["umount", name])
