"""Lock files: only one process at a time works on the same thing.

A killed run may leave a process on a host: ssh has ended, the program that it started has not.
The next run waits for that process, then observes the host again.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from keystone import log
from keystone.files import open_own

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def only_one(lock: Path, thing: str) -> Iterator[None]:
    """Hold a lock file while the block runs; a second process logs `thing` and waits.

    thing: what the lock protects, for the log. The kernel releases the lock when the process ends
    (flock(2)), also when it is killed.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    handle = open_own(lock, os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info(f"waiting for another process that works on {thing}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    except BaseException:
        with suppress(OSError):  # nothing was written to it: report the error of the block instead
            os.close(handle)
        raise
    try:
        os.close(handle)
    except OSError as error:  # close(2) names no file
        error.filename = str(lock)
        raise
