"""Joining with a real API server and controller manager, through real nginx: one request gives one
machine one identity; machines without a token, with a stolen one or revoked are refused.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509

from keystone.ansible.roles import addons
from keystone.ansible.roles import join as join_inventory
from keystone.bundle.model import Digest, Item, Manifest
from keystone.cluster import join_config, kubeadm
from keystone.cluster.context import Context
from keystone.join import cluster as join_cluster
from keystone.join import identity as join_identity
from keystone.join import script as join_script
from keystone.join import server as join_server
from keystone.join import tokens as join
from keystone.run import Result, run, spawned
from keystone.site.model import Networks, Node, Site

from . import nginx as programs
from .cluster import SERVER, Cluster, cluster
from .conftest import NODES, ROOT, Lan, Placed, render, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

WORKERS = {"w1": "10.78.0.21", "w2": "10.78.0.22", "w3": "10.78.0.23"}
BINARIES = ("kubelet", "kubeadm", "kubectl", "containerd", "runc", "cni-plugins")
ASK = """
import json, pathlib, sys
from keystone.errors import KeystoneError
from keystone.join import client, tokens
client.TRY_SECONDS = float(sys.argv[3])
token = tokens.Token.parse(sys.stdin.read())
context = client.trust(pathlib.Path(sys.argv[1]), token)
try:
    said = client.ask(["https://10.78.0.11:8444"], context, token, sys.argv[2],
                           pathlib.Path(sys.argv[4]).read_text())
except KeystoneError as error:
    said = {"code": error.exit_code, "error": error.message}
print(json.dumps(said))
"""

ATTACK = """
import socket, ssl, sys, threading, time
context = ssl.create_default_context(cafile=sys.argv[1])
context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN

def link(secure=True):
    plain = socket.create_connection(("10.78.0.11", 8444), 60)
    return context.wrap_socket(plain, server_hostname="10.78.0.11") if secure else plain

def large():
    with link() as one:
        try:
            one.sendall(b"POST /v1/join HTTP/1.1\\r\\n")
            for number in range(100):
                one.sendall(b"X-%d: " % number + b"x" * 60000 + b"\\r\\n")
        except OSError:
            pass
        try:
            print("large", one.recv(100)[:12], flush=True)
        except OSError as error:
            print("large closed:", error, flush=True)

threads = [threading.Thread(target=large) for _ in range(60)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
kept = []
def slow():
    while True:
        del kept[:]
        for secure in [True, False] * 64:
            try:
                one = link(secure)
                one.sendall(b"POST /v1/join HTTP/1.1\\r\\nContent-Length: 8000\\r\\n")
                kept.append(one)
            except OSError:
                pass
        print("all are open", flush=True)
        for _ in range(20):
            for one in kept:
                try:
                    one.sendall(b"X")
                except OSError:
                    pass
            time.sleep(0.2)
slow()
"""


@dataclass(frozen=True)
class Joining:
    """The cluster, the join service behind nginx on p1, and the workers' folders."""

    cluster: Cluster
    folder: Path
    authority: Path
    journal: Path
    marker: Path
    server: int
    site: Site

    @property
    def tokens(self) -> join.Tokens:
        return join.Tokens(self.folder)

    def token(self) -> join.Token:
        pin = join_script.pin(self.authority.read_text())
        token, record = join.new("worker", pin, now=int(time.time()), ttl=3600)
        self.tokens.add(record)
        return token

    def csr(self, machine: str, name: str) -> Path:
        """Return a machine's own certificate request for a name."""
        file = self.folder / f"{machine}-{name}.csr"
        file.write_text(join_identity.made(name, self.folder / f"{machine}.key"))
        return file

    def ask(
        self, machine: str, token: join.Token, *, name: str = "", seconds: int = 0
    ) -> dict[str, Any]:
        """Run the real client on a machine. name: the host name in its request."""
        name = name or machine
        argv = (sys.executable, "-c", ASK, self.authority, name, str(seconds),
                self.csr(machine, name))  # fmt: skip
        done = run(
            self.cluster.lan.at(machine, *argv), data=str(token), timeout=300,
            env={"PYTHONPATH": str(ROOT / "installer")},
        )  # fmt: skip
        said: dict[str, Any] = json.loads(done.stdout)
        return said

    def post(self, machine: str, body: Mapping[str, str], *words: str) -> str:
        """Send a request by curl on a machine; return body and status."""
        done = self.cluster.lan.run(
            machine, "curl", "--silent", "--show-error", "--cacert", self.authority,
            "--data", json.dumps(body), "--write-out", "\n%{http_code}", *words,
            "https://10.78.0.11:8444/v1/join", check=False,
        )  # fmt: skip
        return done.stdout

    @property
    def nobody(self) -> Path:
        """A kubeconfig without a user."""
        file = self.folder / "nobody.conf"
        cluster = {"server": SERVER, "certificate-authority": str(self.cluster.pki / "ca.crt")}
        file.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "x", "cluster": cluster}], "users": [],
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": ""}}],
        }))  # fmt: skip
        return file

    def config(self, machine: str, answer: Mapping[str, Any]) -> Path:
        """Return the kubeconfig that the machine makes of an answer, for this API server."""
        home = self.folder / f"home-{machine}"
        identity = join_identity.Identity(**answer["identity"])
        conf = home / "kubelet.conf"
        join_identity.place(
            identity, key=self.folder / f"{machine}.key", folder=home / "pki", conf=conf
        )
        conf.write_text(conf.read_text().replace("https://127.0.0.1:7443", SERVER))
        return conf


