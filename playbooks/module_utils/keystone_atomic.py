"""Atomic writes: temporary name, fsync, rename, fsync of the directory.

The temporary name is fixed (`.<name>.keystone-new`), so a killed run leaves at most one such file,
and the next run replaces it. No program reads dot files in conf.d or manifest directories.
"""

import hashlib
import os
import stat

CHUNK = 1 << 20
SEALED = "/run/keystone/sealed/"


def digest(path):
    """Return the SHA-256 of a file, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_of(parts):
    """Return the SHA-256 of an iterable of bytes, hex."""
    hashing = hashlib.sha256()
    for part in parts:
        hashing.update(part)
    return hashing.hexdigest()


def chunks(file):
    """Yield the bytes of an open binary file in chunks of at most CHUNK bytes."""
    while chunk := file.read(CHUNK):
        yield chunk


class Staged:
    """The new content of a file under a temporary name beside it. sha256: of that content."""

    def __init__(self, path, parts):
        self.path = path
        directory, name = os.path.split(path)
        self.temporary = os.path.join(directory, f".{name}.keystone-new")
        self.discard()
        hashing = hashlib.sha256()
        with open(self.temporary, "xb", opener=_private) as file:
            for part in parts:
                hashing.update(part)
                file.write(part)
        self.sha256 = hashing.hexdigest()

    def commit(self, mode, uid, gid):
        """Set owner and mode, sync the content, then rename it to the final name."""
        with open(self.temporary, "rb") as file:
            os.fchown(file.fileno(), uid, gid)
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(self.temporary, self.path)
        sync_directory(os.path.dirname(self.path))

    def discard(self):
        """Delete the new content if it was not committed."""
        if os.path.lexists(self.temporary):
            os.unlink(self.temporary)


def _private(path, flags):
    return os.open(path, flags, 0o600)


def stat_of(path):
    """Return the lstat(2) of a path; None if it does not exist. Links are not followed."""
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def is_file(found):
    """True if that lstat is of a regular file."""
    return stat.S_ISREG(found.st_mode)


def is_sealed(path, found):
    """True if that lstat is of a link to a secret that keystone.pki.seal keeps in memory."""
    linked = stat.S_ISLNK(found.st_mode) and os.readlink(path).startswith(SEALED)
    return linked and os.path.exists(path)


def own(path, mode, uid, gid):
    """Set owner, then mode: a change of owner clears set-user-id bits."""
    os.chown(path, uid, gid)
    os.chmod(path, mode)


def sync_directory(path):
    """Make renames, new names and removals in a directory survive a power failure."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
