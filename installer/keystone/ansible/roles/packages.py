"""What the role `packages` is told: a worker's packages come from a Primer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone.ansible.roles.containerd import primers_for
from keystone.ansible.roles.endpoint import SITE_CA, apt_line

if TYPE_CHECKING:
    from keystone.cluster.context import Context


def variables(context: Context) -> dict[str, object]:
    """Every variable of the role but `packages_inputs`."""
    return {
        # The clock first: certificates are judged by it. The other roles bring their own.
        "packages_names": ["chrony"],
        "packages_source": apt_line(context),
        "packages_server": str(primers_for(context)[0].address),
        "packages_ca_file": SITE_CA,
    }
