"""How the cluster admits a node: reserve its name, sign its one request. By kubectl.

The join service acts as a user of its own, who may create certificate requests, approve those of
kubelets, read nodes, create bare ones, and nothing else (roles/addons, join.yaml.j2). Revoking
needs an administrator. A request is an object named after the node: if two Primers admit one name
at the same time, the API server accepts only one. The Node that is created with it reserves the
name for as long as a certificate can be valid.
"""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from keystone import log, run
from keystone.cluster import kubeadm
from keystone.errors import HostError, KeystoneError, RefusedError
from keystone.join import identity as join_identity
from keystone.pki.plan import JOIN_USER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keystone.join.identity import Identity, KeyRequest

ADMIN = kubeadm.ADMIN_CONF
SIGNER = "kubernetes.io/kube-apiserver-client-kubelet"
LIFETIME = 90 * 24 * 3600
"""Validity of a node's first certificate in seconds; later ones have the same."""
REVOKED = "keystone-revoked-nodes"
"""The ConfigMap in kube-system whose keys are the names of revoked nodes."""
JOIN_KEY = "keystone/join-key"
"""Annotation of a Node that was created with a request: the SHA-256 of its key, hex.

It shows for which key the name is reserved once the cluster has deleted the request. Only
administrators can change it (roles/addons, join.yaml.j2).
"""
SIGN_SECONDS = 120


class Runner(Protocol):
    """A host on which kubectl runs: run.Host, or this machine."""

    def run(
        self, argv: Sequence[str], *, data: str | None = None, check: bool = True
    ) -> run.Result:
        """As keystone.run.Host.run."""


class Here:
    """A Runner on this machine. Raises HostError as run.Host does."""

    def run(
        self, argv: Sequence[str], *, data: str | None = None, check: bool = True
    ) -> run.Result:
        """Run a command as `run.run` does, with a timeout that fits a request."""
        try:
            return run.run(argv, data=data, check=check, timeout=120)
        except run.CommandError as error:
            raise HostError(error.message) from error


class TakenError(RefusedError):
    """A node of that name exists or was revoked. The text is for the machine's owner."""


@dataclass(frozen=True)
class NameState:
    """The state of a name in the cluster. mine: it has the service's request for this same key.

    kept: the Node was created for this same key. certificate: PEM, "" until it is signed.
    """

    node: bool = False
    kept: bool = False
    revoked: bool = False
    request: bool = False
    mine: bool = False
    certificate: str = ""


def request_name(node: str) -> str:
    """Return the name of the object that reserves a node's name."""
    return f"keystone-join-{node}"


def read(listed: Mapping[str, Any], request: KeyRequest, users: Sequence[str]) -> NameState:
    """Parse a List of the existing node, request and ConfigMap. users: whose requests count."""
    found = {(item["kind"], item["metadata"]["name"]): item for item in listed.get("items", [])}
    revoked = found.get(("ConfigMap", REVOKED), {}).get("data") or {}
    csr = found.get(("CertificateSigningRequest", request_name(request.name)))
    node = found.get(("Node", request.name))
    keys = node["metadata"].get("annotations") or {} if node else {}
    mine, certificate = False, ""
    if csr is not None:
        mine = csr["spec"].get("username") in users and _same(csr, request)
        certificate = csr.get("status", {}).get("certificate", "")
    return NameState(
        node=node is not None,
        kept=keys.get(JOIN_KEY) == request.key,
        revoked=request.name in revoked,
        request=csr is not None,
        mine=mine,
        certificate=base64.b64decode(certificate).decode() if mine else "",
    )


def _same(csr: Mapping[str, Any], request: KeyRequest) -> bool:
    """True if the stored request has exactly the bytes that this service makes for key and name.

    Equal meaning is not enough: the API server's PEM parser may read other bytes differently.
    """
    pem = base64.b64decode(csr["spec"].get("request", "")).decode(errors="replace")
    try:
        found = join_identity.checked(pem, request.name)
    except KeystoneError:
        return False
    return (found.pem, found.key) == (pem, request.key)


def require_free(seen: NameState, name: str, *, again: bool) -> None:
    """Raise TakenError unless the name is free. again: its token was used with this key before."""
    if seen.revoked:
        raise TakenError(f"the name {name} was revoked on this site: give the machine another name")
    own = again or seen.mine or seen.kept
    if (seen.node and not own) or (seen.request and not seen.mine):
        raise TakenError(
            f"a node {name} exists or is joining now: give the machine another name. If it is "
            f"this same machine, reinstalled, run on a Primer: kubectl delete node/{name} "
            f"csr/{request_name(name)}"
        )


