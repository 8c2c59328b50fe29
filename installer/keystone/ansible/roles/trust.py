"""What the role `trust` is told: which file holds this host's keys, never the keys themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from keystone.pki.host_files import deployment_file, placed

if TYPE_CHECKING:
    from keystone.cluster.context import Context

PKI_DIRECTORY = Path("/var/lib/keystone/pki")
SITE_CERTIFICATES = Path("/etc/keystone/pki")
CONSUMERS = ("keystone-registry", "nginx", "keystone-join")
"""Units that read the site's certificate only when they start. etcd and the API server re-read."""


def variables(context: Context) -> dict[str, object]:
    """Every variable of the role but `trust_inputs`."""
    paths = [file.path for file in placed(context.host)]
    site = [path for path in paths if Path(path).parent == SITE_CERTIFICATES]
    return {
        "trust_source": str(deployment_file(PKI_DIRECTORY, context.host.name)),
        "trust_digest": context.deployed,
        "trust_paths": paths,
        "trust_consumers": [{"name": name, "reads": site} for name in CONSUMERS],
    }
