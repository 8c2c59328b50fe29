"""The CA in kubeconfigs: kubeadm writes one certificate, a rotation needs two there."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import yaml

from keystone.cluster import kubeadm
from keystone.errors import RefusedError
from keystone.files import write_whole

FILES = (
    kubeadm.ADMIN_CONF,
    "/etc/kubernetes/super-admin.conf",
    "/etc/kubernetes/controller-manager.conf",
    "/etc/kubernetes/scheduler.conf",
    kubeadm.KUBELET_CONF,
)
"""Those of a control plane. The second one and later ones have no super-admin.conf."""


def trusts(file: Path, authority: str) -> bool:
    """Return whether all clusters in a kubeconfig are verified by these certificates (PEM).

    Raises RefusedError for a file that is not a kubeconfig.
    """
    return all(_authority(one) == authority.strip() for one in _clusters(_load(file), file))


def trust(file: Path, authority: str) -> bool:
    """Write these certificates (PEM) into a kubeconfig; return whether it changed. Raises as above.

    Everything else stays.
    """
    if trusts(file, authority):
        return False
    document = _load(file)
    for cluster in _clusters(document, file):
        cluster.pop("certificate-authority", None)
        cluster["certificate-authority-data"] = base64.b64encode(authority.encode()).decode()
    write_whole(file, yaml.safe_dump(document, sort_keys=False).encode(), 0o600)
    return True


def _authority(cluster: dict[str, Any]) -> str:
    data = str(cluster.get("certificate-authority-data", ""))
    return base64.b64decode(data).decode(errors="replace").strip()


def _load(file: Path) -> Any:  # noqa: ANN401 YAML
    try:
        return yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise _refusal(file) from error


def _clusters(document: Any, file: Path) -> list[dict[str, Any]]:  # noqa: ANN401 YAML
    try:
        return [entry["cluster"] for entry in document["clusters"]]
    except (TypeError, KeyError) as error:
        raise _refusal(file) from error


def _refusal(file: Path) -> RefusedError:
    return RefusedError(
        f"{file}: not a kubeconfig",
        hint="make it again: kubeadm init phase kubeconfig, with "
        f"--config {kubeadm.CONFIG}/kubeadm.yaml",
    )
