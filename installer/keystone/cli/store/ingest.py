"""`keystone-install store ingest`: a bundle is taken in."""

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
@click.option("--root-fingerprint", help="SHA-256 of the trust root.")
@click.option(
    "--trust", "trust_folder", type=click.Path(path_type=Path),
    default="/var/lib/keystone/trust", show_default=True, help="Where the root is pinned.",
)  # fmt: skip
@store_option
@json_option
def verb(
    source: str, root_fingerprint: str | None, trust_folder: Path, store: Path, as_json: bool
) -> None:
    """Read a bundle once into the store, checking every byte; then publish it."""
    pin = verify.host_pin(trust_folder, fingerprint=root_fingerprint)
    with _stream(source) as (stream, exact):
        done, verified = stores.ingest(stream, store, pin, exact=exact)
    verify.remember(verified, trust_folder)
    published = publish(store)
    stores.mark(store, done.digest, complete=True)
    changed = done.changed or published.changed
    log.info(
        f"{store}: {done.bundle} number {done.number}: "
        f"{done.blobs} blobs written, {published.made} names published, "
        f"{published.removed} removed"
    )
    if as_json:
        log.out_json({**stores.as_json(done), "changed": changed, "published": published.made})


@contextmanager
def _stream(source: str) -> Iterator[tuple[BinaryIO, bool]]:
    """The bundle's bytes, and whether they end where the archive does."""
    if source == "-":
        with open(0, "rb", buffering=0, closefd=False) as stream:
            yield cast("BinaryIO", stream), True
        return
    with open_medium(Path(source)) as medium:
        yield medium.stream, medium.exact
