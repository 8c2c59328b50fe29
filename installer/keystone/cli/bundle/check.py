"""`keystone-install bundle check`: whether anything inside asks for something outside."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from keystone import log
from keystone.errors import DamagedBundleError

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("check")
@click.argument("file", type=FILE)
@click.option("--root-fingerprint", help="SHA-256 of the trust root, as the packager told you.")
@click.option("--mirrors", type=FILE, help="For a lock: which address stands for which upstream.")
@click.option("--ca-file", type=FILE, help="For a lock: authorities (PEM) of upstreams.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verb(
    file: Path,
    root_fingerprint: str | None,
    mirrors: Path | None,
    ca_file: Path | None,
    as_json: bool,
) -> None:
    """Follow every reference inside a bundle (or a *.lock.json before it is created).

    Images by tag and digest, charts, packages, wheels, kernel modules, and what roles, units and
    scripts run. Exit code 5 when anything is missing. kubeadm and helm are run out of the bundle,
    so the bundle is verified first.
    """
    from keystone.closure import check as closure  # noqa: PLC0415 slow to import
    from keystone.closure import content  # noqa: PLC0415

    if file.name.endswith(".json"):
        inside = content.read_lock(file, mirrors, ca_file)
    else:
        inside = content.read_bundle(file, root_fingerprint, _confirm)
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
            hint="add what is missing to the definition, then lock and create again",
        )
    log.info(f"{file}: whole: nothing inside asks for anything outside")


def _confirm(fingerprint: str) -> bool:
    if not sys.stdin.isatty():
        return False
    log.info(f"The bundle's root, not known here yet: {fingerprint}")
    return click.confirm("Is it the one that the packager told you?")
