"""What the role `control_plane` is told: kubeadm's documents, and who starts the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone.ansible.roles.node import kubelet_files, programs
from keystone.cluster import audit, kubeadm

if TYPE_CHECKING:
    from keystone.cluster.context import Context


def variables(context: Context) -> dict[str, object]:
    """Every variable of the role but `control_plane_inputs`."""
    first = context.host == context.site.control_planes[0]
    config = kubeadm.CONFIG
    documents = {
        f"{config}/kubeadm.yaml": kubeadm.init_documents(context),
        audit.policy_path(): audit.policy(),
    }
    for name, text in kubeadm.patches(context.site).items():
        documents[f"{config}/patches/{name}"] = text
    if not first:
        documents[f"{config}/join.yaml"] = kubeadm.join_document(context, control_plane=True)
    return {
        "control_plane_programs": programs(context),
        "control_plane_files": [
            *kubelet_files(context),
            *({"path": path, "mode": "0600", "content": text} for path, text in documents.items()),
        ],
        "control_plane_first": first,
        "control_plane_name": context.host.name,
        "control_plane_config": config,
        "control_plane_lock_seconds": kubeadm.patience_of(context.site).wait * 2,
    }
