"""A real API server: encryption, audit log, and the policies for nodes and storage."""

from __future__ import annotations

import base64
import json
import re
import secrets
import ssl
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
import yaml

from keystone.ansible.roles import addons, endpoint
from keystone.cluster.kubeadm import POOL_LABEL
from keystone.install import actions, phases
from keystone.install.state import State
from keystone.pki import encryption
from keystone.pki import tree as pki
from keystone.run import run, spawned

from . import control_plane, haproxy
from .conftest import NODES, ROOT, Lan, Placed, render, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from keystone.bundle.read.bundle import Bundle
    from keystone.hosts.facts import HostFacts

    from .control_plane import ControlPlane

STORAGE = "system:serviceaccount:local-path-storage:"
PROVISIONER = f"--as={STORAGE}local-path-provisioner-service-account"
FOLDER = "/var/lib/keystone/volumes"
IMPOSTOR = """
import http.server, ssl, sys
class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
server = http.server.ThreadingHTTPServer(("10.78.0.12", 6443), Healthy)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(*sys.argv[1:])
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def lan(namespaces: Callable[[Mapping[str, str]], Lan]) -> Lan:
    return namespaces(NODES)


@pytest.fixture(scope="module")
def plane(
    lan: Lan,
    pki_site: Placed,
    binary: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ControlPlane]:
    control_plane.make_tree_without_encryption(pki_site)
    folder = tmp_path_factory.mktemp("p1")
    with control_plane.running(lan, pki_site, binary, folder) as made:
        yield made


@pytest.fixture(scope="module")
def balanced(
    lan: Lan, plane: ControlPlane, pki_site: Placed, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ControlPlane]:
    """With haproxy and three configured API servers; the one on p2 is not of the site."""
    folder = tmp_path_factory.mktemp("haproxy")
    values = endpoint.variables(replace(plane.context, site=pki_site.site))
    text = render("endpoint", "haproxy.cfg.j2", values)
    (folder / "haproxy.cfg").write_text(re.sub("    (user|group) haproxy\n", "", text))
    (folder / "impostor.py").write_text(IMPOSTOR)
    run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-noenc", "-subj", "/CN=p2",
         "-addext", "subjectAltName=DNS:p2", "-keyout", folder / "key", "-out", folder / "crt",
    ])  # fmt: skip
    programs = haproxy.program(lambda: tmp_path_factory.mktemp("packages"))
    commands = {
        "impostor": lan.at("p2", "python3", folder / "impostor.py", folder / "crt", folder / "key"),
        "haproxy": [*plane.machine.words, *haproxy.command(programs, folder / "haproxy.cfg")],
    }
    with ExitStack() as stack:
        for name, argv in commands.items():
            stack.enter_context(spawned(argv, log_file=folder / f"{name}.log"))
        yield plane


@pytest.fixture(scope="module")
def storage(plane: ControlPlane) -> ControlPlane:
    """With the manifest of the storage class; its policies are in force."""
    values = addons.variables(plane.context)
    plane.kubectl("apply", "-f", "-", data=render("addons", "storage.yaml.j2", values))
    until(lambda: "keystone-storage-pods" in create(plane, pod("/")), "the policies are in force")
    return plane


def create(plane: ControlPlane, what: object, *words: str) -> str:
    """Create an object; return why it was refused, "" if it was created."""
    done = plane.kubectl("create", "-f", "-", *words, data=json.dumps(what), check=False)
    return done.stderr if done.returncode else ""


def pod(path: str, account: str = "local-path-helper", **more: object) -> dict[str, object]:
    """Return a helper pod as the provisioner makes it, with another folder."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "helper-pod-", "namespace": "local-path-storage"},
        "spec": {
            "serviceAccountName": account,
            "automountServiceAccountToken": False,
            "containers": [{"name": "helper-pod", "image": "busybox", **more}],
            "volumes": [
                {"name": "data", "hostPath": {"path": path, "type": "DirectoryOrCreate"}},
                {"name": "script", "configMap": {"name": "local-path-config"}},
            ],
        },
    }


def with_spec(**fields: object) -> dict[str, object]:
    found = pod(FOLDER)
    return {**found, "spec": {**cast("dict[str, object]", found["spec"]), **fields}}


def test_helper_pod_may_mount_the_folder_of_volumes(storage: ControlPlane) -> None:
    assert create(storage, pod(FOLDER), PROVISIONER) == ""
    assert create(storage, pod(f"{FOLDER}/"), PROVISIONER) == ""