def site_context(placed: Placed) -> Context:
    items = [
        Item("binary", name, "v1.37.2", Digest(hashlib.sha256(name.encode()).hexdigest()), 1)
        for name in BINARIES
    ]
    items += [
        Item("image", name, "v1", Digest("b" * 64), 1)
        for name in ("registry.k8s.io/pause", *addons.IMAGES.values())
    ]
    items.append(Item("installer", "keystone-install", "0.1.0", Digest("c" * 64), 1))
    primers = tuple(Node(name, IPv4Address(address)) for name, address in NODES.items())
    site = Site("netns", primers, Networks(IPv4Network("10.78.0.0/24")))
    return Context(site, primers[0], Manifest("platform", 1, tuple(items)))


def as_kubeadm_leaves_it(made: Cluster, folder: Path) -> None:
    """Create all bindings of `kubeadm init` for bootstrap tokens, as an older version left them."""
    config = folder / "init.yaml"
    config.write_text(
        "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\n"
        "kubernetesVersion: v1.37.2\n---\n"
        "apiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfiguration\n"
        "localAPIEndpoint: {advertiseAddress: 10.78.0.11}\n"
        "bootstrapTokens: [{token: abcdef.0123456789abcdef, ttl: 1h0m0s}]\n"
        "nodeRegistration: {criSocket: 'unix:///run/nothing.sock'}\n"
    )
    words = ("--config", config, "--kubeconfig", made.admin)
    made.kubeadm("init", "phase", "upload-config", "all", *words)
    made.kubeadm("init", "phase", "bootstrap-token", *words)


def request_of(name: str, folder: Path) -> str:
    """Return a CertificateSigningRequest for a node's name with a new key, as JSON."""
    pem = join_identity.made(name, folder / f"{secrets.token_hex(4)}.key")
    spec = {
        "request": base64.b64encode(pem.encode()).decode(),
        "signerName": join_cluster.SIGNER,
        "usages": ["digital signature", "client auth"],
    }
    return json.dumps({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "test-"}, "spec": spec,
    })  # fmt: skip


def signed(joining: Joining, name: str, *user: str | Path) -> bool:
    """True if a request for a node's name is signed automatically. user: a kubeconfig, or --token.

    False if a later request, a node's renewal of its own name, was signed before it.
    """

    def made(name: str, *user: str | Path) -> str:
        config, *words = user
        said = joining.cluster.kubectl(
            "create", "-f", "-", "-o", "name", *words, config=Path(config),
            data=request_of(name, joining.folder),
        )  # fmt: skip
        return said.stdout.strip().split("/")[-1]

    def certificate(csr: str) -> str:
        return str(joining.cluster.get("csr", csr).get("status", {}).get("certificate", ""))

    asked = made(name, *user)
    marker = made("marker", joining.marker)
    until(lambda: bool(certificate(marker)), "a node's renewal of its own name", 60)
    return bool(asked) and bool(certificate(asked))


