"""`keystone-install store ...`: a Primer's copy of the bundle, and what services serve of it."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import click

from keystone import log
from keystone.bundle.model import STORE

if TYPE_CHECKING:
    from collections.abc import Iterator

store_option = click.option(
    "--store", type=click.Path(path_type=Path, file_okay=False), default=STORE, show_default=True
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def group() -> None:
    """The bundle's content on this host."""


@group.command()
@click.argument("source", metavar="BUNDLE|-")
@click.option("--root-fingerprint", help="SHA-256 of the trust root.")
@click.option(
    "--trust", "trust_folder", type=click.Path(path_type=Path),
    default="/var/lib/keystone/trust", show_default=True, help="Where the root is pinned.",
)  # fmt: skip
@store_option
@json_option
def ingest(
    source: str, root_fingerprint: str | None, trust_folder: Path, store: Path, as_json: bool
) -> None:
    """Read a bundle once into the store, checking every byte; then publish it."""
    from keystone.bundle.trust import verify  # noqa: PLC0415
    from keystone.store import store as stores  # noqa: PLC0415 slow to import
    from keystone.store.publish import publish  # noqa: PLC0415

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


@group.command()
@store_option
@json_option
def publish(store: Path, as_json: bool) -> None:
    """Make registry, apt repositories and files match the store."""
    from keystone.store import publish as publishing  # noqa: PLC0415 slow to import

    done = publishing.publish(store)
    log.info(f"{store}: {done.made} names published, {done.removed} removed")
    if as_json:
        log.out_json({"changed": done.changed, "made": done.made, "removed": done.removed})


@group.command()
@store_option
@json_option
def status(store: Path, as_json: bool) -> None:
    """Which bundle the store holds, and whether all of it."""
    from keystone.store import store as stores  # noqa: PLC0415 slow to import

    found = stores.status(store)
    if as_json:
        log.out_json(stores.as_json(found))
        return
    log.table(
        ("bundle", "number", "digest", "complete", "blobs", "size"),
        [(found.bundle, found.number, found.digest, found.complete, found.blobs,
          log.size(found.bytes))],
    )  # fmt: skip


@contextmanager
def _stream(source: str) -> Iterator[tuple[BinaryIO, bool]]:
    """The bundle's bytes, and whether they end where the archive does."""
    from keystone.bundle.read.held_file import open_medium  # noqa: PLC0415 slow to import

    if source == "-":
        with open(0, "rb", buffering=0, closefd=False) as stream:
            yield cast("BinaryIO", stream), True
        return
    with open_medium(Path(source)) as medium:
        yield medium.stream, medium.exact