@pytest.mark.parametrize(
    "other",
    [
        pod("/"),
        pod("/var/lib/keystone/pki"),
        pod(f"{FOLDER}/pvc-1/link"),
        pod(FOLDER, "local-path-provisioner-service-account"),
        pod(FOLDER, securityContext={"privileged": True}),
        pod(FOLDER, securityContext={"capabilities": {"add": ["SYS_ADMIN"]}}),
        with_spec(hostPID=True),
        with_spec(hostNetwork=True),
        with_spec(volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "any"}}]),
        with_spec(initContainers=[
            {"name": "i", "image": "busybox", "securityContext": {"privileged": True}}
        ]),
    ],
    ids=[
        "root", "keys", "link", "account", "privileged", "capability", "processes", "network",
        "claim", "before",
    ],
)  # fmt: skip
def test_helper_pod_with_other_mounts_or_privileges_is_refused(
    storage: ControlPlane, other: dict[str, object]
) -> None:
    assert "keystone-storage-pods" in create(storage, other, PROVISIONER)


def volume(name: str, path: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": path},
        },
    }


def test_volume_outside_the_folder_of_volumes_is_refused(storage: ControlPlane) -> None:
    assert create(storage, volume("good", f"{FOLDER}/pvc-1_default_data"), PROVISIONER) == ""
    for number, path in enumerate(("/", f"{FOLDER}/../pki", f"{FOLDER}/a/b", FOLDER)):
        assert create(storage, volume(f"bad-{number}", path), PROVISIONER) != ""
    assert create(storage, volume("by-a-person", "/srv")) == ""


def node(name: str, **labels: str) -> dict[str, object]:
    return {
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": labels},
    }  # fmt: skip


def test_node_cannot_set_labels_that_decide_placement(storage: ControlPlane) -> None:
    itself = ("--as=system:node:w1", "--as-group=system:nodes")
    hostname = "kubernetes.io/hostname"
    for label in (POOL_LABEL, "node-role.kubernetes.io/control-plane"):
        assert "is not allowed" in create(storage, node("w1", **{label: "keystone"}), *itself)
    assert "keystone-node-hostname" in create(storage, node("w1", **{hostname: "p1"}), *itself)
    assert create(storage, node("w1", **{hostname: "w1"}), *itself) == ""
    changed = storage.kubectl("label", "node", "w1", f"{POOL_LABEL}=keystone", *itself, check=False)
    assert "is not allowed" in changed.stderr
    changed = storage.kubectl("label", "--overwrite", "node", "w1", f"{hostname}=p1", *itself,
                              check=False)  # fmt: skip
    assert "keystone-node-hostname" in changed.stderr


def status(plane: ControlPlane, name: str, patch: object, *headers: str) -> str:
    """Patch a node's status; return why it was refused, "" if it was accepted.

    Not with kubectl, which would get the status first: nodes and flannel may patch but not get it.
    """
    admin = yaml.safe_load((plane.folder / "etc/kubernetes/admin.conf").read_text())
    user = admin["users"][0]["user"]
    pair = plane.folder / "etc/admin.pem"
    pair.write_bytes(b"".join(
        base64.b64decode(user[f"client-{part}-data"]) for part in ("certificate", "key")
    ))  # fmt: skip
    done = plane.machine.run([
        "curl", "--silent", "--show-error", "--cacert", "/etc/kubernetes/pki/ca.crt",
        "--cert", "/etc/admin.pem", "--request", "PATCH", "--data", json.dumps(patch),
        "--header", "Content-Type: application/strategic-merge-patch+json",
        *(word for header in headers for word in ("--header", header)),
        f"https://127.0.0.1:6443/api/v1/nodes/{name}/status",
    ])  # fmt: skip
    patched = json.loads(done.stdout)
    return str(patched["message"]) if patched["kind"] == "Status" else ""


def labels(**wanted: str | None) -> dict[str, object]:
    return {"metadata": {"labels": wanted}}


def test_node_cannot_set_such_labels_through_its_status(storage: ControlPlane) -> None:
    itself = ("Impersonate-User: system:node:w3", "Impersonate-Group: system:nodes")
    hostname = "kubernetes.io/hostname"
    assert create(storage, node("w3", zone="a", **{hostname: "w3"})) == ""
    policy = "keystone-node-hostname"
    assert policy in status(storage, "w3", labels(**{hostname: "p1"}), *itself)
    assert policy in status(storage, "w3", labels(zone="b"), *itself)
    assert policy in status(storage, "w3", labels(zone=None), *itself)
    assert policy in status(storage, "w3", labels(new="b"), *itself)
    # As kubelet does when it restarts (updateDefaultLabels), and at each heartbeat.
    own = labels(**{"kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux", hostname: None})
    assert status(storage, "w3", own, *itself) == ""
    assert status(storage, "w3", condition("Ready", "True"), *itself) == ""


def condition(kind: str, said: str) -> dict[str, object]:
    return {"status": {"conditions": [{"type": kind, "status": said, "reason": "Test"}]}}


