"""Which disks an imported pool is on, and whether it is the one that a site means. Pure."""

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
    """Raise RefusedError where the imported pool of that name is not the one the spec means."""
    wanted = sorted(disk.serial for disk in disks)
    held = sorted(members(pool, every, wanted))
    kinds = {vdev.kind for vdev in pool.vdevs}
    kind = "disk" if spec.layout == "single" else spec.layout
    problems = []
    if held != wanted:
        problems.append(f"is on {', '.join(held)}, the spec names {', '.join(wanted)}")
    if kinds != {kind}:
        problems.append(f"is made of {', '.join(sorted(kinds))}, the spec wants {spec.layout}")
    if pool.ashift != spec.ashift:
        problems.append(f"has ashift {pool.ashift}, the spec wants {spec.ashift}")
    if problems:
        raise RefusedError(
            f"pool {pool.name} (guid {pool.guid}) {'; '.join(problems)}",
            hint=f"correct the site file: zpool status {pool.name} shows the pool. Only if it is "
            f"none of this site's, move it away: zpool export {pool.name}",
        )


def members(pool: PoolFacts, every: Sequence[DiskFacts], wanted: Container[str]) -> tuple[str, ...]:
    """Serial numbers of the disks of a pool, one for each place; a path where none is known.

    While one disk takes over for another both hold the place: the one that is wanted counts.
    """
    names = {_whole(name): disk.serial for disk in every for name in (disk.path, *_links(disk))}
    found = []
    for vdev in pool.vdevs:
        for place in vdev.places:
            serials = [names.get(_whole(path), path) for path in place]
            found.append(next((s for s in serials if s in wanted), serials[-1]))
    return tuple(found)


def _links(disk: DiskFacts) -> Iterator[str]:
    for link in disk.by_id:
        yield f"/dev/disk/by-id/{link.rpartition('/')[2]}"


def _whole(path: str) -> str:
    """The disk of ZFS's data partition: ".../nvme-X_S-part1" and "/dev/nvme0n1p1" without it."""
    by_id = re.sub(r"-part\d+$", "", path)
    return re.sub(r"^(/dev/(?:nvme\d+n\d+(?=p)|[sv]d[a-z]+(?=\d)))p?\d+$", r"\1", by_id)
