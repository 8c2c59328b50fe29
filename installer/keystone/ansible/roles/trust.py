"""Variables of the role `trust`: the file that holds this host's keys, never the keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from keystone.pki import seal
from keystone.pki.host_files import TREE, deployment_file, placed

if TYPE_CHECKING:
    from keystone.cluster.context import Context

SITE_CERTIFICATES = Path("/etc/keystone/pki")
CONSUMERS = ("keystone-registry", "nginx", "keystone-join")
"""Units that read the site's certificate only at start; etcd and API server read it again."""


def variables(context: Context) -> dict[str, object]:
    """Return the role's variables, without `trust_inputs`."""
    paths = [file.path for file in placed(context.host)]
    site = [path for path in paths if Path(path).parent == SITE_CERTIFICATES]
    return {
        "trust_source": str(deployment_file(Path(TREE), context.host.name)),
        "trust_digest": context.trust,
        "trust_paths": paths,
        "trust_seal_command": "/usr/local/bin/keystone-install",
        "trust_seal_configuration": str(seal.PLACES.config),
        "trust_consumers": [{"name": name, "reads": site} for name in CONSUMERS],
    }
