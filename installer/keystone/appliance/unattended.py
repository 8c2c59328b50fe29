"""Unattended installation: the site file describes Primers, join.yaml describes workers."""

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
    """Make this machine the Primer or worker that a file describes. Raises KeystoneError.

    The medium is always verified first, also if there is no file. site_at, join_at: paths; None for
    both to search the medium and sticks. plan_only: change nothing. restart: restart the machine
    once its disk is written.
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
        log.info(f"{join_at}: no entry describes this machine; install it guided")
        return
    place, files = _beginning(wanted, site_at, invited, found)
    address = str(found.address or "an address from DHCP")
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
    """The site or join.yaml of this machine, and the first files of its state partition."""
    if isinstance(found, Node):
        assert wanted, "a Primer comes from a site file"
        assert site_at, "a Primer comes from a site file"
        given, first = introduction.read(site_at, found), found is wanted.primers[0]
        if first:
            require_bundle(given.get(introduction.FINGERPRINT, "").strip())
        return wanted, introduction.state(wanted, given, site_at.read_text() if first else "")
    assert invited, "a worker comes from a join.yaml"
    return invited, installing.worker_files(invited, found)


def require_bundle(fingerprint: str) -> None:
    """Raise KeystoneError for a bundle that the first Primer could not use, or for two bundles.

    The bundle may be absent: the first start waits for it. fingerprint: of its trust root, "" if
    nobody has confirmed one; then a person installs the bundle.
    """
    found = discover.bundle_file()
    if found is None:
        log.info(f"no {freight.BUNDLE} found: insert a stick with it before the site is installed")
    elif fingerprint:
        with log.step(f"verify the signatures of {found}"):
            open_metadata(found, fingerprint=fingerprint)
