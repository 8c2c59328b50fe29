"""Read ar archives as dpkg-deb writes them (deb(5)): short names, sizes, even offsets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone.bundle.formats.pieces import CutError, UnreadableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystone.bundle.formats.pieces import Reader

MAGIC = b"!<arch>\n"
HEADER = 60


@dataclass(frozen=True)
class Member:
    """One member. offset: of its data, in bytes; data: to be read before the next member."""

    name: str
    offset: int
    size: int
    data: Iterator[memoryview]


def members(source: Reader) -> Iterator[Member]:
    """Yield members in order; skip data that is not read. Raises UnreadableError."""
    if source.peek(len(MAGIC)) != MAGIC:
        raise UnreadableError("not an ar archive")
    source.pass_by(len(MAGIC))
    while header := source.peek(HEADER):
        size = header[48:58].rstrip(b" ")
        if len(header) != HEADER or header[58:] != b"`\n" or not size.isdigit():
            raise UnreadableError(f"no ar header at byte {source.position}")
        source.pass_by(HEADER)
        name = _name(header)
        start, end = source.position, source.position + int(size) + int(size) % 2
        yield Member(name, start, int(size), source.blocks(int(size)))
        try:
            source.pass_by(end - source.position)
        except CutError:
            raise UnreadableError(f"{name}: extends beyond the end of the package") from None


def _name(header: bytes) -> str:
    try:
        return header[:16].rstrip(b" ").removesuffix(b"/").decode("ascii")
    except UnicodeDecodeError as error:
        raise UnreadableError(str(error)) from error
