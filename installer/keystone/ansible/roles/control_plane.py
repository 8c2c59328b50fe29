"""Variables of the role `control_plane`: kubeadm's documents; one host starts the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone.ansible.roles.node import kubelet_files, programs
from keystone.cluster import audit, kubeadm

if TYPE_CHECKING:
    from keystone.cluster.context import Context


def variables(context: Context) -> dict[str, object]:
    """Return the role's variables, without `control_plane_inputs`."""
    config = kubeadm.CONFIG
    documents = {
        f"{config}/kubeadm.yaml": kubeadm.init_documents(context),
        f"{config}/join.yaml": kubeadm.join_document(context, control_plane=True),
        audit.policy_path(): audit.policy(),
    }
    for name, text in kubeadm.patches(context.site).items():
        documents[f"{config}/patches/{name}"] = text
    return {
        "control_plane_programs": programs(context),
        "control_plane_files": [
            *kubelet_files(context),
            *({"path": path, "mode": "0600", "content": text} for path, text in documents.items()),
        ],
        "control_plane_first": context.starts_cluster,
        "control_plane_name": context.host.name,
        "control_plane_config": config,
        "control_plane_lock_seconds": kubeadm.patience_of(context.site).wait * 2,
    }
