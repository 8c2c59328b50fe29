"""What the role `maintain` is told: what the timer runs, and how often."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone.cluster.snapshot_files import FOLDER
from keystone.site.model import INSTALLED

if TYPE_CHECKING:
    from keystone.cluster.context import Context

KNOWN_HOSTS = "/etc/keystone/known_hosts"
"""The ssh host keys that are confirmed: any Primer can reach the others."""
INTERVAL_SECONDS = 300
"""A snapshot is at most this old, and one run longer."""


def variables(context: Context) -> dict[str, object]:
    """Every variable of the role but `maintain_inputs`."""
    slow = context.site.patience.profile == "emulated"
    return {
        "maintain_command": "/usr/local/bin/keystone-install",
        "maintain_interval_seconds": INTERVAL_SECONDS,
        "maintain_timeout_seconds": 14400 if slow else 3600,
        "maintain_snapshots": str(FOLDER),
        "maintain_on_pool": context.site.storage.on_pool,
        "maintain_site_files": [
            {"path": path, "mode": mode, "content": content}
            for path, mode, content in (
                (str(INSTALLED), "0600", context.document),
                (KNOWN_HOSTS, "0644", context.known_hosts),
            )
            if content
        ],
    }
