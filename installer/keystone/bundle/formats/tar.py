"""The one tar dialect of a bundle: POSIX USTAR, regular files only, data aligned to 4 KiB.

Layout (IEEE 1003.1-2017, pax, "ustar Interchange Format"): a header block of 512 bytes, the data,
zeros up to the next block. Before a member whose data would not start on a multiple of 4096 stands
a member `.padding` that fills the gap exactly; plain tar unpacks all of them to one small file of
zeros. The archive ends with at least two zero blocks, up to the next multiple of 4096.

A header has one legal form: it is parsed, built again, and must be equal byte for byte. So there
is nothing in it that two readers could understand differently.
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
"""Bytes of the largest member: eleven octal digits."""
NAME_BYTES = 100
NAME = re.compile(r"\.padding|(?:[A-Za-z0-9_][A-Za-z0-9._+~-]*/)*[A-Za-z0-9_][A-Za-z0-9._+~-]*")
"""Names that a reader takes: plain relative paths, no segment empty or starting with a dot."""
EXTENDING = b"LKxgXA"
"""Type flags of members that change what the next one is: GNU's long names, pax and Solaris."""


@dataclass(frozen=True, slots=True)
class Member:
    """One regular file. size in bytes; mtime in seconds since 1970; mode 0o644 or 0o755."""

    name: str
    size: int
    mode: int = 0o644
    mtime: int = 0


@dataclass(frozen=True, slots=True)
class Placed:
    """A member, the offset in bytes at which its data starts, and the padding before it."""

    member: Member
    offset: int
    padding: Member | None

    @property
    def prefix(self) -> bytes:
        """What stands between the end of the member before and this one's data."""
        pad = self.padding
        filling = header(pad) + bytes(pad.size) if pad else b""
        return filling + header(self.member)

    @property
    def end(self) -> int:
        """Where the next member may start."""
        return self.offset + padded(self.member.size)


def header(member: Member) -> bytes:
    """The header block. Raises ValueError for what the dialect cannot say."""
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
    """A member from its header block. Raises DamagedBundleError for any other dialect.

    Its code says what is foreign: KSB-18 a header that changes the next one, KSB-15 a link, a
    device or another dialect, KSB-12 a size that is no plain number, KSB-14 a name.
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
    """Which code fits a header that is not ours: what a person should look at first."""
    if block[156:157] in EXTENDING:
        return "KSB-18"
    if block[156:157] != b"0" or not block.startswith(b"ustar\00000", 257):
        return "KSB-15"
    if not re.fullmatch(rb"[0-7]{11}\0", block[124:136]):
        return "KSB-12"
    name = block[:NAME_BYTES].rstrip(b"\0").decode("latin-1")
    return "KSB-15" if NAME.fullmatch(name) and not any(block[345:500]) else "KSB-14"


def padding_before(position: int, mtime: int) -> Member | None:
    """The padding member that must stand at `position` so that the next data is aligned."""
    gap = (ALIGN - BLOCK - position) % ALIGN
    return Member(PADDING, gap - BLOCK, 0o644, mtime) if gap else None


def padded(size: int) -> int:
    """Bytes that data of this size takes, up to the next block."""
    return -(-size // BLOCK) * BLOCK


def end_bytes(position: int) -> int:
    """How many zeros end the archive when its last member ends at `position`."""
    return 2 * BLOCK + -(position + 2 * BLOCK) % ALIGN


def place(members: Iterable[Member]) -> Iterator[Placed]:
    """Where each member's data goes; padding members are not listed."""
    position = 0
    for member in members:
        pad = padding_before(position, member.mtime)
        position += BLOCK + (BLOCK + pad.size if pad else 0)
        placed = Placed(member, position, pad)
        yield placed
        position = placed.end
