"""`keystone-install image upgrade`: write another version to the other slot."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log
from keystone.appliance import upgrade as upgrading
from keystone.appliance import write as writing
from keystone.cli.image.release import release_option, require_makers
from keystone.cli.options import EXISTING_FILE, plan_option
from keystone.image import release


@click.command("upgrade")
@click.argument("image", type=EXISTING_FILE)
@release_option
@plan_option
def verb(image: Path, digest: str | None, *, plan_only: bool) -> None:
    """Write another version to the slot that is not running.

    IMAGE is an installer ISO with that version.
    """
    now = writing.observe()
    disk, partitions = upgrading.observe(now)
    with upgrading.medium_of(image) as place:
        offer = upgrading.offered(place)
        wanted = upgrading.plan(now, disk, partitions, offer)
        log.info(wanted.describe())
        if plan_only:
            return
        require_makers(image, release.digest(release.check(place / "boot")), digest)
        upgrading.apply(wanted, offer)
    log.info(f"Done: the next start uses version {wanted.version}. Restart when convenient.")
