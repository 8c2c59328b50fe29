"""Find the disks of an imported pool, and check that it is the pool of the spec. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from keystone.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

    from keystone.hosts.facts import DiskFacts, PoolFacts
    from keystone.storage.spec import Spec


def require_same(
    spec: Spec, pool: PoolFacts, disks: Sequence[DiskFacts], every: Sequence[DiskFacts]
) -> None:
    """Raise RefusedError when the imported pool of the spec's name is not the pool of the spec.

    disks: those of the spec. every: all disks of the host.
    """
    wanted = sorted(disk.serial for disk in disks)
    held = sorted(members(pool, every, wanted))
    kinds = {vdev.kind for vdev in pool.vdevs}
    kind = "disk" if spec.layout == "single" else spec.layout
    problems = []
    if held != wanted:
        problems.append(f"is on {', '.join(held)}, but the spec names {', '.join(wanted)}")
    if kinds != {kind}:
        problems.append(f"has layout {', '.join(sorted(kinds))}, but the spec has {spec.layout}")
    if pool.ashift != spec.ashift:
        problems.append(f"has ashift {pool.ashift}, but the spec has {spec.ashift}")
    if problems:
        raise RefusedError(
            f"pool {pool.name} (guid {pool.guid}) {'; '.join(problems)}",
            hint=f"correct the site file: zpool status {pool.name} shows the pool. Only if it does "
            f"not belong to this site, export it: zpool export {pool.name}",
        )


def members(pool: PoolFacts, every: Sequence[DiskFacts], wanted: Container[str]) -> tuple[str, ...]:
    """Return the serial numbers of a pool's disks, one per member; a path if it is unknown.

    While a disk replaces another one, both are one member: this returns the one in `wanted`.
    """
    names = {_disk(name): disk.serial for disk in every for name in (disk.path, *_links(disk))}
    found = []
    for vdev in pool.vdevs:
        for place in vdev.places:
            serials = [names.get(_disk(path), path) for path in place]
            found.append(next((s for s in serials if s in wanted), serials[-1]))
    return tuple(found)


def _links(disk: DiskFacts) -> Iterator[str]:
    for link in disk.by_id:
        yield f"/dev/disk/by-id/{link.rpartition('/')[2]}"


def _disk(path: str) -> str:
    """Return the disk of a partition: ".../nvme-X_S-part1" or "/dev/nvme0n1p1" without suffix."""
    by_id = re.sub(r"-part\d+$", "", path)
    return re.sub(r"^(/dev/(?:nvme\d+n\d+(?=p)|[sv]d[a-z]+(?=\d)))p?\d+$", r"\1", by_id)
