"""`keystone-install bundle check`: find references that lead out of a bundle."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log
from keystone.bundle.trust.question import confirm_root
from keystone.cli.options import FILE, fingerprint_option, json_option
from keystone.closure import check as closure
from keystone.closure import content
from keystone.errors import DamagedBundleError


@click.command("check")
@click.argument("file", type=FILE)
@fingerprint_option
@click.option("--mirrors", type=FILE, help="For a lock: addresses that replace upstreams.")
@click.option("--ca-file", type=FILE, help="For a lock: CA certificates (PEM) of upstreams.")
@json_option
def verb(
    file: Path,
    root_fingerprint: str | None,
    mirrors: Path | None,
    ca_file: Path | None,
    as_json: bool,
) -> None:
    """Follow every reference inside a bundle (or inside a *.lock.json before `bundle create`).

    Checks images by tag and digest, charts, packages, wheels, kernel modules, and the programs
    that roles, units and scripts run. Exit code 5 when anything is missing. Runs kubeadm and helm
    of the bundle, so it verifies the bundle first.
    """
    if file.name.endswith(".json"):
        inside = content.read_lock(file, mirrors, ca_file)
    else:
        inside = content.read_bundle(file, root_fingerprint, confirm_root)
    report = closure.check(inside)
    if as_json:
        log.out_json(closure.as_document(report))
    else:
        closure.print_tables(report)
    if not report.complete:
        count = len(report.findings)
        lead = "reference leads" if count == 1 else "references lead"
        raise DamagedBundleError(
            f"{file}: {count} {lead} out of the bundle",
            hint="add the missing items to the definition, then run bundle lock and bundle create "
            "again",
        )
    log.info(f"{file}: complete: no reference leads out of the bundle")
