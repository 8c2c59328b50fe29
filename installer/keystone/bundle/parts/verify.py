"""Check parts without joining them: find damaged and missing parts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone import log
from keystone.bundle.format import COPY_AGAIN, METADATA
from keystone.bundle.formats import tar
from keystone.bundle.parts.join import names_in
from keystone.bundle.parts.part import CHUNK, Part
from keystone.bundle.read.bundle import read_head
from keystone.bundle.trust import verify as trust
from keystone.errors import DamagedBundleError, UntrustedBundleError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keystone.bundle.format import Target


@dataclass(frozen=True)
class Checked:
    """Result for one part. damaged: affected members with owners; chunks: its damaged chunks.

    `damaged` without `chunks` means that only the end of the part, after its chunks, is damaged.
    """

    file: str
    part: int
    damaged: tuple[str, ...]
    chunks: frozenset[int]


@dataclass(frozen=True)
class Report:
    """Result of `verify`. missing: numbers of parts that were not given.

    joinable: whether the given parts are sufficient for a join.
    """

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
        return any(part.damaged or part.chunks for part in self.parts)


def verify(found: Sequence[Part], pin: trust.Pin) -> Report:
    """Check the bundle's signatures, every chunk, and every blob that is completely in one part.

    found: parts of one bundle. Raises UntrustedBundleError when the signatures are not trusted,
    DamagedBundleError when the layout is not the signed one.
    """
    one = found[0].set
    with found[0].open_head() as archive:
        head = read_head(archive, pin)
    if str(head.verified.digest) != one.digest:
        raise UntrustedBundleError(
            f"{found[0].path}: contains the signed metadata of another bundle",
            hint="split the bundle again",
            code="KSB-06",
        )
    _require_layout(found[0], head.verified)
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


def _require_layout(part: Part, verified: trust.Verified) -> None:
    """Check that the layout has the signed names and sizes, and the offsets of the format.

    Raises DamagedBundleError (KSB-19): with a wrong layout, a changed blob could go unnoticed.
    """
    sizes = {name: target.size for name, target in verified.targets.items()}
    metadata = [tar.Member(METADATA + name, len(data)) for name, data in verified.files.items()]
    members = [tar.Member(name, size) for _, size, name in part.layout]
    places = list(tar.place([*metadata, *members]))
    end = places[-1].end
    if (
        len(members) != len(sizes)
        or {member.name: member.size for member in members} != sizes
        or [place.offset for place in places[len(metadata) :]] != [at for at, _, _ in part.layout]
        or end + tar.end_bytes(end) != part.set.size
    ):
        raise DamagedBundleError(
            f"{part.path}: its layout is not the layout of the signed bundle",
            hint=COPY_AGAIN,
            code="KSB-19",
        )


def _check(part: Part, targets: Mapping[str, Target], bar: log.Bar) -> Checked:
    """Check every chunk of a part, and the blobs that are completely in it."""
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
    hit = ["the end of the part"] if not part.ends() else []
    if broken and part.number > part.set.data:
        hit.append("parity")
    elif broken:
        hit += names_in(part, (part.set.place(part.number, row) for row in broken))
    for offset, size, name in blobs.wrong:
        rows = range((offset - start) // CHUNK, (offset + size - start - 1) // CHUNK + 1)
        if not broken & set(rows):
            # The chunk digest is right, the signed digest is not: someone changed data and digest.
            broken |= set(rows)
            hit.append(f"{name}: its bytes differ from the signed ones")
    return Checked(str(part.path), part.number, tuple(dict.fromkeys(hit)), frozenset(broken))


class _Blobs:
    """Hashes the blobs in a range of the bundle while it is read."""

    def __init__(self, inside: list[tuple[int, int, str]], targets: Mapping[str, Target]) -> None:
        self._left = [entry for entry in inside if entry[1]]
        self._targets = targets
        self._seen = hashlib.sha256()
        self.wrong: list[tuple[int, int, str]] = []

    def feed(self, at: int, data: bytes) -> None:
        """Hash the next bytes of the bundle. at: their offset."""
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
    """Whether each chunk of the bundle is valid or can be restored from parity."""
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
