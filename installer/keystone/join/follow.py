"""A node follows the site's CAs: it fetches what to trust, replaces its files, and says so.

Nobody logs in to workers. A timer on each fetches ANCHORS from any Primer, over TLS verified by
what the node trusts now, so that a rotation reaches it while both CAs are trusted. A node whose
own certificate is of an earlier CA requests another one, as itself; the cluster signs renewals of
nodes without a person. What it has taken is an annotation of its Node.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import http.client
import json
import secrets
import ssl
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import log, run
from keystone.cluster import kubeadm, kubeadm_leaves, kubeconfigs, readers
from keystone.errors import HostError, RefusedError
from keystone.files import link, write_whole
from keystone.join import cluster, identity, script, standing
from keystone.pki import certificates, host_files

if TYPE_CHECKING:
    from collections.abc import Sequence

PATH = f"/{host_files.ANCHORS}"
"""Where nginx serves the file (roles/mirror)."""
ANNOTATION = "keystone/trust"
"""On each Node: the digest of the anchors that it has taken, all of them."""
KUBERNETES_CA = Path("/etc/keystone/pki/kubernetes-ca.crt")
NEW_KEY = Path("/var/lib/keystone/join/renewal.key")
LIMIT = 64 * 1024
SECONDS = 120


@dataclass(frozen=True)
class Anchors:
    """What a node trusts, PEM; of each CA the one that signs comes first.

    since: before this moment no certificate of a node may have been issued; None for any.
    """

    site: str
    kubernetes: str
    since: dt.datetime | None = None

    @property
    def digest(self) -> str:
        """16 hex digits that identify the content."""
        whole = f"{self.site}\0{self.kubernetes}\0{self.since}"
        return hashlib.sha256(whole.encode()).hexdigest()[:16]


def parse(text: str, where: str) -> Anchors:
    """Parse ANCHORS. Raises HostError unless it has only CA certificates, for both CAs."""
    try:
        found = dict(json.loads(text))
        since = dt.datetime.fromisoformat(found["since"]) if found.get("since") else None
        if since is not None and since.tzinfo is None:
            raise ValueError("since has no time zone")
        anchors = Anchors(str(found["site"]), str(found["kubernetes"]), since)
    except (ValueError, TypeError, KeyError) as error:
        raise HostError(f"{where}: not a list of CAs: {error!r}") from error
    for pem in (anchors.site, anchors.kubernetes):
        try:
            certificates.require_authorities(pem.encode(), where)
        except RefusedError as error:
            raise HostError(error.message, hint="look at that Primer: trust verify") from error
    return anchors


def fetch(primers: Sequence[str]) -> Anchors:
    """Return what the first Primer that answers serves. Raises HostError if none does."""
    failed = []
    for address in primers:
        try:
            return parse(_get(address), f"https://{address}:{script.FILES_PORT}{PATH}")
        except (OSError, http.client.HTTPException, HostError) as error:
            failed.append(f"{address}: {error}")
    raise HostError(
        f"no Primer says what to trust: {'; '.join(failed)}",
        hint="if this machine was off while the site's CA was rotated, join it again",
    )


def _get(address: str) -> str:
    context = ssl.create_default_context(cafile=str(script.SITE_CA))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    link_ = http.client.HTTPSConnection(address, script.FILES_PORT, timeout=60, context=context)
    with closing(link_):
        link_.request("GET", PATH)
        answer = link_.getresponse()
        if answer.status != http.client.OK:
            raise OSError(f"HTTP {answer.status}")
        return answer.read(LIMIT).decode(errors="replace")


def take(anchors: Anchors, hostname: str) -> list[str]:
    """Make this node trust the anchors, with a certificate of the CA that signs; say what changed.

    Each step may be interrupted and repeated. Raises HostError when the cluster does not sign.
    """
    changed = [
        str(file)
        for file, pem in (
            (script.SITE_CA, anchors.site),
            (KUBERNETES_CA, anchors.kubernetes),
            (Path(kubeadm.AUTHORITY), anchors.kubernetes),
        )
        if _written(file, pem)
    ]
    if kubeconfigs.trust(identity.KUBELET_CONF, anchors.kubernetes):
        changed.append(str(identity.KUBELET_CONF))
    ours = readers.named("kubelet", "haproxy")
    readers.restart(ours, SECONDS)
    if not _is_sound(anchors):
        _renew(anchors.kubernetes, hostname)
        changed.append(identity.CURRENT)
        readers.restart(ours, SECONDS)
    if _said(hostname) != anchors.digest:
        words = ["annotate", "--overwrite", "node", hostname, f"{ANNOTATION}={anchors.digest}"]
        _kubectl(*words)
    return changed


def _written(file: Path, pem: str) -> bool:
    if file.exists() and file.read_text() == pem:
        return False
    write_whole(file, pem.encode(), 0o644)
    return True


def _is_sound(anchors: Anchors) -> bool:
    """Return whether kubelet's certificate is of the CA that signs, and young enough."""
    file = identity.KUBELET_PKI / identity.CURRENT
    own = certificates.load_certificate(file.read_bytes(), str(file))
    signer = certificates.load_certificate(anchors.kubernetes.encode(), "the anchors")
    young = certificates.is_since(own, anchors.since, kubeadm_leaves.BACKDATE)
    return certificates.issued_by(own, signer) and young


