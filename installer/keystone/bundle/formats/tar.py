"""The tar dialect of a bundle: POSIX USTAR, regular files only, data aligned to 4 KiB.

Layout (IEEE 1003.1-2017, pax, "ustar Interchange Format"): a header block of 512 bytes, the data,
zeros up to the next block. When a member's data would not start at a multiple of 4096, a member
`.padding` before it fills the gap exactly; plain tar unpacks these to one small file of zeros. The
archive ends with at least two zero blocks, up to the next multiple of 4096.

Each header has exactly one valid encoding: the reader parses it, builds it again and requires equal
bytes. So two readers cannot interpret a header differently.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone.errors import DamagedBundleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BLOCK = 512
ALIGN = 4096
PADDING = ".padding"
MAX_SIZE = 8**11 - 1
"""Maximum bytes of a member: eleven octal digits."""
NAME_BYTES = 100
NAME = re.compile(r"\.padding|(?:[A-Za-z0-9_][A-Za-z0-9._+~-]*/)*[A-Za-z0-9_][A-Za-z0-9._+~-]*")
"""Accepted names: relative paths in which no segment is empty or starts with a dot."""
EXTENDING = b"LKxgXA"
"""Type flags of headers that modify the next member: GNU long names, pax and Solaris."""


@dataclass(frozen=True, slots=True)
class Member:
    """One regular file. size in bytes; mtime in seconds since 1970; mode 0o644 or 0o755."""

    name: str
    size: int
    mode: int = 0o644
    mtime: int = 0


@dataclass(frozen=True, slots=True)
class Placed:
    """A member, the offset of its data in bytes, and the padding member before it."""

    member: Member
    offset: int
    padding: Member | None

    @property
    def prefix(self) -> bytes:
        """The bytes between the end of the previous member and this member's data."""
        pad = self.padding
        filling = header(pad) + bytes(pad.size) if pad else b""
        return filling + header(self.member)

    @property
    def end(self) -> int:
        """The offset in bytes at which the next member may start."""
        return self.offset + padded(self.member.size)


def header(member: Member) -> bytes:
    """Build the header block. Raises ValueError when a value does not fit into the dialect."""
    name = member.name.encode("ascii")
    fits = all(0 <= number <= MAX_SIZE for number in (member.size, member.mtime))
    if not fits or not 0 < len(name) <= NAME_BYTES:
        raise ValueError(f"{member.name}: name or size outside USTAR's range")
    fields = b"".join(
        (
            name.ljust(NAME_BYTES, b"\0"),
            b"%07o\0" % member.mode,
            b"0000000\0" * 2,
            b"%011o\0" % member.size,
            b"%011o\0" % member.mtime,
            b" " * 8,
            b"0".ljust(101, b"\0"),
            b"ustar\00000",
            b"\0" * 64,
            b"0000000\0" * 2,
            b"\0" * 167,
        )
    )
    return fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]


def parse(block: bytes, offset: int) -> Member:
    """Parse a header block. Raises DamagedBundleError for any other dialect.

    Codes: KSB-18 for a header that modifies the next member, KSB-15 for a link, a device or another
    dialect, KSB-12 for an invalid size, KSB-14 for an invalid name.
    """
    try:
        member = Member(
            name=block[:NAME_BYTES].rstrip(b"\0").decode("ascii"),
            size=int(block[124:135], 8),
            mode=int(block[100:107], 8),
            mtime=int(block[136:147], 8),
        )
        legal = header(member) == block and member.mode in {0o644, 0o755}
        legal = legal and NAME.fullmatch(member.name) is not None
    except ValueError:
        legal = False
        member = Member("", 0)
    if not legal:
        raise DamagedBundleError(
            f"at byte {offset}: not a member of a Keystone bundle "
            "(a link, a directory, another tar dialect, or damage)",
            hint="copy the bundle again",
            code=_foreign(block),
        )
    return member


def _foreign(block: bytes) -> str:
    """The error code for an invalid header."""
    if block[156:157] in EXTENDING:
        return "KSB-18"
    if block[156:157] != b"0" or not block.startswith(b"ustar\00000", 257):
        return "KSB-15"
    if not re.fullmatch(rb"[0-7]{11}\0", block[124:136]):
        return "KSB-12"
    name = block[:NAME_BYTES].rstrip(b"\0").decode("latin-1")
    return "KSB-15" if NAME.fullmatch(name) and not any(block[345:500]) else "KSB-14"


def padding_before(position: int, mtime: int) -> Member | None:
    """The padding member that must follow at `position` to align the next data, if any."""
    gap = (ALIGN - BLOCK - position) % ALIGN
    return Member(PADDING, gap - BLOCK, 0o644, mtime) if gap else None


def padded(size: int) -> int:
    """Bytes that data of this size takes in the archive, including zeros up to the next block."""
    return -(-size // BLOCK) * BLOCK


def end_bytes(position: int) -> int:
    """The number of zeros at the end of an archive whose last member ends at `position`."""
    return 2 * BLOCK + -(position + 2 * BLOCK) % ALIGN


def place(members: Iterable[Member]) -> Iterator[Placed]:
    """Compute the position of each member's data. Padding members are not listed separately."""
    position = 0
    for member in members:
        pad = padding_before(position, member.mtime)
        position += BLOCK + (BLOCK + pad.size if pad else 0)
        placed = Placed(member, position, pad)
        yield placed
        position = placed.end
