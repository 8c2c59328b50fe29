"""What a machine is already, before it becomes a worker: nothing, that very node, or another's."""

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
"""What asks the API as this node."""


def require_own(hostname: str, ca_file: Path, site_ca: Path, done: Path) -> None:
    """Refuse a machine that is a node of another name, site or cluster, and a control plane.

    ca_file: the CA of the site to join. site_ca: where that of a node's own site lies; `main` of
    the client puts it there before the identity. done: the mark of a whole join. Raises
    RefusedError, before anything is written or asked.
    """
    if not any(map(Path.exists, (done, identity.KUBELET_CONF, CONTROL_PLANE))):
        return
    own = identity.held(hostname) and _one_key(site_ca, ca_file)
    if CONTROL_PLANE.exists() or not own:
        raise RefusedError(
            f"this machine is part of a cluster already, and not as the worker {hostname} of "
            "this site",
            hint="to make it that one, take it out there first, and install it anew, or run here: "
            f"kubeadm reset && rm -r {done.parent}",
        )


def require_kept(hostname: str) -> None:
    """Refuse a node that the site has taken out since it joined. Raises RefusedError.

    Its certificate still reads (docs/reference/threats.md, "What nothing stops yet"). Where the API
    does not answer, nothing is known.
    """
    asked = [*KUBECTL, "get", "node", hostname, "--ignore-not-found", "--output", "name"]
    said = run.run(asked, check=False)
    if said.returncode == 0 and not said.stdout.strip():
        raise RefusedError(
            f"{hostname} joined once, and the site has no such node any more: it was taken out",
            hint="to have this machine again, install it anew and give it another name",
        )


def _one_key(first: Path, second: Path) -> bool:
    """Whether two files are one authority, of which a certificate may have been made anew."""
    try:
        one, two = (
            certificates.load_certificate(file.read_bytes(), str(file)) for file in (first, second)
        )
    except (OSError, KeystoneError):
        return False
    return certificates.pin(one) == certificates.pin(two)
