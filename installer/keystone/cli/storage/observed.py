"""What the verbs about disks see of this host."""

from __future__ import annotations

from dataclasses import dataclass

from keystone.errors import HostError
from keystone.hosts.facts import DatasetFacts, DiskFacts, PoolFacts
from keystone.run import CommandError
from keystone.storage import disks, zfs


@dataclass(frozen=True)
class Observed:
    """What storage looks at, of this host, now."""

    disks: tuple[DiskFacts, ...]
    pools: tuple[PoolFacts, ...]
    datasets: tuple[DatasetFacts, ...]


def observe() -> Observed:
    """Look at this host. Raises HostError: what cannot be looked at is not taken for blank."""
    try:
        return Observed(disks.observe(), zfs.pools(), zfs.datasets())
    except CommandError as error:
        raise HostError(error.message, hint=error.hint) from error
