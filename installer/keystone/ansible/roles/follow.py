"""Variables of the role `follow`: which Primers a worker asks what to trust, and how often."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone.ansible.roles.containerd import primers_for

if TYPE_CHECKING:
    from keystone.cluster.context import Context

INTERVAL_SECONDS, SLOW_SECONDS = 60, 300
"""A rotation waits for the last worker."""


def variables(context: Context) -> dict[str, object]:
    """Return the role's variables, without `follow_inputs`."""
    slow = context.site.patience.profile == "emulated"
    return {
        "follow_command": "/usr/local/bin/keystone-install",
        "follow_primers": [str(node.address) for node in primers_for(context)],
        "follow_interval_seconds": SLOW_SECONDS if slow else INTERVAL_SECONDS,
    }
