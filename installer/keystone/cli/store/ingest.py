"""`keystone-install store ingest`: copy a bundle into the store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import click

from keystone import log
from keystone.bundle.read.held_file import open_medium
from keystone.bundle.trust import verify
from keystone.cli.options import json_option
from keystone.cli.store.options import store_option
from keystone.store import store as stores
from keystone.store.publish import publish


@click.command("ingest")
@click.argument("source", metavar="BUNDLE|-")
@click.option("--root-fingerprint", help="SHA-256 of the bundle's trust root.")
@click.option(
    "--trust", "trust_folder", type=click.Path(path_type=Path),
    default="/var/lib/keystone/trust", show_default=True, help="Folder with the pinned root.",
)  # fmt: skip
@store_option
@json_option
def verb(
    source: str, root_fingerprint: str | None, trust_folder: Path, store: Path, as_json: bool
) -> None:
    """Copy a bundle into the store and publish it.

    Checks every byte. The bundle is read once, so BUNDLE may be - for standard input.
    """
    pin = verify.host_pin(trust_folder, fingerprint=root_fingerprint)
    with _stream(source) as (stream, exact):
        done, verified = stores.ingest(stream, store, pin, exact=exact)
    verify.remember(verified, trust_folder)
    published = publish(store)
    stores.mark(store, done.digest, complete=True)
    changed = done.changed or published.changed
    log.info(
        f"{store}: {done.bundle} number {done.number}: "
        f"{log.count(done.blobs, 'blob')} written, {log.count(published.made, 'name')} published, "
        f"{published.removed} removed"
    )
    if as_json:
        log.out_json({**stores.as_json(done), "changed": changed, "published": published.made})


@contextmanager
def _stream(source: str) -> Iterator[tuple[BinaryIO, bool]]:
    """Open the bundle; yield its stream, and whether the stream must end where the archive does."""
    if source == "-":
        with open(0, "rb", buffering=0, closefd=False) as stream:
            yield cast("BinaryIO", stream), True
        return
    with open_medium(Path(source)) as medium:
        yield medium.stream, medium.exact
