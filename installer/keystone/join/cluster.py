"""What admitting a node asks of the cluster, by kubectl: is the name free, sign this one request.

The join service does it with a certificate of its own user, which may create certificate requests,
approve those of kubelets, look at nodes, create bare ones, and nothing else (roles/addons,
join.yaml.j2). Revoking needs an administrator. A request is an object named after the node, so that
of two Primers that admit one name at the same moment the API server lets one; the Node that is made
with it keeps the name for as long as a certificate may live.
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
"""Seconds that a node's first certificate lives; what signs later ones is told the same."""
REVOKED = "keystone-revoked-nodes"
"""The ConfigMap in kube-system whose keys are names of nodes that the API server refuses."""
JOIN_KEY = "keystone/join-key"
"""Annotation of a Node that was made with a request: the SHA-256 of the key, hex.

It says for whom the name is kept when the cluster has forgotten the request (roles/addons,
join.yaml.j2, lets nobody but administrators change it).
"""
SIGN_SECONDS = 120


class Runner(Protocol):
    """A host on which kubectl is run: run.Host, or this machine."""

    def run(
        self, argv: Sequence[str], *, data: str | None = None, check: bool = True
    ) -> run.Result:
        """As keystone.run.Host.run."""


class Here:
    """The machine that we are on. Raises HostError as run.Host does."""

    def run(
        self, argv: Sequence[str], *, data: str | None = None, check: bool = True
    ) -> run.Result:
        """`run.run`, with an end that a request can wait for."""
        try:
            return run.run(argv, data=data, check=check, timeout=120)
        except run.CommandError as error:
            raise HostError(error.message) from error


class TakenError(RefusedError):
    """A node of that name is there, or was revoked. The text is for the machine's owner."""


@dataclass(frozen=True)
class Seen:
    """What the cluster knows of a name. mine: our request for this very key is there.

    kept: the Node was made for this very key. certificate: PEM, once it was signed.
    """

    node: bool = False
    kept: bool = False
    revoked: bool = False
    request: bool = False
    mine: bool = False
    certificate: str = ""


def request_name(node: str) -> str:
    """The name of the object that reserves a node's name."""
    return f"keystone-join-{node}"


def read(listed: Mapping[str, Any], request: KeyRequest, users: Sequence[str]) -> Seen:
    """From a List of what there is of node, request, ConfigMap. users: whose requests are ours."""
    found = {(item["kind"], item["metadata"]["name"]): item for item in listed.get("items", [])}
    revoked = found.get(("ConfigMap", REVOKED), {}).get("data") or {}
    csr = found.get(("CertificateSigningRequest", request_name(request.name)))
    node = found.get(("Node", request.name))
    keys = node["metadata"].get("annotations") or {} if node else {}
    mine, certificate = False, ""
    if csr is not None:
        mine = csr["spec"].get("username") in users and _same(csr, request)
        certificate = csr.get("status", {}).get("certificate", "")
    return Seen(
        node=node is not None,
        kept=keys.get(JOIN_KEY) == request.key,
        revoked=request.name in revoked,
        request=csr is not None,
        mine=mine,
        certificate=base64.b64decode(certificate).decode() if mine else "",
    )


def _same(csr: Mapping[str, Any], request: KeyRequest) -> bool:
    """Whether the bytes there are what this service makes of a request of that key and name.

    What it only reads as such, the API server may read as another: its PEM parser is not ours.
    """
    pem = base64.b64decode(csr["spec"].get("request", "")).decode(errors="replace")
    try:
        found = join_identity.checked(pem, request.name)
    except KeystoneError:
        return False
    return (found.pem, found.key) == (pem, request.key)


def judge(seen: Seen, name: str, *, again: bool) -> None:
    """Whether the name is free. again: its token was used with this key. Raises TakenError."""
    if seen.revoked:
        raise TakenError(f"the name {name} was revoked on this site: give the machine another name")
    own = again or seen.mine or seen.kept
    if (seen.node and not own) or (seen.request and not seen.mine):
        raise TakenError(
            f"a node {name} is there or joins just now: give the machine another name. If it is "
            f"this very machine, installed anew, on a Primer: kubectl delete node/{name} "
            f"csr/{request_name(name)}"
        )