@dataclass(frozen=True)
class OnP1:
    """Runs kubectl on p1, as keystone.run.Host does."""

    cluster: Cluster

    def run(self, argv: Sequence[str], *, data: str | None = None, check: bool = True) -> Result:
        words = [str(self.cluster.binary("kubectl")) if w == "kubectl" else w for w in argv]
        return run(self.cluster.lan.at("p1", *words), data=data, check=check, timeout=120)


def administrator(made: Cluster) -> join_cluster.Cluster:
    return join_cluster.Cluster(OnP1(made), str(made.admin), str(made.pki / "ca.crt"))


@pytest.fixture(scope="module")
def joining(
    namespaces: Callable[[Mapping[str, str]], Lan],
    pki_site: Placed,
    binary: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Joining]:
    lan = namespaces({"p1": NODES["p1"], **WORKERS})
    folder = tmp_path_factory.mktemp("join")
    # Not pytest's folder: the path of a Unix socket is limited to 107 bytes.
    short = Path(tempfile.mkdtemp(prefix="kstest-"))
    programs_folder = binary("kubectl").parent
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, short)
        made = stack.enter_context(cluster(lan, pki_site, binary, folder))
        as_kubeadm_leaves_it(made, folder)
        applied = made.kubectl("apply", "-f", ROOT / "roles/addons/templates/join.yaml.j2")
        assert applied.returncode == 0, applied.stderr
        flannel = ("create", "clusterrolebinding", "flannel", "--clusterrole=flannel",
                   "--serviceaccount=kube-flannel:flannel")  # fmt: skip
        assert made.kubectl("create", "clusterrole", "flannel", "--verb=get,patch,update",
                            "--resource=nodes,nodes/status").returncode == 0  # fmt: skip
        assert made.kubectl(*flannel).returncode == 0
        context = site_context(pki_site)
        (folder / "config.json").write_text(join_config.dump(context))
        config = join_inventory.kubeconfig(SERVER, str(pki_site.at("p1", "/etc/keystone/pki")))
        (folder / "kubeconfig").write_text(
            config.replace("/etc/kubernetes/pki/ca.crt", str(made.pki / "ca.crt"))
        )
        argv = [
            sys.executable, "-m", "keystone", "join-server", "--config", folder / "config.json",
            "--kubeconfig", folder / "kubeconfig", "--authority", made.pki / "ca.crt",
            "--socket", short / "socket",
        ]  # fmt: skip
        env = {
            "PYTHONPATH": str(ROOT / "installer"),
            "PATH": f"{programs_folder}:/usr/bin:/bin",
            "KEYSTONE_PATH": f"{programs_folder}:/usr/bin:/bin",
        }
        journal = folder / "journal"
        service = stack.enter_context(spawned(lan.at("p1", *argv), log_file=journal, env=env))
        variables = {
            **join_inventory.variables(context),
            "join_certificate": str(pki_site.at("p1", "/etc/keystone/pki/site.crt")),
            "join_key": str(pki_site.at("p1", "/etc/keystone/pki/site.key")),
            "join_socket": str(short / "socket"),
        }
        nginx = programs.program(lambda: tmp_path_factory.mktemp("nginx"))
        text = render("join", "nginx.conf.j2", variables)
        front = short / "nginx"
        front.mkdir()
        stack.enter_context(
            spawned(lan.at("p1", *programs.command(nginx, front, text)), log_file=folder / "nginx")
        )
        authority = pki_site.at("p1", "/etc/keystone/pki/site-ca.crt")
        health = ("curl", "--silent", "--fail", "--cacert", authority,
                  "https://10.78.0.11:8444/v1/health")  # fmt: skip
        until(lambda: lan.run("w1", *health, check=False).returncode == 0, "the join service", 120)
        marker = folder / "marker.conf"
        yield Joining(made, folder, authority, journal, marker, service.pid, context.site)


