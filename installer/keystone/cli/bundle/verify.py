"""`keystone-install bundle verify`: verify a bundle, a delta or parts."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log
from keystone.bundle.format import DELTA
from keystone.bundle.parts import gather
from keystone.bundle.parts import join as parts_join
from keystone.bundle.parts import part as parts
from keystone.bundle.parts import verify as parts_verify
from keystone.bundle.read import delta_description
from keystone.bundle.read.bundle import Bundle, open_verified
from keystone.bundle.trust import verify as trust
from keystone.bundle.trust.question import confirm_root
from keystone.cli.options import FILE_OR_FOLDER, fingerprint_option, json_option
from keystone.errors import DamagedBundleError


@click.command("verify")
@click.argument("files", metavar="FILE...", type=FILE_OR_FOLDER, nargs=-1, required=True)
@fingerprint_option
@json_option
def verb(files: tuple[Path, ...], root_fingerprint: str | None, as_json: bool) -> None:
    """Check signatures, versions, expiry and every byte of a bundle, a delta or parts."""
    if len(files) > 1 or files[0].is_dir() or parts.is_part(files[0]):
        _verify_parts(files, root_fingerprint, as_json=as_json)
        return
    (file,) = files
    found = open_verified(file, fingerprint=root_fingerprint, confirm=confirm_root, deltas=True)
    log.info(f"{file}: {found.manifest.name} number {found.manifest.number}: all bytes verified")
    _explain(found)
    if as_json:
        log.out_json({"digest": found.digest, "fingerprint": found.fingerprint,
                      "number": found.manifest.number})  # fmt: skip


def _explain(found: Bundle) -> None:
    """Log what a verified delta needs; log nothing for a full bundle."""
    if not found.is_delta:
        return
    with found.member(DELTA) as file:
        known = delta_description.load(file.read())
    log.info(
        f"  a delta: it needs the store of bundle number {known.base_number}; it leaves out "
        f"{log.count(known.left_out, 'blob')}, {log.size(known.left_out_bytes)}, and has "
        f"{log.count(len(known.encoded), 'patch', 'patches')}"
    )


def _verify_parts(files: tuple[Path, ...], fingerprint: str | None, *, as_json: bool) -> None:
    """Print the state of each part. Raises DamagedBundleError when one is damaged."""
    found = gather.gather(files, strict=True)
    pin = trust.host_pin(fingerprint=fingerprint, confirm=confirm_root)
    report = parts_verify.verify(found, pin)
    rows = [
        (part.file, f"{part.part} of {report.data}+{report.parity}",
         "damaged" if part.damaged or part.chunks else "complete")
        for part in report.parts
    ]  # fmt: skip
    if as_json:
        log.out_json(parts_verify.as_json(report))
    else:
        log.table(("file", "part", ""), rows, title=f"bundle {report.bundle}")
    if report.missing:
        log.info(f"missing: part {', '.join(map(str, report.missing))}")
    log.info(f"enough parts to join: {'yes' if report.joinable else 'no'}")
    if report.damaged:
        names = [name for part in report.parts for name in part.damaged]
        raise DamagedBundleError(
            "damaged:\n  " + "\n  ".join(names[: parts_join.SHOWN]),
            hint=(
                "bundle join repairs this from parity parts"
                if report.joinable
                else "copy the damaged parts again"
            ),
            code="KSB-08",
        )
