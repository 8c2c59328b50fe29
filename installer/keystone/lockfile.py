"""Processes that work on the same thing take turns.

A run that was killed may have left something at work on a host: ssh is gone, what it started is
not. The run after it waits for that, then looks anew at what is there.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from keystone import log
from keystone.files import again

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def only_one(lock: Path, thing: str) -> Iterator[None]:
    """Hold the lock file while the block runs; who comes second waits and says for what.

    The kernel drops the lock with the process that holds it (flock(2)), so a kill leaves none.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    handle = again(lock, os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info(f"waiting for another process that works on {thing}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    except BaseException:
        with suppress(OSError):  # nothing was written to it: why the block failed is the news
            os.close(handle)
        raise
    try:
        os.close(handle)
    except OSError as error:  # close(2) names no file
        error.filename = str(lock)
        raise
