"""Read the modules that a Go program was built from, from its build information.

The linker puts a record into the data segment (cmd/link, debug/buildinfo): the magic bytes, at a
multiple of 16; a byte with the pointer size; flags. Since Go 1.18 (flag 2) the version and the
modules follow at offset 32 as strings, each after its length as a varint.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from keystone.packager.sbom.model import Package

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAGIC = b"\xff Go buildinf:"
ALIGN = 16
HEAD = 32
INLINE = 2
SENTINEL = 16
"""Bytes of the marker before and after the list of modules."""
MAX_RECORD = 1 << 20
MAX_MODULES = 20_000
MODULE = re.compile(r"\w[\w.~!/+-]{0,299}")


def packages(pieces: Iterable[bytes | memoryview]) -> list[Package]:
    """Return the modules of a Go program; empty for any other file. Reads all pieces."""
    source = iter(pieces)
    for record in _records(source):
        found = _parse(record)
        if found:
            for _ in source:
                pass
            return found
    return []


def _records(source: Iterator[bytes | memoryview]) -> Iterator[bytes]:
    """Yield possible records: MAX_RECORD bytes from each MAGIC at a multiple of ALIGN."""
    window, start = bytearray(), 0
    for piece in source:
        window += piece
        at = window.find(MAGIC)
        while at >= 0:
            if (start + at) % ALIGN == 0:
                while len(window) - at < MAX_RECORD and (more := next(source, None)) is not None:
                    window += more
                yield bytes(window[at : at + MAX_RECORD])
            at = window.find(MAGIC, at + 1)
        gone = max(0, len(window) - len(MAGIC))
        del window[:gone]
        start += gone


def _parse(record: bytes) -> list[Package]:
    if len(record) < HEAD or not record[15] & INLINE:
        return []
    version, end = _string(record, HEAD)
    modules, _ = _string(record, end)
    if not version.startswith(b"go"):
        return []
    toolchain = version.decode(errors="replace").split(" ")[0].removeprefix("go")
    found = [Package("golang", "stdlib", toolchain)]
    text = modules[SENTINEL:-SENTINEL].decode(errors="replace")
    for line in text.split("\n")[:MAX_MODULES]:
        kind, path, module_version, *_ = [*line.split("\t"), "", "", ""]
        module = _module(path, module_version) if kind in {"mod", "dep", "=>"} else None
        if kind == "=>" and module and len(found) > 1:
            # It replaces the module of the line before; a local folder does not change its name.
            found.pop()
        if module:
            found.append(module)
    return found


def _module(path: str, version: str) -> Package | None:
    if not MODULE.fullmatch(path):
        return None
    namespace, _, name = path.rpartition("/")
    return Package("golang", name, "" if version == "(devel)" else version, namespace)


def _string(data: bytes, at: int) -> tuple[bytes, int]:
    """Read a string after its length (unsigned varint, LEB128); return it and its end offset."""
    length = shift = 0
    while at < len(data) and shift < 35:  # noqa: PLR2004 five bytes suffice for any length
        length |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if not data[at - 1] & 0x80:
            break
    return data[at : at + length], at + length