@dataclass(frozen=True)
class Cluster:
    """The API server as one user sees it. host: where kubectl runs; config: the kubeconfig.

    authority: the file of the CA that nodes shall trust. users: whose requests are ours.
    """

    host: Runner
    config: str = ADMIN
    authority: str = kubeadm.AUTHORITY
    users: tuple[str, ...] = (JOIN_USER, "kubernetes-admin", "kubernetes-super-admin")

    def reserve(self, request: KeyRequest, *, again: bool) -> None:
        """Take the name for that key, before anything is signed. Raises TakenError, HostError."""
        seen = self._look(request)
        judge(seen, request.name, again=again)
        if not seen.mine:
            self._kubectl("create", "-f", "-", data=json.dumps(_document(request)))
        if not seen.node:  # what lasts: the cluster forgets a request after an hour
            self._kubectl("create", "-f", "-", data=json.dumps(_node(request)))

    def sign(self, request: KeyRequest) -> Identity:
        """Have the reserved request signed, and nothing else. Raises TakenError, HostError."""
        name = request_name(request.name)
        self._admitted(request)  # before it is approved: a signature cannot be taken back
        self._kubectl("certificate", "approve", name)
        deadline = time.monotonic() + SIGN_SECONDS
        while True:
            seen = self._admitted(request)
            if seen.certificate:
                break
            if time.monotonic() > deadline:
                raise HostError(
                    f"{name} was approved and not signed in {SIGN_SECONDS} s",
                    hint="is the controller manager running?",
                )
            time.sleep(0.2)
        authority = self.host.run(["cat", self.authority]).stdout
        return join_identity.Identity(join_identity.issued(seen.certificate, request), authority)

    def _admitted(self, request: KeyRequest) -> Seen:
        seen = self._look(request)
        judge(seen, request.name, again=True)
        if not seen.mine:
            raise TakenError(
                f"the request {request_name(request.name)} of {request.name} was taken away"
            )
        return seen

    def revoke(self, name: str) -> None:
        """Make a node's identity worthless; needs an administrator. Raises HostError.

        A certificate cannot be taken back in Kubernetes. The name is refused by a policy first, so
        that the machine makes nothing again of what is then deleted (docs/adr/0063).
        """
        patch = json.dumps({"data": {name: time.strftime("%FT%TZ", time.gmtime())}})
        config = ("-n", "kube-system", "configmap", REVOKED)
        self._kubectl("patch", *config, "--type=merge", "-p", patch)
        gone = "--ignore-not-found"
        self._kubectl("delete", "csr", *self._requests(name), gone)
        self._kubectl("delete", "node", name, gone)
        pods = ("pods", "--all-namespaces", f"--field-selector=spec.nodeName={name}")
        self._kubectl("delete", *pods, "--force", "--grace-period=0", "--wait=false", gone)

    def _requests(self, node: str) -> list[str]:
        """The one that admitted the node, and its own renewals."""
        listed = json.loads(self._kubectl("get", "csr", "-o", "json"))["items"]
        user = f"{join_identity.USER_PREFIX}{node}"
        renewals = [c["metadata"]["name"] for c in listed if c["spec"].get("username") == user]
        return [request_name(node), *renewals]

    def _look(self, request: KeyRequest) -> Seen:
        items = []
        for kind, name in (("node", request.name), ("csr", request_name(request.name)),
                           ("configmap", REVOKED)):  # fmt: skip
            space = ("-n", "kube-system") if kind == "configmap" else ()
            said = self._kubectl("get", kind, name, *space, "--ignore-not-found", "-o", "json")
            items += [json.loads(said)] if said.strip() else []
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
    """Bare: kubelet finds it there and adds what it is (tryRegisterWithAPIServer)."""
    metadata = {"name": request.name, "annotations": {JOIN_KEY: request.key}}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata}


def give(host: Runner, name: str, control_plane: Runner, installer: str) -> None:
    """A Primer that carries pods gets its identity, by an administrator.

    The key is made there and stays there; what crosses is public. Raises HostError, and TakenError
    where another machine has that name.
    """
    asked = host.run([installer, "node-identity", "request", name]).stdout
    request = join_identity.checked(asked, name)
    cluster = Cluster(control_plane)
    held = host.run([installer, "node-identity", "held", name]).stdout.strip()
    cluster.reserve(request, again=held == "yes")
    identity = cluster.sign(request)
    answer = json.dumps({"certificate": identity.certificate, "authority": identity.authority})
    host.run([installer, "node-identity", "place"], data=answer)
    log.debug(f"{name}: has its identity as a node")
