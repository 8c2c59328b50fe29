"""Variables of the role `time`: the Primers are the site's clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone.site import host_profile

if TYPE_CHECKING:
    from keystone.cluster.context import Context


def variables(context: Context) -> dict[str, object]:
    """Return the role's variables: Primers are peers and serve the nodes' network."""
    others = [str(primer.address) for primer in context.site.primers if primer != context.host]
    primer = context.host in context.site.primers
    return {
        "time_sources": list(context.site.time_sources) if primer else [],
        "time_peers": others if primer else [],
        "time_servers": [] if primer else others,
        "time_preferred": str(context.site.primers[0].address),
        "time_allow": [str(context.site.networks.nodes)] if primer else [],
        "time_orphan": primer,
        "time_sets_clock": host_profile.of(context.site).sets_clock,
    }
