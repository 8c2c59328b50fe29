"""`keystone-install bundle have`, and what `bundle create --have` needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keystone import log
from keystone.bundle.model import STORE

if TYPE_CHECKING:
    from collections.abc import Callable

    from keystone.bundle import Bundle
    from keystone.bundle.delta_writer import Receiver

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)


def create_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of `bundle create` that make a delta of it."""
    for option in (
        click.option("--have", type=FILE, help="Leave out what this have-list names."),
        click.option("--site-key", help="Who signed it, as `bundle have` printed it on the site."),
        click.option(
            "--base", type=FILE, multiple=True,
            help="An older bundle: what is like something in it comes as a patch. Repeatable.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def wanted(have: Path | None, site_key: str | None, base: tuple[Path, ...]) -> Receiver | None:
    """For whom `create` shall make a delta; None when it shall make a whole bundle."""
    if have is None:
        if site_key or base:
            raise click.UsageError("--site-key and --base belong to --have")
        return None
    from keystone.bundle import have as haves  # noqa: PLC0415 slow to import
    from keystone.bundle.delta_writer import Receiver  # noqa: PLC0415

    return Receiver(haves.read(have, site_key), base)


def explain(found: Bundle) -> None:
    """Say of a verified delta what it needs; nothing of a whole bundle."""
    from keystone.bundle import delta  # noqa: PLC0415 slow to import

    if not delta.is_delta(found.verified.targets):
        return
    with found.member(delta.DESCRIPTOR) as file:
        known = delta.load(file.read())
    log.info(
        f"  a delta: it needs the store of bundle number {known.base_number}, of which it leaves "
        f"out {known.left_out} blobs, {log.size(known.left_out_bytes)}; "
        f"{len(known.encoded)} blobs come as patches"
    )


@click.command()
@click.argument("source", metavar="[BUNDLE]", type=FILE, required=False)
@click.option("-o", "--output", type=FILE, required=True, help="The have-list to write.")
@click.option("--store", type=FOLDER, default=STORE, show_default=True)
@click.option(
    "--trust", "trust_folder", type=FOLDER, default="/var/lib/keystone/trust", show_default=True,
    help="Where the root is pinned; the site's key is made there.",
)  # fmt: skip
@click.option("--root-fingerprint", help="SHA-256 of the trust root of BUNDLE.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def have(
    source: Path | None, output: Path, store: Path, trust_folder: Path,
    root_fingerprint: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Write what this host's store has (or BUNDLE holds): a packager makes a delta from it."""
    from dataclasses import asdict  # noqa: PLC0415

    from keystone.bundle import have as haves  # noqa: PLC0415 slow to import

    found: Any = (
        haves.of_bundle(source, root_fingerprint, trust_folder)
        if source
        else haves.of_store(store, trust_folder)
    )
    done = haves.write(found, output, trust_folder)
    log.info(
        f"{output}: {done.blobs} blobs, bundle number {done.number}, {log.size(done.size)}; "
        "carry it to the packager and tell them the site's key:"
    )
    if as_json:
        log.out_json(asdict(done))
    else:
        log.out(done.key)
