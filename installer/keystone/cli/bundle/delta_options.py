"""What `bundle create --have` and `bundle verify` of a delta need."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from keystone import log

if TYPE_CHECKING:
    from collections.abc import Callable

    from keystone.bundle.read.bundle import Bundle
    from keystone.packager.delta import Receiver

FILE = click.Path(path_type=Path, dir_okay=False)


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
    from keystone.bundle.delta import have_list as haves  # noqa: PLC0415 slow to import
    from keystone.packager.delta import Receiver  # noqa: PLC0415

    return Receiver(haves.read(have, site_key), base)


def explain(found: Bundle) -> None:
    """Say of a verified delta what it needs; nothing of a whole bundle."""
    from keystone.bundle.read import delta_description  # noqa: PLC0415 slow to import
    from keystone.bundle.trust import verify  # noqa: PLC0415 slow to import

    if not found.is_delta:
        return
    with found.member(verify.DELTA) as file:
        known = delta_description.load(file.read())
    log.info(
        f"  a delta: it needs the store of bundle number {known.base_number}, of which it leaves "
        f"out {known.left_out} blobs, {log.size(known.left_out_bytes)}; "
        f"{len(known.encoded)} blobs come as patches"
    )
