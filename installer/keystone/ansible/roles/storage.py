"""Variables of the role `storage`: the pool on this host's disks and its datasets, or folders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone.storage.plan import spec_of

if TYPE_CHECKING:
    from keystone.cluster.context import Context


def variables(context: Context) -> dict[str, object]:
    """Return the role's variables. storage_spec: the input of `keystone-install storage apply`."""
    spec = spec_of(context.site.storage, context.host)
    on_pool = context.site.storage.on_pool
    folders = [] if on_pool else [wanted.mountpoint for wanted in spec.datasets]
    return {
        "storage_on_pool": on_pool,
        "storage_spec": spec.to_json(),
        "storage_folders": [{"path": path, "mode": "0755"} for path in folders],
    }
