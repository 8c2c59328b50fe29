"""Role storage: the pool on this host's disks, and its datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone.storage import spec_of

if TYPE_CHECKING:
    from keystone.inventory import Context


def variables(context: Context) -> dict[str, object]:
    """The document that `keystone-install storage apply` reads on the host."""
    return {"storage_spec": spec_of(context.site.storage, context.host).to_json()}
