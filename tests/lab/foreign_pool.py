"""Write the labels of a foreign pool to a disk, as libblkid detects them (zfs nvlist, XDR).

Run on a machine, by python3: foreign_pool.py DISK. The pool is called "theirs".
"""

import struct
import sys
from pathlib import Path


def text(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value + bytes(-len(value) % 4)


def pair(name: bytes, kind: int, value: bytes) -> bytes:
    body = text(name) + struct.pack(">II", kind, 1) + value
    return struct.pack(">II", len(body) + 8, 64) + body


pairs = [
    pair(b"version", 8, struct.pack(">Q", 5000)),
    pair(b"name", 9, text(b"theirs")),
    pair(b"state", 8, struct.pack(">Q", 1)),
    pair(b"txg", 8, struct.pack(">Q", 4)),
    pair(b"pool_guid", 8, struct.pack(">Q", 77)),
    pair(b"guid", 8, struct.pack(">Q", 78)),
]
label = bytes([1, 1, 0, 0]) + struct.pack(">II", 0, 1) + b"".join(pairs) + bytes(8)
with Path(sys.argv[1]).open("r+b") as disk:
    size = disk.seek(0, 2) // 262144 * 262144
    for start in (0, 262144, size - 524288, size - 262144):
        disk.seek(start + 16384)
        disk.write(label)
        for slot in range(128):
            disk.seek(start + 131072 + slot * 1024)
            disk.write(struct.pack("<QQQ", 0x00BAB10C, 5000, slot + 1))
