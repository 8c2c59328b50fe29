"""A real file system (FUSE) that fails chosen operations, as full and failing media do.

Run as: failing_medium.py BACKING MOUNTPOINT FAULT. MOUNTPOINT shows the folder BACKING. The file
FAULT has an operation and its errno(3), as in "write 28", and optionally the number of bytes of a
file that succeed first, as in "write 27 1000000".
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import mfusepy

BACKING, MOUNTPOINT, FAULT = map(Path, sys.argv[1:4])


class Medium(mfusepy.Operations):
    use_ns = True

    def refuse(self, operation: str, reached: int = 0) -> None:
        words = FAULT.read_text().split()
        if words[:1] == [operation] and reached >= int((*words, 0)[2]):
            raise OSError(int(words[1]), os.strerror(int(words[1])))

    def at(self, path: str) -> Path:
        return BACKING / path.lstrip("/")

    def getattr(self, path: str, fh: int | None = None) -> dict[str, object]:
        try:
            found = self.at(path).lstat()
        except OSError as error:
            raise mfusepy.FuseOSError(error.errno or errno.EIO) from error
        names = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_mtime_ns", "st_blocks")
        return {name.removesuffix("_ns"): getattr(found, name) for name in names}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *(entry.name for entry in self.at(path).iterdir())]

    def statfs(self, path: str) -> dict[str, int]:
        return {"f_bsize": 4096, "f_frsize": 4096, "f_blocks": 1 << 20, "f_bfree": 1 << 19,
                "f_bavail": 1 << 19, "f_namemax": 255}  # fmt: skip

    def open(self, path: str, flags: int) -> int:
        return os.open(self.at(path), flags & ~os.O_APPEND)

    def create(self, path: str, mode: int, fi: object = None) -> int:
        self.refuse("create")
        return os.open(self.at(path), os.O_RDWR | os.O_CREAT, mode)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self.refuse("write", offset + len(data))
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        os.truncate(self.at(path), length)

    def flush(self, path: str, fh: int) -> None:
        self.refuse("close")

    def release(self, path: str, fh: int) -> None:
        os.close(fh)

    def fsync(self, path: str, datasync: int, fh: int) -> None:
        self.refuse("fsync")

    def rename(self, old: str, new: str) -> None:
        self.refuse("rename")
        self.at(old).rename(self.at(new))

    def link(self, target: str, source: str) -> None:
        self.refuse("link")
        self.at(target).hardlink_to(self.at(source))

    def unlink(self, path: str) -> None:
        self.at(path).unlink()

    def mkdir(self, path: str, mode: int) -> None:
        self.refuse("mkdir")
        self.at(path).mkdir(mode)

    def rmdir(self, path: str) -> None:
        self.at(path).rmdir()

    def chmod(self, path: str, mode: int) -> None:
        self.at(path).chmod(mode)

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
        os.utime(self.at(path), ns=times)


mfusepy.FUSE(
    Medium(), str(MOUNTPOINT), foreground=True, nothreads=True, direct_io=True,
    attr_timeout=0, entry_timeout=0, negative_timeout=0,
)  # fmt: skip
