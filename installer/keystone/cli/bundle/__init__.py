"""`keystone-install bundle ...`: lock, create, verify, show, diff, sbom, keys."""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from keystone import log
from keystone.cli.bundle import delta_options, parts
from keystone.cli.bundle import keys as bundle_keys
from keystone.cli.bundle.keys import passphrase_option
from keystone.cli.lazy import Verbs

FILE = click.Path(path_type=Path, dir_okay=False)
FILE_OR_FOLDER = click.Path(path_type=Path)
mirrors_option = click.option(
    "--mirrors", type=FILE, help="A Mirrors document: which address stands for which upstream."
)
ca_file_option = click.option(
    "--ca-file", type=FILE, help="Authorities (PEM) of upstreams, besides the machine's own."
)
fingerprint_option = click.option(
    "--root-fingerprint", help="SHA-256 of the trust root, as the packager told you."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


SUMMARIES = {
    "check": "whether all that anything inside asks for is inside",
    "create": "write the bundle of a lock; same lock, same bytes",
    "diff": "what came, went or changed between two bundles",
    "have": "what this host has: a packager makes a delta from it",
    "join": "make the bundle of its parts, in any order",
    "keys": "the packager's signing keys",
    "lock": "resolve a definition to digests, say what changed",
    "sbom": "print an SBOM or the provenance",
    "serve": "serve images, packages and files, to try them",
    "show": "what is inside: sizes, licences, what is shared",
    "split": "cut a bundle into parts that are verified alone",
    "verify": "check signatures, versions, expiry and every byte",
}
MODULES = {
    name: f"keystone.cli.bundle.{name}:verb"
    for name in ("check", "diff", "have", "join", "sbom", "serve", "split")
}


@click.group(cls=Verbs, summaries=SUMMARIES, modules=MODULES)
def group() -> None:
    """Make, check and look at bundles: the one signed file that crosses the gap."""


@group.command()
@click.argument("definition", type=FILE)
@click.option("-o", "--output", type=FILE, help="The lock; <definition>.lock.json by default.")
@mirrors_option
@ca_file_option
@click.option(
    "--keys",
    type=click.Path(path_type=Path, file_okay=False),
    help="Take a number above all that were signed with these keys.",
)
@click.option("--no-sbom", is_flag=True, help="Leave SBOMs and provenance out.")
def lock(
    definition: Path, output: Path | None, mirrors: Path | None, ca_file: Path | None,
    keys: Path | None, no_sbom: bool,
) -> None:  # fmt: skip
    """Resolve a definition to digests and say what changed since the last lock."""
    from keystone.files import write_file  # noqa: PLC0415
    from keystone.packager import definition as definitions  # noqa: PLC0415 slow to import
    from keystone.packager import issued_numbers  # noqa: PLC0415
    from keystone.packager import lock as locks  # noqa: PLC0415
    from keystone.packager.resolve import resolve  # noqa: PLC0415
    from keystone.packager.sbom import describe as sbom  # noqa: PLC0415
    from keystone.packager.sources.upstream import Sources  # noqa: PLC0415

    wanted = definitions.load(definition)
    path = output or definition.with_suffix(".lock.json")
    old = locks.load(path) if path.exists() else None
    sources = Sources(
        {**wanted.mirrors, **definitions.load_mirrors(mirrors)},
        ca_file or wanted.ca_file,
        wanted.token_servers,
    )
    now = datetime.now(UTC).replace(microsecond=0)
    before = sbom.bare(old) if old else None
    new = locks.numbered(resolve(wanted, sources, path.parent, now, old), before)
    taken = bool(keys and old and issued_numbers.renumbered(keys, old) != old)
    if not taken and sbom.may_stay(old, new, path.parent, sources, documents=not no_sbom):
        log.info(f"{path}: nothing changed")
        return
    for line in locks.differences(before, new):
        log.info(f"  {line}")
    new = locks.above(new, old)
    new = issued_numbers.renumbered(keys, new) if keys else new
    if old is not None and old.number != new.number:
        log.info(f"  number {old.number} -> {new.number}")
    new = new if no_sbom else sbom.describe(new, path.parent, sources)
    write_file(path, locks.dump(new))
    total = sum(blob.size for blob in new.blobs)
    log.info(f"{path}: {len(new.items)} items, {len(new.blobs)} blobs, {log.size(total)}")


@group.command()
@click.argument("source", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="The bundle to write.")
@click.option("--keys", type=click.Path(path_type=Path), required=True, help="`bundle keys init`.")
@mirrors_option
@ca_file_option
@passphrase_option
@delta_options.create_options
@json_option
def create(
    source: Path, output: Path, keys: Path, mirrors: Path | None, ca_file: Path | None,
    passphrase_file: Path | None, as_json: bool,
    **receiver: Any,  # noqa: ANN401 the options of bundle_delta
) -> None:  # fmt: skip
    """Write the bundle of a lock (or of the lock beside a definition). Same lock, same bytes."""
    delta = delta_options.wanted(**receiver)
    from keystone.bundle.report.text import installer_line  # noqa: PLC0415
    from keystone.packager import definition as definitions  # noqa: PLC0415 slow to import
    from keystone.packager import issued_numbers, writer  # noqa: PLC0415
    from keystone.packager import lock as locks  # noqa: PLC0415
    from keystone.packager.sbom import describe as sbom  # noqa: PLC0415
    from keystone.packager.sources.upstream import Sources  # noqa: PLC0415

    path = source if source.name.endswith(".json") else source.with_suffix(".lock.json")
    definition = definitions.beside(path) if path == source else definitions.load(source)
    sources = Sources(
        {**(definition.mirrors if definition else {}), **definitions.load_mirrors(mirrors)},
        ca_file or (definition.ca_file if definition else None),
        definition.token_servers if definition else {},
    )
    wanted = locks.load(path)
    signing = writer.Signing(keys, bundle_keys.opening(keys / "release.pem", passphrase_file))
    issued_numbers.claim(keys, wanted)
    sbom.restore(wanted, path.parent, sources)
    make = delta.create if delta else writer.create
    done = make(wanted, path.parent, output, signing, sources)
    state = "written" if done.changed else "is there already, unchanged"
    log.info(f"{output}: {state}, {log.size(done.size)}, {done.digest}")
    log.info("tell operators, by another way than the bundle's:")
    log.info(f"  root fingerprint  {done.fingerprint}")
    if done.installer:
        log.info(f"  {installer_line(done.installer)}")
    if as_json:
        log.out_json(asdict(done))


@group.command()
@click.argument("files", metavar="FILE...", type=FILE_OR_FOLDER, nargs=-1, required=True)
@fingerprint_option
@json_option
def verify(files: tuple[Path, ...], root_fingerprint: str | None, as_json: bool) -> None:
    """Check signatures, versions, expiry and every byte: of a bundle, a delta or parts."""
    from keystone.bundle.read.bundle import open_verified  # noqa: PLC0415 slow to import

    if parts.verify(files, root_fingerprint, _confirm, as_json=as_json):
        return
    (file,) = files
    found = open_verified(file, fingerprint=root_fingerprint, confirm=_confirm, deltas=True)
    log.info(f"{file}: {found.manifest.name} number {found.manifest.number}: every byte is signed")
    delta_options.explain(found)
    if as_json:
        log.out_json({"digest": found.digest, "fingerprint": found.fingerprint,
                      "number": found.manifest.number})  # fmt: skip


@group.command()
@click.argument("file", type=FILE)
@click.option("--against", type=FILE, help="An older bundle: say what is new.")
@click.option("--html", type=FILE, help="Write the report as one file for a browser.")
@json_option
def show(file: Path, against: Path | None, html: Path | None, as_json: bool) -> None:
    """What is inside: sizes, licences, what is shared. Looks only; `verify` is what proves it."""
    from keystone.bundle.report import page, preview, report  # noqa: PLC0415 slow to import
    from keystone.bundle.report.text import print_report  # noqa: PLC0415

    made = report.make(preview.look(file), preview.look(against) if against else None)
    if html:
        page.write(made, html)
        log.info(f"{html}: written")
    if as_json:
        log.out_json(made.as_document())
    elif not html:
        print_report(made)


group.add_command(bundle_keys.group)


def _confirm(fingerprint: str) -> bool:
    if not sys.stdin.isatty():
        return False
    log.info(f"The bundle's root, not known here yet: {fingerprint}")
    return click.confirm("Is it the one that the packager told you?")