def test_flannel_may_change_only_the_network_condition_of_a_node(
    storage: ControlPlane,
) -> None:
    values = addons.variables(storage.context)
    storage.kubectl("apply", "-f", "-", data=render("addons", "flannel.yaml.j2", values))
    assert create(storage, node("p9", kept="yes")) == ""
    assert status(storage, "p9", condition("Ready", "True")) == ""
    flannel = "Impersonate-User: system:serviceaccount:kube-flannel:flannel"
    label, policy = "node-role.kubernetes.io/control-plane", "keystone-flannel-status"
    until(
        # Another value each time: setting an existing value would be no change.
        lambda: policy in status(storage, "p9", labels(**{label: secrets.token_hex(4)}), flannel),
        "the policy is in force",
    )
    storage.kubectl("label", "node", "p9", f"{label}-")
    owner = {"apiVersion": "v1", "kind": "Node", "name": "gone", "uid": "u"}
    for patch in (
        labels(**{label: ""}),
        labels(kept=None),
        condition("Ready", "False"),
        {"status": {"conditions": [{"type": "Ready", "$patch": "delete"}]}},
        {"status": {"addresses": [{"type": "InternalIP", "address": "10.78.0.66"}]}},
        {"metadata": {"ownerReferences": [owner]}},
    ):
        assert policy in status(storage, "p9", patch, flannel), patch
    assert status(storage, "p9", condition("NetworkUnavailable", "False"), flannel) == ""
    subnet = {"metadata": {"annotations": {"flannel.alpha.coreos.com/backend-type": "vxlan"}}}
    assert status(storage, "p9", subnet, flannel) == ""


def audited(plane: ControlPlane, name: str) -> list[dict[str, object]]:
    """Return the audit log's entries about an object of that name."""
    lines = (plane.folder / "log/kubernetes/audit/audit.log").read_text().splitlines()
    entries = [json.loads(line) for line in lines if line.endswith("}")]
    return [entry for entry in entries if entry.get("objectRef", {}).get("name") == name]


def test_audit_log_has_the_user_but_not_the_content_of_a_secret(plane: ControlPlane) -> None:
    plane.kubectl("create", "secret", "generic", "audited", "--from-literal=word=unheard-of")
    plane.kubectl("get", "secret", "audited", "-o", "json")
    until(lambda: len(audited(plane, "audited")) >= 2, "both requests are in the log")
    for entry in audited(plane, "audited"):
        assert entry["level"] == "Metadata"
        assert not {"requestObject", "responseObject"} & entry.keys()
    text = (plane.folder / "log/kubernetes/audit/audit.log").read_text()
    assert "unheard-of" not in text
    assert "dW5oZWFyZC1vZg==" not in text


def test_wait_for_api_ignores_proxies_of_the_environment(plane: ControlPlane) -> None:
    waits = ROOT / "roles/control_plane/files/wait-for-api"
    proxy = ("https_proxy=http://127.0.0.1:9", "HTTPS_PROXY=http://127.0.0.1:9")
    plane.machine.run(["env", *proxy, "python3", str(waits), "60"])


WHO = """
import ssl
for _ in range(8):
    pem = ssl.get_server_certificate(("127.0.0.1", 7443))
    print(ssl.PEM_cert_to_DER_cert(pem).hex())
"""


def test_haproxy_does_not_use_a_server_with_another_certificate(balanced: ControlPlane) -> None:
    def only_the_real_one() -> bool:
        done = balanced.machine.run(["python3", "-c", WHO], check=False)
        mine = ssl.PEM_cert_to_DER_cert(
            (balanced.folder / "etc/kubernetes/pki/apiserver.crt").read_text()
        ).hex()
        return done.returncode == 0 and set(done.stdout.split()) == {mine}

    until(only_the_real_one, "all connections lead to the API server with the site's certificate")


def test_site_with_plain_text_secrets_gets_encrypted(
    balanced: ControlPlane, pki_site: Placed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The actions of the phase in their order; `place` replaces the role trust."""
    key = "/registry/secrets/default/old"
    balanced.kubectl("create", "secret", "generic", "old", "--from-literal=word=in-plain-text")
    assert "in-plain-text" in balanced.stored(key)
    monkeypatch.setattr(pki, "DIRECTORY", pki_site.tree)
    site = balanced.context.site
    trust = pki.observe(site, pki_site.tree)
    assert trust.encryption == encryption.READABLE
    bare = cast(
        "HostFacts",
        SimpleNamespace(certificates={}, roles={}, standing=SimpleNamespace(kubernetes="")),
    )
    facts = {node.name: bare for node in site.primers}
    state = State(site, balanced.context.bundle, "", "", facts, trust)
    world = actions.World(
        bundle=cast("Bundle", None), hosts={"p1": balanced.machine}, passphrase=str,
        observe=lambda: state, state=state,
    )  # fmt: skip
    for action in phases._encryption(state):
        if isinstance(action, actions.Converge):
            control_plane.place(pki_site.tree, balanced.folder)
        else:
            action.apply(world)
    assert world.seen.trust.encryption == encryption.REQUIRED
    assert balanced.stored(key).startswith("k8s:enc:secretbox:v1:key1:")
    assert "in-plain-text" not in balanced.stored(key)
    assert "aW4tcGxhaW4tdGV4dA==" in balanced.kubectl("get", "secret", "old", "-o", "yaml").stdout
