"""Variables of the role `registry`: its program, store and certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone.bundle.model import STORE

if TYPE_CHECKING:
    from keystone.cluster.context import Context

PORT = 5000


def variables(context: Context) -> dict[str, object]:
    """Return the role's variables, without `registry_inputs`."""
    return {
        "registry_archive": context.bundle.item("binary", "registry").path,
        "registry_archive_member": "registry",
        "registry_root": f"{STORE}/registry",
        "registry_mount": STORE,
        "registry_listen": f"0.0.0.0:{PORT}",
        "registry_certificate": "/etc/keystone/pki/site.crt",
        "registry_key": "/etc/keystone/pki/site.key",
    }