def _renew(authority: str, hostname: str) -> None:
    """Request a certificate for a new key, as this node; kubelet reads it when it starts."""
    NEW_KEY.parent.mkdir(parents=True, exist_ok=True)
    request = identity.checked(identity.made(hostname, NEW_KEY), hostname)
    pem = identity.issued(_signed(request, hostname), request)
    new = certificates.load_certificate(pem.encode(), "the certificate from the cluster")
    signer = certificates.load_certificate(authority.encode(), "the anchors")
    if not certificates.issued_by(new, signer):
        raise HostError(
            "the cluster still signs with the CA of before",
            hint="the next run tries again; look at the controller managers if it stays so",
        )
    pair = identity.KUBELET_PKI / f"kubelet-client-{certificates.fingerprint(new)[:16]}.pem"
    write_whole(pair, pem.encode() + NEW_KEY.read_bytes(), 0o600)
    readers.forget("kubelet")  # before: cut after the next line, a later run still restarts it
    link(identity.KUBELET_PKI / identity.CURRENT, pair)
    NEW_KEY.unlink()


def _signed(request: identity.KeyRequest, hostname: str) -> str:
    name = f"keystone-renewal-{hostname}-{secrets.token_hex(4)}"
    document = {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": name},
        "spec": {
            "request": base64.b64encode(request.pem.encode()).decode(),
            "signerName": cluster.SIGNER,
            "usages": ["digital signature", "client auth"],
        },
    }
    _kubectl("create", "-f", "-", data=json.dumps(document))
    deadline = time.monotonic() + SECONDS
    while True:
        answer = json.loads(_kubectl("get", "csr", name, "-o", "json"))
        if certificate := answer.get("status", {}).get("certificate", ""):
            return base64.b64decode(certificate).decode()
        if time.monotonic() > deadline:
            raise HostError(
                f"{name} was not signed within {SECONDS} s",
                hint="check that the controller manager is running",
            )
        time.sleep(0.5)


def _said(hostname: str) -> str:
    node = json.loads(_kubectl("get", "node", hostname, "-o", "json"))
    return str((node["metadata"].get("annotations") or {}).get(ANNOTATION, ""))


def _kubectl(*words: str, data: str | None = None) -> str:
    try:
        return run.run([*standing.KUBECTL, *words], data=data, timeout=SECONDS).stdout
    except run.CommandError as error:
        raise HostError(error.message, hint="the next run tries again") from error


def follow(primers: Sequence[str], hostname: str) -> None:
    """Fetch, take, and log what changed."""
    changed = take(fetch(primers), hostname)
    log.info(f"changed: {', '.join(changed)}" if changed else "Nothing to do", event="follow")
