"""Variables of the role `seed`: the few packages that are needed before the store exists."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keystone.cluster.context import Context

DIRECTORY = "/var/lib/keystone/seed"
"""A flat repository on the host (*.deb, Packages); the engine copies it there."""
PACKAGES = ("chrony",)
ZFS_PACKAGES = ("nvme-cli", "python3-pyzfs", "zfsutils-linux")
MODULES = "zfs-modules-"
SMALL_ARC = 256 * 1024**2
"""Bytes of cache for ZFS on emulated machines, which have 2 to 3 GiB."""


def variables(context: Context) -> dict[str, object]:
    """Return the role's variables. All module packages are installed, one for each kernel."""
    modules = [item.name for item in context.bundle.of_kind("deb") if item.name.startswith(MODULES)]
    emulated = context.site.patience.profile == "emulated"
    zfs = context.site.storage.on_pool
    return {
        "seed_directory": DIRECTORY,
        "seed_packages": sorted({*PACKAGES, *((*ZFS_PACKAGES, *modules) if zfs else ())}),
        "seed_zfs": zfs,
        "seed_arc_max": SMALL_ARC if emulated else 0,
    }
