"""How far a download is, and whether an answer goes on there (RFC 9110, sections 13 and 14)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone.errors import SourceError, WrongContentError

if TYPE_CHECKING:
    from collections.abc import Mapping

OK, PARTIAL = 200, 206


class ChangedError(SourceError):
    """The thing became another one while it was read."""


@dataclass
class Cursor:
    """A place inside one download.

    size: total bytes, None until somebody tells. known: the digest will judge the whole, so a
    server without validators may be believed to give the same thing again. done: bytes taken.
    """

    address: str
    size: int | None = None
    known: bool = True
    done: int = 0
    validator: str = ""
    link: str = ""
    """The answer's Link header: where the next page is (RFC 8288)."""

    def headers(self) -> dict[str, str]:
        """What to ask with."""
        if not self.done:
            return {}
        value = {"Range": f"bytes={self.done}-"}
        # If-Range takes no weak validator (RFC 9110, 13.1.5).
        return {**value, "If-Range": self.validator} if self.validator else value

    def accept(self, status: int, headers: Mapping[str, str]) -> int:
        """How many bytes of this answer's body to skip.

        Raises WrongContentError for a length that cannot be right, ChangedError when it is
        another thing than the one that was begun, SourceError for a range nobody asked for.
        """
        validator = strong_validator(headers)
        begun = self.done > 0
        if begun and status == PARTIAL and self.known:
            # What answers to If-Range is the same thing, and need not repeat its date (RFC 9110,
            # 15.3.7).
            validator = validator or self.validator
        if begun and (validator != self.validator or not (validator or self.known)):
            raise ChangedError(f"{self.address}: changed while it was read")
        self.validator = validator
        self.link = headers.get("Link", "")
        if status == PARTIAL:
            self._partial(headers.get("Content-Range", ""))
            return 0
        length = headers.get("Content-Length", "")
        if length.isdigit():
            self._total(int(length))
        return self.done

    def take(self, count: int) -> None:
        """Count bytes. Raises WrongContentError when there are too many."""
        self.done += count
        if self.size is not None and self.done > self.size:
            raise WrongContentError(
                f"{self.address}: more than the {self.size} bytes that it should have"
            )

    @property
    def whole(self) -> bool:
        """Whether nothing is missing, as far as one can know."""
        return self.size is None or self.done == self.size

    def _partial(self, header: str) -> None:
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", header.strip())
        if not match or int(match[1]) != self.done:
            raise SourceError(
                f"{self.address}: asked for bytes from {self.done} on, got {header or 'no range'!r}"
            )
        if match[3] != "*":
            self._total(int(match[3]))

    def _total(self, length: int) -> None:
        if self.size is not None and self.size != length:
            raise WrongContentError(
                f"{self.address}: has {length} bytes and should have {self.size}",
                hint="upstream changed, or the mirror is wrong: lock again, look at what changed",
            )
        self.size = length


def strong_validator(headers: Mapping[str, str]) -> str:
    """The strong ETag, else Last-Modified, else ""."""
    tag = headers.get("ETag", "").strip()
    if tag and not tag.startswith("W/"):
        return tag
    return headers.get("Last-Modified", "").strip()
