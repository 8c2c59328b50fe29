"""Variables of the role `seal`: where tang listens, and which Primers open this one's keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone.ansible.roles.endpoint import package_source
from keystone.pki import seal

if TYPE_CHECKING:
    from keystone.cluster.context import Context


def variables(context: Context) -> dict[str, object]:
    """Return the role's variables, without `seal_inputs`."""
    who = seal.peers(context.site, context.host, context.thumbprints)
    return {
        "seal_packages": ["tang", "clevis"],
        "seal_package_source": package_source(context)[0],
        "seal_listen": f"{context.host.address}:{seal.PORT}",
        "seal_configuration": str(seal.PLACES.config),
        "seal_peers": seal.configuration(who),
        "seal_command": "/usr/local/bin/keystone-install",
    }
