"""Write a Primer's or worker's system to the disk of this machine, which runs from a medium."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import log
from keystone.appliance import discover, identity
from keystone.appliance import write as writing
from keystone.errors import RefusedError
from keystone.hosts import observe
from keystone.join import join_yaml, script
from keystone.site import introduction

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.appliance.identity import Card, Member, Place
    from keystone.appliance.write import Running
    from keystone.join.join_yaml import Join, Worker

USER, PORT = "root", 22
"""The user that may log in to an installed image, and the port of its sshd."""
JOIN = f"{introduction.CONFIG}/{join_yaml.NAME}"
"""Path of a worker's join.yaml on its state partition, until it has joined (first_start.py)."""


@dataclass(frozen=True)
class Plan:
    """What to write. mac: of the card that gets the address, "" for any card. card: that card."""

    disk: writing.Plan
    mac: str = ""
    card: Card | None = None

    def describe(self, address: str) -> str:
        """Lines of text for people. address: the machine's, as text."""
        if self.disk.held:
            return self.disk.describe()
        where = f"{self.mac} ({self.card.describe()})" if self.card else "any"
        return f"{self.disk.describe()}\n{address} on network card {where}"


def plan(now: Running, place: Place, node: Member, system: str = "") -> Plan:
    """Plan what to write for this machine.

    system: the serial number of its disk, "" for the disk that the file names or implies. A disk
    that already has the system also has its network files, so no card is chosen then.

    Raises RefusedError, also if the medium is too old or if nobody could log in.
    """
    if now.version < place.system_floor:
        raise RefusedError(
            f"this medium has version {now.version}, but site {place.name} requires "
            f"{place.system_floor} or newer (spec.systemFloor)",
            hint="use a newer medium",
        )
    seen = observe.disks()
    serial = system or identity.system_disk(node, discover.hardware(seen))
    begun = writing.begun(seen, serial)
    disk = writing.plan(now, seen, serial, writing.slot_of(now, seen, serial), begun=begun)
    if disk.held:
        return with_card(disk, node, {})
    require_login(place)
    return with_card(disk, node, discover.cards())


def require_login(place: Place) -> None:
    """Raise RefusedError if nobody could log in to the written system: it has no password."""
    if not place.ssh.authorized_keys:
        raise RefusedError(
            f"nobody could log in: site {place.name} names no public key, and there is no password",
            hint="add one to spec.ssh.authorizedKeys; for a guided installation, put it in the top "
            "folder of the stick as a file *.pub",
        )
    if (place.ssh.user, place.ssh.port) != (USER, PORT):
        raise RefusedError(
            f"site {place.name} logs in as {place.ssh.user} at port {place.ssh.port}, but a system "
            f"written from a medium only has {USER} and port {PORT}",
            hint="remove user and port from spec.ssh",
        )


def with_card(disk: writing.Plan, node: Member, cards: Mapping[str, Card]) -> Plan:
    """Add the network card to the plan. Raises RefusedError if the card is ambiguous."""
    mac = identity.card(node, cards)
    return Plan(disk, mac, cards.get(mac))


def write_system(
    now: Running, place: Place, node: Member, files: Mapping[str, tuple[str, int]], wanted: Plan
) -> None:
    """Write the disk and make the firmware start it. The caller has verified the medium.

    files: further first files of the state partition, besides host name, network and keys: text
    and mode by path.
    """
    disk = wanted.disk
    with tempfile.TemporaryDirectory() as folder:
        seed = writing.seeded(Path(folder), {**identity.state(place, node, wanted.mac), **files})
        writing.write(now, disk, seed)
    if disk.done:
        log.info("Nothing to do: remove the medium and restart.")
        return
    writing.start_from(disk)
    log.info(f"Done: {node.name} starts from disk {disk.serial}.")


def worker_files(join: Join, worker: Worker) -> dict[str, tuple[str, int]]:
    """A worker's first files of its state partition: its own token, and the CA for the roles."""
    return {
        JOIN: (join_yaml.text(join_yaml.alone(join, worker)), 0o600),
        str(script.SITE_CA).lstrip("/"): (join.ca, 0o644),
    }