@pytest.fixture(scope="module", autouse=True)
def marked(joining: Joining) -> None:
    """A node of the cluster, admitted by an administrator as Primers are."""
    request = join_identity.checked(joining.csr("marker", "marker").read_text(), "marker")
    admin = administrator(joining.cluster)
    admin.reserve(request, again=True)
    identity = admin.sign(request)
    answer = {"identity": {"certificate": identity.certificate, "authority": identity.authority}}
    joining.config("marker", answer).rename(joining.marker)


def close(joining: Joining) -> list[str]:
    """Apply what the role addons does to a site; return kubectl's output."""
    script = (ROOT / "roles/addons/templates/apply.sh.j2").read_text().replace("\\\n", " ")
    closed = [
        line[line.index("delete ") :].split()
        for line in script.splitlines()
        if "delete --ignore-not-found" in line
    ]
    assert len(closed) == 2
    return [joining.cluster.kubectl(*words).stdout for words in closed]


def test_requests_by_bootstrap_token_are_no_longer_signed(joining: Joining) -> None:
    """On an older site a bootstrap token could give the name p1; the next run prevents that."""
    holder = (joining.nobody, "--token", "abcdef.0123456789abcdef")
    assert signed(joining, "p1", *holder)
    said = close(joining)
    assert all("deleted" in one for one in said)
    assert not signed(joining, "p1", *holder)
    assert not any("deleted" in one for one in close(joining))
    # A kubelet can still renew its certificate, for its own name only.
    assert signed(joining, "marker", joining.marker)
    assert not signed(joining, "p1", joining.marker)


