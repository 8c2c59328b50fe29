"""Variables of the role `join`: the join service's configuration, from site and bundle."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from keystone.cluster import join_config, kubeadm

if TYPE_CHECKING:
    from keystone.cluster.context import Context

CREDENTIALS = "/run/credentials/keystone-join.service"
"""The folder in which systemd gives the service its key (systemd.exec(5), LoadCredential)."""


def variables(context: Context) -> dict[str, object]:
    """Return the role's variables, without `join_inputs`."""
    slow = context.site.patience.profile == "emulated"
    return {
        "join_config": join_config.dump(context),
        "join_kubeconfig": kubeconfig(),
        "join_command": "/usr/local/bin/keystone-install",
        "join_installer": str(context.bundle.of_kind("installer")[0].digest),
        "join_socket": str(join_config.SOCKET),
        "join_port": join_config.PORT,
        "join_certificate": "/etc/keystone/pki/site.crt",
        "join_key": "/etc/keystone/pki/site.key",
        "join_request_seconds": 60 if slow else 10,
    }


def kubeconfig(server: str = f"https://{kubeadm.ENDPOINT}", folder: str = CREDENTIALS) -> str:
    """Return a kubeconfig with the service's user (JSON is YAML), but without its key."""
    user = {"client-certificate": f"{folder}/join.crt", "client-key": f"{folder}/join.key"}
    cluster = {"server": server, "certificate-authority": kubeadm.AUTHORITY}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "site", "cluster": cluster}],
        "contexts": [{"name": "join", "context": {"cluster": "site", "user": "join"}}],
        "current-context": "join",
        "users": [{"name": "join", "user": user}],
    }
    return json.dumps(document, indent=1) + "\n"
