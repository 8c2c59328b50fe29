"""From the medium to the disk by a site file alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone import disks, log, run, site
from keystone.image import identity, installing, introduction, medium
from keystone.image import write as writing

if TYPE_CHECKING:
    from pathlib import Path


def main(site_file: Path | None, *, plan_only: bool, restart: bool) -> None:
    """Make this machine the Primer that the site file says it is. Raises KeystoneError.

    site_file: None to look for it on the medium and on sticks; without one nothing is done.
    restart: start from the disk when it was written.
    """
    now = writing.observe()
    file = site_file or medium.site_file()
    if file is None:
        log.info(f"no site file on the medium or on a stick labelled {medium.LABEL}")
        return
    wanted = site.load(file)
    node = identity.who(wanted, medium.hardware(disks.observe()))
    log.info(f"{file}: this machine is {node.name} ({node.address}) of site {wanted.name}")
    found = introduction.read(file, node)
    plan = installing.plan(now, wanted, node)
    log.info(plan.describe())
    if plan_only:
        return
    text = file.read_text() if node is wanted.primers[0] else ""
    installing.write_primer(now, wanted, node, introduction.state(wanted, found, text), plan)
    if restart and not plan.done:
        run.run(["systemctl", "--no-block", "reboot"])
