"""`keystone-install bundle verify` of parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone import log
from keystone.errors import DamagedBundleError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def verify(
    files: tuple[Path, ...],
    fingerprint: str | None,
    confirm: Callable[[str], bool],
    *,
    as_json: bool,
) -> bool:
    """`bundle verify` of parts; False when the one file given is no part.

    Raises DamagedBundleError when a part is damaged.
    """
    from keystone.bundle.parts import gather  # noqa: PLC0415
    from keystone.bundle.parts import join as parts_join  # noqa: PLC0415
    from keystone.bundle.parts import part as parts  # noqa: PLC0415
    from keystone.bundle.parts import verify as parts_verify  # noqa: PLC0415
    from keystone.bundle.trust import verify as trust  # noqa: PLC0415

    if len(files) == 1 and not files[0].is_dir() and not parts.is_part(files[0]):
        return False
    found = gather.gather(files, strict=True)
    report = parts_verify.verify(found, trust.host_pin(fingerprint=fingerprint, confirm=confirm))
    rows = [
        (part.file, f"{part.part} of {report.data}+{report.parity}",
         "damaged" if part.damaged or part.chunks else "whole")
        for part in report.parts
    ]  # fmt: skip
    if as_json:
        log.out_json(parts_verify.as_json(report))
    else:
        log.table(("file", "part", ""), rows, title=f"bundle {report.bundle}")
    if report.missing:
        log.info(f"not given: part {', '.join(map(str, report.missing))}")
    log.info(f"enough to join: {'yes' if report.joinable else 'no'}")
    if report.damaged:
        names = [name for part in report.parts for name in part.damaged]
        raise DamagedBundleError(
            "damaged:\n  " + "\n  ".join(names[: parts_join.SHOWN]),
            hint="join works around it" if report.joinable else "copy the damaged parts again",
            code="KSB-08",
        )
    return True
