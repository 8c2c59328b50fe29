"""Checks before a machine joins: it must be new, or already this node of this site."""

from __future__ import annotations

from pathlib import Path

from keystone import run
from keystone.cluster import facts
from keystone.errors import KeystoneError, RefusedError
from keystone.hosts import probe
from keystone.join import identity
from keystone.pki import certificates

CONTROL_PLANE = Path(probe.API_SERVER)
KUBECTL = (facts.KUBECTL, "--kubeconfig", str(identity.KUBELET_CONF), "--request-timeout=60s")
"""The command that queries the API as this node."""


def require_own(hostname: str, ca_file: Path, site_ca: Path, done: Path) -> None:
    """Refuse a control plane, and a machine that is a node of another name, site or cluster.

    ca_file: the CA of the site to join. site_ca: the CA of the site that the node belongs to;
    `client.main` writes it before the identity. done: the marker file of a completed join. Raises
    RefusedError, before anything is written or requested.
    """
    if not any(map(Path.exists, (done, identity.KUBELET_CONF, CONTROL_PLANE))):
        return
    own = identity.held(hostname) and _one_key(site_ca, ca_file)
    if CONTROL_PLANE.exists() or not own:
        raise RefusedError(
            f"this machine is already part of a cluster, but not as worker {hostname} of this site",
            hint="to join it, remove it from that cluster, then reinstall its system, or run here: "
            f"kubeadm reset && rm -r {done.parent}",
        )


def require_kept(hostname: str) -> None:
    """Refuse a node that the site has removed since it joined. Raises RefusedError.

    Its certificate can still read (docs/reference/threats.md, "Known gaps"). If the API
    does not answer, the check passes.
    """
    query = [*KUBECTL, "get", "node", hostname, "--ignore-not-found", "--output", "name"]
    result = run.run(query, check=False)
    if result.returncode == 0 and not result.stdout.strip():
        raise RefusedError(
            f"{hostname} joined before, but the site no longer has this node: it was removed",
            hint="to join this machine again, reinstall its system and give it another name",
        )


def _one_key(first: Path, second: Path) -> bool:
    """True if both have a certificate of the same key: one authority, maybe during its rotation."""
    try:
        one, two = (
            {certificates.pin(c) for c in certificates.load_all(file.read_bytes(), str(file))}
            for file in (first, second)
        )
    except (OSError, KeystoneError):
        return False
    return bool(one & two)
