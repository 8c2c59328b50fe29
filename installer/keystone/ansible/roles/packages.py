"""Variables of the role `packages`: a worker installs packages from a Primer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone.ansible.roles.containerd import primers_for
from keystone.ansible.roles.endpoint import SITE_CA, apt_line

if TYPE_CHECKING:
    from keystone.cluster.context import Context


def variables(context: Context) -> dict[str, object]:
    """Return the role's variables, without `packages_inputs`."""
    return {
        # Only the clock, which certificates need to be valid. Other roles install their own.
        "packages_names": ["chrony"],
        "packages_source": apt_line(context),
        "packages_server": str(primers_for(context)[0].address),
        "packages_ca_file": SITE_CA,
    }
