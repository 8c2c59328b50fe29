"""From the medium to the disk by a file alone: the site file for Primers, join.yaml for workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone import log, run
from keystone.appliance import discover, identity, installing
from keystone.appliance import write as writing
from keystone.bundle.read.bundle import open_metadata
from keystone.hosts import observe
from keystone.image import freight
from keystone.join import join_yaml
from keystone.site import introduction
from keystone.site import model as site
from keystone.site.model import Node

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from keystone.appliance.identity import Place
    from keystone.join.join_yaml import Join, Worker
    from keystone.site.model import Site


def main(site_at: Path | None, join_at: Path | None, *, plan_only: bool, restart: bool) -> None:
    """Make this machine the Primer or worker that a file says it is. Raises KeystoneError.

    site_at, join_at: None for both to look for them on the medium and on sticks; without any
    nothing is done but the check of the medium, which comes before everything: consoles ask after
    it. restart: start from the disk when it was written.
    """
    now = writing.observe()
    if not plan_only:
        writing.check_medium(now)
    if site_at is None and join_at is None:
        site_at, join_at = discover.site_file(), discover.joining()
    if site_at is None and join_at is None:
        log.info(
            f"no {freight.SITE} or {freight.JOIN} on the medium "
            f"or on a stick labelled {freight.LABEL}"
        )
        return
    wanted = site.load(site_at) if site_at else None
    invited = join_yaml.load(join_at) if join_at else None
    found = identity.who(wanted, invited, discover.hardware(observe.disks()))
    if found is None:
        log.info(f"{join_at}: its tokens are for machines that a person describes")
        return
    place, files = _beginning(wanted, site_at, invited, found)
    address = str(found.address or "an address of DHCP")
    log.info(f"this machine is {found.name} ({address}) of site {place.name}")
    plan = installing.plan(now, place, found)
    log.info(plan.describe(address))
    if plan_only:
        return
    installing.write_system(now, place, found, files, plan)
    if restart and not plan.disk.done:
        run.run(["systemctl", "--no-block", "reboot"])


def _beginning(
    wanted: Site | None, site_at: Path | None, invited: Join | None, found: Node | Worker
) -> tuple[Place, Mapping[str, tuple[str, int]]]:
    """What the machine becomes a part of, and what its state begins with for that."""
    if isinstance(found, Node):
        assert wanted, "a Primer is of a site file"
        assert site_at, "a Primer is of a site file"
        given, first = introduction.read(site_at, found), found is wanted.primers[0]
        if first:
            require_bundle(given.get(introduction.FINGERPRINT, "").strip())
        return wanted, introduction.state(wanted, given, site_at.read_text() if first else "")
    assert invited, "a worker is of a join.yaml"
    return invited, installing.worker_files(invited, found)


def require_bundle(fingerprint: str) -> None:
    """Raises KeystoneError for a bundle that the first Primer could not go on with, or for two.

    fingerprint: of its trust root, "" where nobody vouches for one: it is installed by hand then.
    There may be none yet: the first start waits for it.
    """
    found = discover.bundle_file()
    if found is None:
        log.info(f"no {freight.BUNDLE} yet: put it in before the site is to be installed")
    elif fingerprint:
        with log.step(f"check who signed {found}"):
            open_metadata(found, fingerprint=fingerprint)
