"""Files that are there whole or not at all: temporary name, fsync, rename, fsync of the directory.

The temporary name is fixed (`.<name>.keystone-new`), so a run killed half-way leaves at most one
such file, and the next run replaces it. Nothing reads dot files in conf.d or manifest directories.
"""

import hashlib
import os
import stat

CHUNK = 1 << 20


def digest(path):
    """SHA-256 of a file's bytes as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_of(pieces):
    """SHA-256 of bytes that come in pieces, as hex."""
    hashing = hashlib.sha256()
    for piece in pieces:
        hashing.update(piece)
    return hashing.hexdigest()


def chunks(file):
    """The bytes of an open binary file in pieces of bounded size."""
    while piece := file.read(CHUNK):
        yield piece


class Staged:
    """New bytes of one file under a temporary name beside it. `sha256` is of what was written."""

    def __init__(self, path, pieces):
        self.path = path
        directory, name = os.path.split(path)
        self.temporary = os.path.join(directory, f".{name}.keystone-new")
        self.discard()
        hashing = hashlib.sha256()
        with open(self.temporary, "xb", opener=_private) as file:
            for piece in pieces:
                hashing.update(piece)
                file.write(piece)
        self.sha256 = hashing.hexdigest()

    def commit(self, mode, uid, gid):
        """Give it owner and mode, put it on disk, and only then let the final name exist."""
        with open(self.temporary, "rb") as file:
            os.fchown(file.fileno(), uid, gid)
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(self.temporary, self.path)
        sync_directory(os.path.dirname(self.path))

    def discard(self):
        """Forget the new bytes, if they were not committed."""
        if os.path.lexists(self.temporary):
            os.unlink(self.temporary)


def _private(path, flags):
    return os.open(path, flags, 0o600)


def look(path):
    """What is at a path, links not followed; None when there is nothing."""
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def is_file(found):
    """Whether that is a regular file."""
    return stat.S_ISREG(found.st_mode)


def own(path, mode, uid, gid):
    """Owner first: changing it clears set-user-id bits."""
    os.chown(path, uid, gid)
    os.chmod(path, mode)


def sync_directory(path):
    """Make a rename, a new name or a removal in a directory survive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