@dataclass(frozen=True)
class Cluster:
    """The API server, as one user. host: where kubectl runs. config: the kubeconfig.

    authority: the file of the CA that nodes shall trust. users: whose requests count as ours.
    """

    host: Runner
    config: str = ADMIN
    authority: str = kubeadm.AUTHORITY
    users: tuple[str, ...] = (JOIN_USER, "kubernetes-admin", "kubernetes-super-admin")

    def reserve(self, request: KeyRequest, *, again: bool) -> None:
        """Reserve the name for that key; sign nothing yet. Raises TakenError, HostError."""
        seen = self._observe(request)
        require_free(seen, request.name, again=again)
        if not seen.mine:
            self._kubectl("create", "-f", "-", data=json.dumps(_document(request)))
        if not seen.node:  # the Node keeps the name: the cluster deletes a request after an hour
            self._kubectl("create", "-f", "-", data=json.dumps(_node(request)))

    def sign(self, request: KeyRequest) -> Identity:
        """Have the reserved request signed, and no other. Raises TakenError, HostError."""
        name = request_name(request.name)
        self._reserved(request)  # before approval: a signature cannot be withdrawn
        self._kubectl("certificate", "approve", name)
        deadline = time.monotonic() + SIGN_SECONDS
        while True:
            seen = self._reserved(request)
            if seen.certificate:
                break
            if time.monotonic() > deadline:
                raise HostError(
                    f"{name} was approved, but not signed within {SIGN_SECONDS} s",
                    hint="check that the controller manager is running",
                )
            time.sleep(0.2)
        authority = self.host.run(["cat", self.authority]).stdout
        return join_identity.Identity(join_identity.issued(seen.certificate, request), authority)

    def _reserved(self, request: KeyRequest) -> NameState:
        seen = self._observe(request)
        require_free(seen, request.name, again=True)
        if not seen.mine:
            raise TakenError(
                f"somebody deleted the request {request_name(request.name)} of {request.name}"
            )
        return seen

    def revoke(self, name: str) -> None:
        """Make a node's identity useless; needs an administrator. Raises HostError.

        Kubernetes cannot revoke a certificate. So a policy refuses the name first: then the machine
        cannot create the objects again that are deleted next (docs/adr/0063).
        """
        patch = json.dumps({"data": {name: time.strftime("%FT%TZ", time.gmtime())}})
        config = ("-n", "kube-system", "configmap", REVOKED)
        self._kubectl("patch", *config, "--type=merge", "-p", patch)
        absent_ok = "--ignore-not-found"
        self._kubectl("delete", "csr", *self._requests(name), absent_ok)
        self._kubectl("delete", "node", name, absent_ok)
        pods = ("pods", "--all-namespaces", f"--field-selector=spec.nodeName={name}")
        self._kubectl("delete", *pods, "--force", "--grace-period=0", "--wait=false", absent_ok)

    def _requests(self, node: str) -> list[str]:
        """Return the request that admitted the node, and those of its renewals."""
        listed = json.loads(self._kubectl("get", "csr", "-o", "json"))["items"]
        user = f"{join_identity.USER_PREFIX}{node}"
        renewals = [c["metadata"]["name"] for c in listed if c["spec"].get("username") == user]
        return [request_name(node), *renewals]

    def _observe(self, request: KeyRequest) -> NameState:
        items = []
        for kind, name in (("node", request.name), ("csr", request_name(request.name)),
                           ("configmap", REVOKED)):  # fmt: skip
            space = ("-n", "kube-system") if kind == "configmap" else ()
            found = self._kubectl("get", kind, name, *space, "--ignore-not-found", "-o", "json")
            items += [json.loads(found)] if found.strip() else []
        return read({"items": items}, request, self.users)

    def _kubectl(self, *words: str, data: str | None = None) -> str:
        argv = ["kubectl", f"--kubeconfig={self.config}", "--request-timeout=60s", *words]
        return self.host.run(argv, data=data).stdout


def _document(request: KeyRequest) -> dict[str, object]:
    return {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": request_name(request.name)},
        "spec": {
            "request": base64.b64encode(request.pem.encode()).decode(),
            "signerName": SIGNER,
            "expirationSeconds": LIFETIME,
            "usages": ["digital signature", "client auth"],
        },
    }


def _node(request: KeyRequest) -> dict[str, object]:
    """Return a bare Node: kubelet finds it and fills it in (tryRegisterWithAPIServer)."""
    metadata = {"name": request.name, "annotations": {JOIN_KEY: request.key}}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata}


def give(host: Runner, name: str, control_plane: Runner, installer: str) -> None:
    """Give a Primer that carries pods its identity, as administrator.

    The key is made on the Primer and stays there; only public data is transferred. Raises
    HostError, and TakenError if another machine has that name.
    """
    asked = host.run([installer, "node-identity", "request", name]).stdout
    request = join_identity.checked(asked, name)
    cluster = Cluster(control_plane)
    held = host.run([installer, "node-identity", "held", name]).stdout.strip()
    cluster.reserve(request, again=held == "yes")
    identity = cluster.sign(request)
    answer = json.dumps({"certificate": identity.certificate, "authority": identity.authority})
    host.run([installer, "node-identity", "place"], data=answer)
    log.debug(f"{name}: now has its node identity")
