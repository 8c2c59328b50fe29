"""Find the parts of one bundle on media that may contain other files too."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from keystone import log
from keystone.bundle.parts import part as parts
from keystone.errors import DamagedBundleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from keystone.bundle.parts.part import Part, Set


def gather(paths: Iterable[Path], *, strict: bool = False) -> list[Part]:
    """Open all parts of one bundle. paths: files of parts, or folders that contain parts.

    Skips other files, and parts with a damaged description, with a warning. strict: raises for a
    part with a damaged description, and for another file that has the name of a part.
    Raises DamagedBundleError: also KSB-19 when there is no part, KSB-06 for parts of different
    bundles.
    """
    found: list[Part] = []
    refused: dict[Path, DamagedBundleError] = {}
    shared: dict[str, bytes] = {}
    for file in _files(paths, refused):
        try:
            found.append(parts.open_part(file, shared))
        except DamagedBundleError as error:
            if strict and parts.is_part(file):
                raise
            refused[file] = error
    numbered = {part.path.stem for part in found}
    for file, why in refused.items():
        named = file.stem in numbered and _is_number(file)
        if (strict and (named or not found)) or (file.is_dir() and not found):
            raise why
        log.warn(f"{why.message}: skipped")
    if not found:
        raise DamagedBundleError(
            "found no usable part of a bundle",
            hint="name parts, or folders that contain parts",
            code="KSB-19",
        )
    _require_one(found)
    return found


def _files(paths: Iterable[Path], refused: dict[Path, DamagedBundleError]) -> Iterator[Path]:
    """The named files, and in named folders the files that start or are named like a part."""
    for path in paths:
        try:
            inside = _inside(path) if path.is_dir() else ()
        except DamagedBundleError as error:
            refused[path] = error
            continue
        yield from (
            file for file in inside if file.is_file() and (_is_number(file) or parts.is_part(file))
        )
        if not path.is_dir():
            yield path


def _is_number(file: Path) -> bool:
    """Whether its name is one that `split` gives to a part: "offline.tar.003"."""
    return re.fullmatch(r"\.[0-9]{3}", file.suffix) is not None


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DamagedBundleError(
            f"{folder}: cannot read: {error.strerror}",
            hint="check the medium, or copy the parts to another one",
            code="KSB-30",
        ) from error


def _require_one(found: Sequence[Part]) -> None:
    sets: dict[Set, list[Part]] = {}
    for part in found:
        sets.setdefault(part.set, []).append(part)
    if len(sets) > 1:
        lines = [
            f"bundle {one.digest} number {one.number}, data parts: {one.data}, each of "
            f"{one.part_bytes} bytes: {', '.join(str(part.path) for part in several)}"
            for one, several in sets.items()
        ]
        raise DamagedBundleError(
            "found parts of different bundles, or of one bundle that was split with different "
            "sizes:\n  " + "\n  ".join(lines),
            hint="join only parts of one line",
            code="KSB-06",
        )