def test_worker_gets_an_identity_for_its_own_name_only(joining: Joining) -> None:
    answer = joining.ask("w1", joining.token())
    assert "error" not in answer, answer
    assert not re.search(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b", json.dumps(answer)), "a bootstrap token"
    certificate = x509.load_pem_x509_certificate(answer["identity"]["certificate"].encode())
    assert certificate.subject.rfc4514_string() == "CN=system:node:w1,O=system:nodes"
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert lifetime.days <= 90
    config = joining.config("w1", answer)
    who = joining.cluster.kubectl("auth", "whoami", "-o", "json", config=config)
    assert json.loads(who.stdout)["status"]["userInfo"]["username"] == "system:node:w1"
    assert not signed(joining, "p1", config)
    assert signed(joining, "w1", config)


OWN_FILES = """
mount -t tmpfs files "$1"
mkdir "$1/etc" "$1/work" "$1/lib" "$1/lib/kubelet"
mount -t overlay -o "lowerdir=/etc,upperdir=$1/etc,workdir=$1/work" etc /etc
mount --bind "$1/lib" /var/lib
mkdir -p /etc/kubernetes
cp "$2" /etc/kubernetes/kubelet.conf
"$3" join phase kubelet-start --config "$4"
cat /var/lib/kubelet/config.yaml /var/lib/kubelet/kubeadm-flags.env
cmp "$5" /etc/kubernetes/pki/ca.crt && cmp "$2" /etc/kubernetes/kubelet.conf
"""
"""kubeadm's step, with its files in a mount namespace."""


def test_kubeadm_join_works_with_the_identity_and_no_token(joining: Joining) -> None:
    config = joining.config("w1", joining.ask("w1", joining.token(), name="kubeadm-w1"))
    close(joining)
    here = Context(
        joining.site, Node("kubeadm-w1", IPv4Address(WORKERS["w1"])), Manifest("x", 1, ())
    )
    document = joining.folder / "join.yaml"
    document.write_text(kubeadm.join_document(here))
    scratch = joining.folder / "files"
    scratch.mkdir()
    cluster = joining.cluster
    words = (scratch, config, cluster.binary("kubeadm"), document, cluster.pki / "ca.crt")
    own = ("unshare", "--mount", "--propagation", "private", "sh", "-ec", OWN_FILES, "sh")
    path = f"{cluster.binary('kubelet').parent}:/usr/sbin:/usr/bin:/sbin:/bin"
    said = run(cluster.lan.at("w1", *own, *words), timeout=120, env={"PATH": path}).stdout
    assert "kind: KubeletConfiguration" in said
    assert WORKERS["w1"] in said


AS_PLANE = """
mount -t tmpfs files "$1"
mkdir "$1/lib" "$1/lib/kubelet" "$1/bin"
for top in etc root; do
  mkdir "$1/$top" "$1/$top-work"
  mount -t overlay -o "lowerdir=/$top,upperdir=$1/$top,workdir=$1/$top-work" $top /$top
done
mount --bind "$1/lib" /var/lib
mkdir -p /etc/kubernetes/pki /etc/kubernetes/manifests "$4"
cp "$2/ca.crt" "$2/ca.key" /etc/kubernetes/pki
cp "$3/plane-kubeadm.yaml" "$4/kubeadm.yaml"
cp "$3/plane-join.yaml" "$4/join.yaml"
cat > "$1/bin/systemctl" <<'END'
#!/bin/sh
END
cat > "$1/bin/kubeadm" <<END
#!/bin/sh
case "\\$*" in
  join*--config*) exec $5/kubeadm join phase kubelet-start --config $4/join.yaml;;
  *kubelet-finalize*) ;;
  *) exec $5/kubeadm "\\$@";;
esac
END
chmod +x "$1"/bin/*
PATH="$1/bin:$5:$PATH"
[ "$6" = new ] || kubeadm init phase kubeconfig kubelet --config "$4/kubeadm.yaml"
sh "$3/plane-join.sh"
"""
"""The role's script with its own files; of `kubeadm join` only the step that checks the node."""


def as_plane(joining: Joining, host: str) -> Result:
    """Join a control plane named `plane`, on a host that is `new` or was interrupted (`cut`)."""
    cluster, folder = joining.cluster, joining.folder
    api = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: "
    registration = "nodeRegistration: {name: plane, criSocket: 'unix:///run/nothing.sock'}\n"
    (folder / "plane-kubeadm.yaml").write_text(
        f"{api}InitConfiguration\nlocalAPIEndpoint: {{advertiseAddress: {WORKERS['w3']}}}\n"
        f"{registration}---\n{api}ClusterConfiguration\nkubernetesVersion: v1.37.2\n"
        "controlPlaneEndpoint: 10.78.0.11:6443\n"
    )
    (folder / "plane-join.yaml").write_text(
        f"{api}JoinConfiguration\n{registration}"
        f"discovery: {{file: {{kubeConfigPath: {kubeadm.ADMIN_CONF}}}}}\n"
    )
    given = {"control_plane_config": kubeadm.CONFIG, "control_plane_name": "plane"}
    (folder / "plane-join.sh").write_text(render("control_plane", "join.sh.j2", given))
    scratch = folder / f"plane-{host}"
    scratch.mkdir()
    own = ("unshare", "--mount", "--propagation", "private", "sh", "-ec", AS_PLANE, "sh")
    words = (scratch, cluster.pki, folder, kubeadm.CONFIG, cluster.binary("kubeadm").parent, host)
    return run(cluster.lan.at("w3", *own, *words), timeout=120, check=False)


def test_control_plane_with_an_interrupted_join_joins_again(joining: Joining) -> None:
    """Its own node stays Ready for a while after kubelet stopped; another machine's stays Ready."""
    cluster = joining.cluster
    assert cluster.kubectl("create", "clusterrolebinding", "kubeadm:cluster-admins",
                           "--clusterrole=cluster-admin",
                           "--group=kubeadm:cluster-admins").returncode == 0  # fmt: skip
    node = {"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "plane", "labels": {"kept": "yes"}}}  # fmt: skip
    assert cluster.kubectl("create", "-f", "-", data=json.dumps(node)).returncode == 0
    ready = json.dumps({"status": {"conditions": [{"type": "Ready", "status": "True"}]}})

    def said() -> str:
        conditions = cluster.get("node", "plane")["status"]["conditions"]
        return next(str(c["status"]) for c in conditions if c["type"] == "Ready")

    words = ("patch", "node", "plane", "--subresource=status", "--patch", ready)
    assert cluster.kubectl(*words).returncode == 0
    foreign = as_plane(joining, "new")
    assert 'with name "plane" and status "Ready" already exists' in foreign.stderr, foreign
    assert said() == "True"
    before = cluster.get("node", "plane")["metadata"]
    assert cluster.kubectl(*words).returncode == 0
    again = as_plane(joining, "cut")
    assert again.returncode == 0, again
    assert "keystone: changed" in again.stdout
    assert said() == "Unknown"
    after = cluster.get("node", "plane")["metadata"]
    assert (after["uid"], after["labels"]) == (before["uid"], before["labels"])
    assert cluster.kubectl("delete", "node", "plane").returncode == 0
    assert as_plane(joining, "cut-early").returncode == 0, "no node existed when it was interrupted"


def test_name_of_a_primer_or_another_name_than_in_the_csr_is_refused(joining: Joining) -> None:
    token = joining.token()
    assert "is a Primer" in joining.ask("w2", token, name="p1")["error"]
    file = joining.csr("w2", "w2")
    file.write_text(join_identity.made("p1", joining.folder / "w2.key"))
    said = joining.post("w2", {"token": str(token), "hostname": "w2", "csr": file.read_text()})
    assert said.endswith("400")
    assert "asks for" in said
    assert joining.tokens.claimed(token.id) is None


def test_second_csr_in_a_request_is_not_signed(joining: Joining) -> None:
    """Go skips a BEGIN that is not at the start of a line, and would read the Primer's name."""
    own, primers = (joining.csr("w2", name).read_text() for name in ("two-blocks", "p1"))
    body = {"token": str(joining.token()), "hostname": "two-blocks", "csr": f"x{own}{primers}"}
    assert joining.post("w2", body).endswith("200")
    csr = joining.cluster.get("csr", join_cluster.request_name("two-blocks"))
    signed = x509.load_pem_x509_certificate(base64.b64decode(csr["status"]["certificate"]))
    assert signed.subject.rfc4514_string() == "CN=system:node:two-blocks,O=system:nodes"


def test_used_token_is_refused_for_other_machines(joining: Joining) -> None:
    token = joining.token()
    first = joining.ask("w2", token)
    stolen = {"token": str(token), "hostname": "w2", "csr": joining.csr("w2", "w2").read_text()}
    assert "already used by w2" in joining.post("w3", stolen)
    forged = ("--header", f"{join_server.ADDRESS_HEADER}: {WORKERS['w2']}")
    assert "already used by w2" in joining.post("w3", stolen, *forged)
    other = {**stolen, "csr": join_identity.made("w2", joining.folder / "thief.key")}
    assert "already used by w2" in joining.post("w2", other)
    for _ in range(5):  # the owner gets the same answer again, and nothing more
        assert joining.ask("w2", token)["identity"] == first["identity"]


def test_second_machine_with_a_taken_name_is_refused_and_keeps_its_token(joining: Joining) -> None:
    assert "error" not in joining.ask("w3", joining.token(), name="twin")
    token = joining.token()
    answer = joining.ask("w1", token, name="twin")
    assert answer["code"] == 7
    assert "kubectl delete node/twin" in answer["error"]
    assert joining.tokens.claimed(token.id) is None
    assert "error" not in joining.ask("w1", token, name="other")


def test_name_stays_reserved_after_the_csr_is_deleted(joining: Joining) -> None:
    """By its Node; kubelet registers over it and patches the labels through the status."""
    config = joining.config("w3", joining.ask("w3", joining.token(), name="kept"))
    request = join_cluster.request_name("kept")
    assert joining.cluster.kubectl("delete", "csr", request).returncode == 0
    assert "kubectl delete node/kept" in joining.ask("w2", joining.token(), name="kept")["error"]
    primers = join_identity.checked(joining.csr("w2", "kept").read_text(), "kept")
    with pytest.raises(join_cluster.TakenError):
        administrator(joining.cluster).reserve(primers, again=False)
    labels = {"kubernetes.io/hostname": "kept", "kubernetes.io/os": "linux"}
    patch = json.dumps({"metadata": {"labels": labels}})
    said = joining.cluster.lan.run(
        "p1", "curl", "--silent", "--show-error", "--request", "PATCH", "--data", patch,
        "--header", "Content-Type: application/strategic-merge-patch+json",
        "--cert", config.parent / "pki" / join_identity.CURRENT,
        "--cacert", joining.cluster.pki / "ca.crt", f"{SERVER}/api/v1/nodes/kept/status",
    ).stdout  # fmt: skip
    assert json.loads(said)["kind"] == "Node", said
    assert labels.items() <= joining.cluster.get("node", "kept")["metadata"]["labels"].items()
    assert "error" not in joining.ask("w3", joining.token(), name="kept"), "the machine itself"


def test_interrupted_join_resumes_after_the_csr_is_deleted(joining: Joining) -> None:
    """The machine has only its key, and no Primer has a claim: the Node has the key's digest."""
    request = join_identity.checked(joining.csr("w1", "resumed").read_text(), "resumed")
    service = join_cluster.Cluster(OnP1(joining.cluster), str(joining.folder / "kubeconfig"))
    service.reserve(request, again=False)
    deleted = join_cluster.request_name("resumed")
    assert joining.cluster.kubectl("delete", "csr", deleted).returncode == 0
    assert (
        "kubectl delete node/resumed" in joining.ask("w2", joining.token(), name="resumed")["error"]
    )
    config = joining.config("w1", joining.ask("w1", joining.token(), name="resumed"))
    # An account that may write the Node cannot reserve its name for another key.
    stolen = join_identity.checked(joining.csr("w2", "resumed").read_text(), "resumed").key
    for value in (f"{join_cluster.JOIN_KEY}={stolen}", f"{join_cluster.JOIN_KEY}-"):
        words = ("annotate", "--overwrite", "node", "resumed", value)
        said = joining.cluster.kubectl(*words, config=config)
        assert "Only administrators may change the key for which" in said.stderr, said
        pod = ("--as=system:serviceaccount:kube-flannel:flannel",
               "--as-group=system:authenticated")  # fmt: skip
        said = joining.cluster.kubectl(*words, *pod)
        assert "Only administrators may change the key for which" in said.stderr, said
    said = joining.cluster.kubectl("annotate", "node", "resumed", "other=x", config=config)
    assert said.returncode == 0, said
    assert "error" in joining.ask("w2", joining.token(), name="resumed")


def test_only_the_join_service_and_administrators_reserve_names(joining: Joining) -> None:
    """For any signer: an object of that name would keep the machine out."""
    document = json.loads(request_of("marker", joining.folder))
    document["metadata"] = {"name": join_cluster.request_name("mine-later")}
    document["spec"]["signerName"] = "example.com/any"
    words = ("create", "--dry-run=server", "-f", "-")
    for config, named, refused in (
        (joining.marker, document, True),
        (joining.marker, {**document, "metadata": {"generateName": "keystone-join-"}}, True),
        (joining.marker, {**document, "metadata": {"generateName": "other-"}}, False),
        (joining.cluster.admin, document, False),
    ):
        said = joining.cluster.kubectl(*words, config=Path(config), data=json.dumps(named))
        assert ("reserve names of nodes" in said.stderr) == refused, said
        assert (said.returncode != 0) == refused, said
    assert "error" not in joining.ask("w3", joining.token(), name="mine-later")


def test_revoked_node_can_write_nothing(joining: Joining) -> None:
    """A certificate cannot be revoked: the API server refuses its name."""
    config = joining.config("w3", joining.ask("w3", joining.token(), name="gone"))
    node = json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "gone"}})
    assert joining.cluster.get("node", "gone")
    assert signed(joining, "gone", config)
    administrator(joining.cluster).revoke("gone")
    requests = joining.cluster.get("csr")["items"]
    assert not [csr for csr in requests if csr["spec"]["username"] == "system:node:gone"]
    assert joining.cluster.get("node", "gone") == {}
    assert joining.cluster.get("csr", join_cluster.request_name("gone")) == {}

    def refused() -> bool:
        done = joining.cluster.kubectl(
            "create", "--dry-run=server", "-f", "-", config=config, data=node
        )
        return "was revoked" in done.stderr

    until(refused, "the API server refuses the node", 60)
    assert not signed(joining, "gone", config)
    assert joining.cluster.get("node", "gone") == {}
    assert "was revoked" in joining.ask("w3", joining.token(), name="gone")["error"]
    assert signed(joining, "marker", joining.marker)


