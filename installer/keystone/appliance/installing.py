"""Make this machine, which runs from a medium, one of a site's Primers or workers."""

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
"""Who logs in to an image, and where its sshd listens."""
JOIN = f"{introduction.CONFIG}/{join_yaml.NAME}"
"""Where a worker's state has what it joins with, until it has joined (first_start.py)."""


@dataclass(frozen=True)
class Plan:
    """What would be done. mac: of the card that has the address, "" for any. card: None without."""

    disk: writing.Plan
    mac: str = ""
    card: Card | None = None

    def describe(self, address: str) -> str:
        """Lines for people. address: the machine's, in words."""
        if self.disk.held:
            return self.disk.describe()
        where = f"{self.mac} ({self.card.describe()})" if self.card else "any card that comes"
        return f"{self.disk.describe()}\n{address} on network card {where}"


def plan(now: Running, place: Place, node: Member, system: str = "") -> Plan:
    """What writing this machine would do.

    Raises RefusedError, for an old medium too, and where nobody could log in.

    system: its disk's serial number, "" for what the file says or leaves. A disk that holds its
    state already has its network too: no card is asked for.
    """
    if now.version < place.system_floor:
        raise RefusedError(
            f"this medium has version {now.version}, site {place.name} takes "
            f"{place.system_floor} or newer (spec.systemFloor)",
            hint="take the newer medium",
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
    """Raises RefusedError where nobody could log in to what is written: there is no password."""
    if not place.ssh.authorized_keys:
        raise RefusedError(
            f"nobody could log in: site {place.name} names no public key, and there is no password",
            hint="name one in spec.ssh.authorizedKeys; in the guided way, have it as a "
            "file *.pub at the top of the stick",
        )
    if (place.ssh.user, place.ssh.port) != (USER, PORT):
        raise RefusedError(
            f"site {place.name} logs in as {place.ssh.user} at port {place.ssh.port}, and what a "
            f"medium writes knows {USER} and port {PORT} alone",
            hint="take user and port out of spec.ssh",
        )


def with_card(disk: writing.Plan, node: Member, cards: Mapping[str, Card]) -> Plan:
    """The whole plan. Raises RefusedError where the network card is not clear."""
    mac = identity.card(node, cards)
    return Plan(disk, mac, cards.get(mac))


def write_system(
    now: Running, place: Place, node: Member, files: Mapping[str, tuple[str, int]], wanted: Plan
) -> None:
    """Write the disk, and have the firmware start it. The medium has been checked.

    files: what the state begins with besides name, network and keys: text and mode by path.
    """
    disk = wanted.disk
    with tempfile.TemporaryDirectory() as folder:
        begun = writing.seeded(Path(folder), {**identity.state(place, node, wanted.mac), **files})
        writing.write(now, disk, begun)
    if disk.done:
        log.info("Nothing to do: take the medium out and restart.")
        return
    writing.start_from(disk)
    log.info(f"Done: {node.name} starts from disk {disk.serial}.")


def worker_files(join: Join, worker: Worker) -> dict[str, tuple[str, int]]:
    """What a worker's state begins with besides: its own token, and the CA where roles look."""
    return {
        JOIN: (join_yaml.text(join_yaml.alone(join, worker)), 0o600),
        str(script.SITE_CA).lstrip("/"): (join.ca, 0o644),
    }
