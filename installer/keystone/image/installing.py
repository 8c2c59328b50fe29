"""Make this machine, which runs from a medium, one of a site's Primers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import disks, log
from keystone.errors import RefusedError
from keystone.image import identity, medium
from keystone.image import write as writing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.image.write import Plan, Running
    from keystone.site import Node, Site


def plan(now: Running, site: Site, node: Node, system: str = "") -> Plan:
    """What writing this Primer would do. Raises RefusedError, for an old medium too.

    system: its disk's serial number, "" for what the site file says or leaves.
    """
    if now.version < site.system_floor:
        raise RefusedError(
            f"this medium has version {now.version}, site {site.name} takes "
            f"{site.system_floor} or newer (spec.systemFloor)",
            hint="take the newer medium",
        )
    seen = disks.observe()
    serial = system or identity.system_disk(node, medium.hardware(seen))
    begun = writing.begun(seen, serial)
    return writing.plan(now, seen, serial, writing.slot_of(now), begun=begun)


def write_primer(
    now: Running, site: Site, node: Node, files: Mapping[str, tuple[str, int]], wanted: Plan
) -> None:
    """Check the medium, write the disk, and have the firmware start it.

    files: what the state begins with besides name, network and keys: text and mode by path.

    Raises RefusedError, before anything is written, where its network card is not clear.
    """
    mac = identity.card(node, medium.cards())
    writing.check_medium(now)
    with tempfile.TemporaryDirectory() as folder:
        begun = writing.seeded(Path(folder), {**identity.state(site, node, mac), **files})
        writing.write(now, wanted, begun)
    if wanted.done:
        log.info("Nothing to do: take the medium out and restart.")
        return
    writing.start_from(wanted)
    log.info(f"Done: {node.name} starts from disk {wanted.serial}.")
