"""`keystone-install bundle ...`: lock, create, verify, show, keys."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from keystone import log
from keystone.cli import bundle_delta, bundle_parts

FILE = click.Path(path_type=Path, dir_okay=False)
FILE_OR_FOLDER = click.Path(path_type=Path)
mirrors_option = click.option(
    "--mirrors", type=FILE, help="A Mirrors document: which address stands for which upstream."
)
fingerprint_option = click.option(
    "--root-fingerprint", help="SHA-256 of the trust root, as the packager told you."
)
passphrase_option = click.option(
    "--passphrase-file", type=FILE, help="Opens the keys; its first line is the passphrase."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def group() -> None:
    """Make, check and look at bundles: the one signed file that crosses the gap."""


@group.command()
@click.argument("definition", type=FILE)
@click.option("-o", "--output", type=FILE, help="The lock; <definition>.lock.json by default.")
@mirrors_option
def lock(definition: Path, output: Path | None, mirrors: Path | None) -> None:
    """Resolve a definition to digests and say what changed since the last lock."""
    from keystone.bundle import definition as definitions  # noqa: PLC0415 slow to import
    from keystone.bundle import lock as locks  # noqa: PLC0415
    from keystone.bundle.disk import write_file  # noqa: PLC0415
    from keystone.bundle.resolve import resolve  # noqa: PLC0415
    from keystone.bundle.sources import Sources  # noqa: PLC0415

    wanted = definitions.load(definition)
    path = output or definition.with_suffix(".lock.json")
    old = locks.load(path) if path.exists() else None
    sources = Sources({**wanted.mirrors, **definitions.load_mirrors(mirrors)})
    new = resolve(wanted, sources, path.parent, datetime.now(UTC).replace(microsecond=0))
    if old is not None and locks.same_content(old, new):
        log.info(f"{path}: nothing changed")
        return
    for line in locks.differences(old, new):
        log.info(f"  {line}")
    write_file(path, locks.dump(new))
    total = sum(blob.size for blob in new.blobs)
    log.info(f"{path}: {len(new.items)} items, {len(new.blobs)} blobs, {log.size(total)}")


@group.command()
@click.argument("source", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="The bundle to write.")
@click.option("--keys", type=click.Path(path_type=Path), required=True, help="`bundle keys init`.")
@mirrors_option
@passphrase_option
@bundle_delta.create_options
@json_option
def create(
    source: Path, output: Path, keys: Path, mirrors: Path | None, passphrase_file: Path | None,
    as_json: bool, **receiver: Any,  # noqa: ANN401 the options of bundle_delta
) -> None:  # fmt: skip
    """Write the bundle of a lock (or of the lock beside a definition). Same lock, same bytes."""
    from keystone.bundle import definition as definitions  # noqa: PLC0415 slow to import
    from keystone.bundle import lock as locks  # noqa: PLC0415
    from keystone.bundle import writer  # noqa: PLC0415
    from keystone.bundle.sources import Sources  # noqa: PLC0415

    path = source if source.name.endswith(".json") else source.with_suffix(".lock.json")
    inline = {} if path == source else dict(definitions.load(source).mirrors)
    sources = Sources({**inline, **definitions.load_mirrors(mirrors)})
    signing = writer.Signing(keys, _passphrase(passphrase_file))
    delta = bundle_delta.wanted(**receiver)
    make = delta.create if delta else writer.create
    done = make(locks.load(path), path.parent, output, signing, sources)
    state = "written" if done.changed else "is there already, unchanged"
    log.info(f"{output}: {state}, {log.size(done.size)}, {done.digest}")
    if as_json:
        log.out_json({"changed": done.changed, "digest": done.digest, "size": done.size})


@group.command()
@click.argument("files", metavar="FILE...", type=FILE_OR_FOLDER, nargs=-1, required=True)
@fingerprint_option
@json_option
def verify(files: tuple[Path, ...], root_fingerprint: str | None, as_json: bool) -> None:
    """Check signatures, versions, expiry and every byte: of a bundle, a delta or parts."""
    from keystone.bundle import open_verified  # noqa: PLC0415 slow to import

    if bundle_parts.verify(files, root_fingerprint, _confirm, as_json=as_json):
        return
    (file,) = files
    found = open_verified(file, fingerprint=root_fingerprint, confirm=_confirm)
    log.info(f"{file}: {found.manifest.name} number {found.manifest.number}: every byte is signed")
    bundle_delta.explain(found)
    if as_json:
        log.out_json({"digest": found.digest, "fingerprint": found.fingerprint,
                      "number": found.manifest.number})  # fmt: skip


@group.command()
@click.argument("file", type=FILE)
@json_option
def show(file: Path, as_json: bool) -> None:
    """What is inside, by kind and group. Looks only; `verify` is what proves it."""
    from keystone.bundle import open_metadata  # noqa: PLC0415 slow to import
    from keystone.bundle.show import as_document, print_tables  # noqa: PLC0415

    found = open_metadata(file, confirm=lambda _: True, directory=Path("/nonexistent"))
    if as_json:
        log.out_json(as_document(found))
    else:
        print_tables(found)


@group.group()
def keys() -> None:
    """The packager's signing keys."""


@keys.command()
@click.option("--dir", "folder", type=click.Path(path_type=Path), required=True)
@passphrase_option
@json_option
def init(folder: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Make the keys. Tell operators the fingerprint by another way than the bundle's."""
    from keystone.bundle import keys as signing  # noqa: PLC0415 slow to import

    fingerprint = signing.init(folder, _passphrase(passphrase_file))
    log.info(f"{folder}: keys made; the fingerprint that operators type:")
    if as_json:
        log.out_json({"fingerprint": fingerprint})
    else:
        log.out(fingerprint)


group.add_command(bundle_delta.have)
group.add_command(bundle_parts.split)
group.add_command(bundle_parts.join)


def _passphrase(path: Path | None) -> str | None:
    return path.read_text().splitlines()[0] if path else None


def _confirm(fingerprint: str) -> bool:
    if not sys.stdin.isatty():
        return False
    log.info(f"The bundle's root, not known here yet: {fingerprint}")
    return click.confirm("Is it the one that the packager told you?")