def test_join_service_has_no_other_permissions(joining: Joining) -> None:
    config = joining.folder / "kubeconfig"

    def may(*words: str) -> bool:
        return joining.cluster.kubectl("auth", "can-i", *words, config=config).returncode == 0

    def may_approve(signer: str) -> bool:
        what = {"group": "certificates.k8s.io", "resource": "signers", "name": signer}
        asked = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {**what, "verb": "approve"}},
        }
        said = joining.cluster.kubectl(
            "create", "--raw", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            "-f", "-", config=config, data=json.dumps(asked),
        )  # fmt: skip
        return bool(json.loads(said.stdout)["status"]["allowed"])

    assert may("create", "certificatesigningrequests")
    assert may_approve(join_cluster.SIGNER)
    assert not may_approve("kubernetes.io/kube-apiserver-client")
    bare = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "dry"}}
    control_plane = {"name": "dry", "labels": {"node-role.kubernetes.io/control-plane": ""}}
    noted = {"name": "dry", "annotations": {"a": "b"}}
    kept = {"name": "dry", "annotations": {join_cluster.JOIN_KEY: "b"}}
    address = {"addresses": [{"type": "InternalIP", "address": "10.78.0.23"}]}
    for node, refused in (
        (bare, False), ({**bare, "metadata": kept}, False),
        ({**bare, "metadata": control_plane}, True),
        ({**bare, "metadata": noted}, True), ({**bare, "status": address}, True),
        ({**bare, "spec": {"taints": [{"key": "a", "effect": "NoExecute"}]}}, True),
        ({**bare, "spec": {"unschedulable": True}}, True),
        ({**bare, "spec": {"podCIDR": "10.244.9.0/24"}}, True),
    ):  # fmt: skip
        words = ("create", "--dry-run=server", "-f", "-")
        said = joining.cluster.kubectl(*words, config=config, data=json.dumps(node))
        assert ("with a name and nothing else" in said.stderr) == refused, (node, said)
        assert (said.returncode != 0) == refused, (node, said)
    for words in (("get", "secrets", "-A"), ("create", "pods"), ("list", "nodes"),
                  ("delete", "nodes"), ("create", "clusterrolebindings")):  # fmt: skip
        assert not may(*words), words


