"""Look at parts without joining them: which are whole, what is damaged, what is missing."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone import log
from keystone.bundle import trust
from keystone.bundle.opened import read_head
from keystone.bundle.parts import CHUNK, Part
from keystone.bundle.parts_join import names_in
from keystone.bundle.reader import TarStream
from keystone.errors import UntrustedBundleError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keystone.bundle.reader import Target


@dataclass(frozen=True)
class Checked:
    """One part. damaged: members of the bundle that are hit, with their owners."""

    file: str
    part: int
    damaged: tuple[str, ...]
    chunks: frozenset[int]


@dataclass(frozen=True)
class Report:
    """What `verify` found. missing: parts that were not given; joinable: with what is here."""

    bundle: str
    number: int
    fingerprint: str
    data: int
    parity: int
    parts: tuple[Checked, ...]
    missing: tuple[int, ...]
    joinable: bool

    @property
    def damaged(self) -> bool:
        """Whether any given part is damaged."""
        return any(part.chunks for part in self.parts)


def verify(found: Sequence[Part], pin: trust.Pin) -> Report:
    """Check who signed the bundle, every chunk, and every blob that lies whole inside a part.

    Raises UntrustedBundleError when the bundle's signature is not to be believed.
    """
    one = found[0].set
    head = read_head(TarStream(io.BytesIO(found[0].head)), pin)
    if str(head.verified.digest) != one.digest:
        raise UntrustedBundleError(
            f"{found[0].path}: carries the signed metadata of another bundle",
            hint="split the bundle again",
            code="KSB-06",
        )
    work = sum(one.length(part.number) for part in found)
    with log.progress("verify the parts", work) as bar:
        checked = tuple(_check(part, head.verified.targets, bar) for part in found)
    given = {part.part for part in checked}
    return Report(
        bundle=one.digest,
        number=head.verified.number,
        fingerprint=head.verified.fingerprint,
        data=one.data,
        parity=one.parity,
        parts=checked,
        missing=tuple(n for n in range(1, one.total + 1) if n not in given),
        joinable=_joinable(found, checked),
    )


def as_json(report: Report) -> dict[str, object]:
    """For --json."""
    return {
        "bundle": report.bundle,
        "number": report.number,
        "fingerprint": report.fingerprint,
        "data": report.data,
        "parity": report.parity,
        "missing": report.missing,
        "joinable": report.joinable,
        "parts": [
            {"file": part.file, "part": part.part, "damaged": part.damaged} for part in report.parts
        ],
    }


def _check(part: Part, targets: Mapping[str, Target], bar: log.Bar) -> Checked:
    """Every chunk of a part, and the blobs inside it as far as they are whole in it."""
    start = (part.number - 1) * part.set.part_bytes
    end = start + part.set.length(part.number)
    inside = [
        (offset, size, name)
        for offset, size, name in (part.layout if part.number <= part.set.data else ())
        if start <= offset and offset + size <= end and name in targets
    ]
    blobs = _Blobs(inside, targets)
    broken = set()
    for row in range(part.set.rows(part.number)):
        data = part.read(row)
        size = part.set.chunk_length(part.number, row)
        if data is None:
            broken.add(row)
        blobs.feed(start + row * CHUNK, bytes(size) if data is None else data)
        bar.advance(size)
    hit = names_in(part, [(part.number, row) for row in sorted(broken)])
    if part.number > part.set.data:
        hit = ["parity" for _ in hit]
    for offset, size, name in blobs.wrong:
        rows = range((offset - start) // CHUNK, (offset + size - start - 1) // CHUNK + 1)
        if not broken & set(rows):
            # The chunk says it is whole, the signed list says otherwise: someone changed both.
            broken |= set(rows)
            hit.append(f"{name}: its bytes are not the ones that were signed")
    return Checked(str(part.path), part.number, tuple(dict.fromkeys(hit)), frozenset(broken))


class _Blobs:
    """Hash the blobs in a stretch of the bundle as it passes."""

    def __init__(self, inside: list[tuple[int, int, str]], targets: Mapping[str, Target]) -> None:
        self._left = [entry for entry in inside if entry[1]]
        self._targets = targets
        self._seen = hashlib.sha256()
        self.wrong: list[tuple[int, int, str]] = []

    def feed(self, at: int, data: bytes) -> None:
        """The next bytes of the bundle, which stand at offset `at`."""
        while self._left:
            offset, size, name = self._left[0]
            if offset >= at + len(data):
                return
            self._seen.update(data[max(offset - at, 0) : max(offset + size - at, 0)])
            if offset + size > at + len(data):
                return
            if self._seen.hexdigest() != self._targets[name].digest.hex:
                self.wrong.append(self._left[0])
            self._left.pop(0)
            self._seen = hashlib.sha256()


def _joinable(found: Sequence[Part], checked: Sequence[Checked]) -> bool:
    """Whether each chunk of the bundle is there or can be had from parity."""
    one = found[0].set
    good: dict[int, list[frozenset[int]]] = {}
    for part in checked:
        good.setdefault(part.part, []).append(part.chunks)
    for row in range(one.rows(1)):
        lost = [
            number
            for number in range(1, one.data + 1)
            if one.chunk_length(number, row)
            and all(row in broken for broken in good.get(number, ()))
        ]
        spare = [
            number
            for number in range(one.data + 1, one.total + 1)
            if any(row not in broken for broken in good.get(number, ()))
        ]
        if len(lost) > len(spare):
            return False
    return True
