"""Track a download, and check that a response continues it (RFC 9110, sections 13 and 14)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone.errors import SourceError, WrongContentError

if TYPE_CHECKING:
    from collections.abc import Mapping

OK, PARTIAL = 200, 206


class ChangedError(SourceError):
    """The resource changed during its download."""


@dataclass
class Cursor:
    """The position in one download.

    size: total bytes, None until known. known: whether the digest is known and will be verified; if
    so, a download can be resumed on a server without validators. done: bytes received. validator:
    for If-Range. link: the response's Link header (RFC 8288), which gives the next page.
    """

    address: str
    size: int | None = None
    known: bool = True
    done: int = 0
    validator: str = ""
    link: str = ""

    def headers(self) -> dict[str, str]:
        """Return the headers of the next request: a range, if bytes were received already."""
        if not self.done:
            return {}
        value = {"Range": f"bytes={self.done}-"}
        # A weak validator is not allowed in If-Range (RFC 9110, 13.1.5).
        return {**value, "If-Range": self.validator} if self.validator else value

    def accept(self, status: int, headers: Mapping[str, str]) -> int:
        """Check a response; return how many bytes of its body to skip.

        Raises WrongContentError for a wrong length, ChangedError when the resource is not the one
        that the download began with, SourceError for another range than the requested one.
        """
        validator = strong_validator(headers)
        begun = self.done > 0
        if begun and status == PARTIAL and self.known:
            # A 206 response to If-Range is the same resource and need not repeat its Last-Modified
            # (RFC 9110, 15.3.7).
            validator = validator or self.validator
        if begun and (validator != self.validator or not (validator or self.known)):
            raise ChangedError(f"{self.address}: changed during the download")
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
        """Count received bytes. Raises WrongContentError for more than `size`."""
        self.done += count
        if self.size is not None and self.done > self.size:
            raise WrongContentError(f"{self.address}: more bytes than the expected {self.size}")

    @property
    def complete(self) -> bool:
        """Whether all bytes were received; always true while the size is unknown."""
        return self.size is None or self.done == self.size

    def _partial(self, header: str) -> None:
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", header.strip())
        if not match or int(match[1]) != self.done:
            raise SourceError(
                f"{self.address}: requested bytes from {self.done} on, got {header or 'no range'!r}"
            )
        if match[3] != "*":
            self._total(int(match[3]))

    def _total(self, length: int) -> None:
        if self.size is not None and self.size != length:
            raise WrongContentError(
                f"{self.address}: has {length} bytes, expected {self.size}",
                hint="upstream changed, or the mirror is wrong: lock again and review the changes",
            )
        self.size = length


def strong_validator(headers: Mapping[str, str]) -> str:
    """Return the strong ETag, else Last-Modified, else ""."""
    tag = headers.get("ETag", "").strip()
    if tag and not tag.startswith("W/"):
        return tag
    return headers.get("Last-Modified", "").strip()