def memory(process: int) -> int:
    """Return the peak memory of a process, KiB (proc(5), VmHWM)."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if "VmHWM" in line))


def test_attacker_without_a_token_cannot_block_joins(joining: Joining) -> None:
    """Large headers, slow connections and bad requests from one host, while another joins."""
    before = memory(joining.server)
    lan = joining.cluster.lan
    with spawned(lan.at("w2", sys.executable, "-c", ATTACK, joining.authority),
                 log_file=joining.folder / "attack") as attack:  # fmt: skip
        said = joining.folder / "attack"
        until(lambda: "all are open" in said.read_text(), "the attack", 120)
        assert "error" not in joining.ask("w1", joining.token(), name="valid", seconds=120)
        assert attack.poll() is None
    assert memory(joining.server) - before < 64 * 1024
    large = [line for line in said.read_text().splitlines() if line.startswith("large")]
    assert len(large) == 60
    assert all("400" in line or "closed" in line for line in large)
    assert any("HTTP/1.1 400" in line for line in large)
    assert "limiting connections" not in (joining.folder / "nginx").read_text()


def test_valid_token_is_not_delayed_by_bad_requests(joining: Joining) -> None:
    """Even from the same address, as behind NAT: the secret is checked before the limit."""
    wrong = {"token": f"ks1.{'0' * 12}.{'0' * 40}.{'0' * 64}", "hostname": "w2",
             "csr": joining.csr("w2", "w2").read_text()}  # fmt: skip
    answers = [joining.post("w2", wrong, "--dump-header", "-") for _ in range(30)]
    assert "403" in answers[0].splitlines()[-1]
    assert "429" in answers[-1].splitlines()[-1]
    assert f"Retry-After: {join_server.RETRY_SECONDS}" in answers[-1]
    assert "error" not in joining.ask("w2", joining.token(), name="behind-nat")
