"""The real join server behind a small TLS front, a fake kubectl on PATH that records its calls, and
the real client: the printed command, the script, the installer, the request, the blobs.
"""

import datetime as dt
import errno
import fcntl
import hashlib
import http.server
import ipaddress
import json
import os
import shutil
import socket
import socketserver
import ssl
import stat
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from keystone import files, log, run
from keystone.ansible.roles import addons
from keystone.appliance import first_start, installing
from keystone.appliance import write as writing
from keystone.bundle.model import Digest, Item, Manifest
from keystone.cli.join import verb as join_verb
from keystone.cli.token import group as token_verbs
from keystone.cluster import join_config
from keystone.cluster.context import Context
from keystone.errors import ConfigurationError, HostError, RefusedError, UsageError
from keystone.join import client, join_yaml, standing
from keystone.join import cluster as join_cluster
from keystone.join import identity as join_identity
from keystone.join import script as join_script
from keystone.join import server as join_server
from keystone.join import tokens as join
from keystone.pki import certificates
from keystone.site import checks
from keystone.site.model import Machine, Networks, Node, Site

from . import join_rig

PRIMER = "127.77.0.11"
PLACE, HELD = join_identity.place, join_identity.held
ROLES = join_server.WORKER_ROLES
BINARIES = ("kubelet", "kubeadm", "kubectl", "containerd", "runc", "cni-plugins")
INSTALLER = b"""#!/bin/sh
printf '%s\\n' "$@"
token=$(cat)
printf 'on standard input: %s\\n' "$token"
printf %s "$token" | grep -aslF -f - /proc/[0-9]*/cmdline || echo no process shows the token
"""
MACHINE = client.Machine(
    root=True, architecture="x86_64", swaps=(), cgroup2=True, hostname="w1", machine_id="1" * 32
)


def content(name: str) -> bytes:
    return (name * 50_000).encode()


def certificate(
    name: str,
    issuer: x509.Certificate | None = None,
    key: ec.EllipticCurvePrivateKey | None = None,
    address: str | None = None,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    mine = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    authority = address is None
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(mine.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(mine.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key((key or mine).public_key()),
            critical=False,
        )
        .add_extension(
            x509.KeyUsage(
                digital_signature=True, key_cert_sign=authority, crl_sign=authority,
                content_commitment=False, key_encipherment=False, data_encipherment=False,
                key_agreement=False, encipher_only=False, decipher_only=False,
            ),
            critical=True,
        )
    )  # fmt: skip
    if address:
        names = [x509.IPAddress(ipaddress.ip_address(address))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key or mine, hashes.SHA256()), mine


def pem(cert: x509.Certificate) -> str:
    return cert.public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As on a Primer: an issuing CA, whose root is not there."""
    folder = tmp_path_factory.mktemp("pki")
    root, root_key = certificate("offline root")
    authority, authority_key = certificate("site CA", root, root_key)
    leaf, key = certificate("p1", authority, authority_key, PRIMER)
    (folder / "site-ca.crt").write_text(pem(authority))
    (folder / "site.crt").write_text(pem(leaf))
    (folder / "site.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder


@pytest.fixture
def config() -> join_config.Config:
    items = [
        Item("binary", name, "v1.37.2", Digest(hashlib.sha256(content(name)).hexdigest()),
             len(content(name)))
        for name in BINARIES
    ]  # fmt: skip
    items += [
        Item("image", name, "v1", Digest("b" * 64), 1)
        for name in ("registry.k8s.io/pause", *addons.IMAGES.values())
    ]
    digest = Digest(hashlib.sha256(INSTALLER).hexdigest())
    items.append(Item("installer", "keystone-install", "0.1.0", digest, len(INSTALLER)))
    primer = Node("p1", ipaddress.IPv4Address(PRIMER))
    site = Site("lab", (primer,), Networks(ipaddress.IPv4Network("127.0.0.0/24")))
    context = Context(site, primer, Manifest("platform", 1, tuple(items)))
    return join_config.parse(json.loads(join_config.dump(context)))


@pytest.fixture
def kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of the cluster; the file `calls` in it has the arguments of kubectl."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    authority, key = certificate("kubernetes")
    (folder / "ca.crt").write_text(pem(authority))
    (folder / "ca.key").write_bytes(certificates.key_pem(key))
    join_rig.kubectl(folder)
    monkeypatch.setenv("KEYSTONE_PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.fixture(autouse=True)
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Place this machine's key and kubelet's files in the test's folder."""
    file, conf = tmp_path / "node.key", tmp_path / "kubelet.conf"
    monkeypatch.setattr(join_identity, "KEY", file)
    monkeypatch.setattr(join_identity, "KUBELET_CONF", conf)
    for name in ("place", "held"):
        real = getattr(join_identity, name)
        bound = partial(real, key=file, folder=tmp_path / "pki", conf=conf)
        monkeypatch.setattr(join_identity, name, bound)
    return file


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True)
class RunningService:
    """The join service, and its address."""

    service: join_server.Service
    server_address: tuple[str, int]


@pytest.fixture
def service(
    tmp_path: Path, pki: Path, config: join_config.Config, kubernetes: Path
) -> Iterator[RunningService]:
    cluster = join_cluster.Cluster(
        join_cluster.Here(), "kubeconfig", authority=str(kubernetes / "ca.crt")
    )
    made = join_server.Service(config, join.Tokens(tmp_path), cluster)
    short = Path(tempfile.mkdtemp(prefix="kstest-"))  # a socket's path holds 107 bytes
    with (
        serving(join_server.Server(short / "socket", made)),
        serving(front := join_rig.Front((PRIMER, 0), short / "socket", pki)),
    ):
        yield RunningService(made, (PRIMER, front.server_address[1]))
    shutil.rmtree(short)


def token_of(
    service: RunningService, pki: Path, *, ttl: int = 3600, now: int | None = None
) -> join.Token:
    pin = join_script.pin((pki / "site-ca.crt").read_text())
    started = int(service.service.clock()) if now is None else now
    token, record = join.new("worker", pin, now=started, ttl=ttl)
    service.service.tokens.add(record)
    return token


def ask(
    service: RunningService,
    pki: Path,
    token: join.Token,
    *,
    name: str = "w1",
    key: Path | None = None,
) -> dict[str, Any]:
    url = f"https://{PRIMER}:{service.server_address[1]}"
    context = client.trust(pki / "site-ca.crt", token)
    csr = join_identity.made(name, key or join_identity.KEY)
    return client.ask([url], context, token, name, csr)


def calls(kubernetes: Path, verb: str) -> list[str]:
    """Return the recorded calls of kubectl that begin with a verb."""
    file = kubernetes / "calls"
    lines = file.read_text().splitlines() if file.exists() else []
    return [line for line in lines if line.startswith(verb)]


def test_worker_gets_the_complete_answer_and_the_same_one_again(
    service: RunningService, pki: Path, kubernetes: Path
) -> None:
    token = token_of(service, pki)
    first, second = (ask(service, pki, token) for _ in range(2))
    assert first == second
    assert list(first["roles"]) == list(ROLES)
    assert first["roles"]["node"]["node_name"] == "w1"
    assert first["identity"]["authority"] == (kubernetes / "ca.crt").read_text()
    signed = x509.load_pem_x509_certificate(first["identity"]["certificate"].encode())
    assert certificates.same_key(
        signed, certificates.load_key(join_identity.KEY.read_bytes(), "node.key")
    )
    assert {blob["name"] for blob in first["blobs"]} == set(BINARIES)
    assert first["trial"] is False
    assert len(calls(kubernetes, "certificate approve keystone-join-w1")) == 1
    for _ in range(5):
        assert ask(service, pki, token) == first
    assert len(calls(kubernetes, "create")) == 2, "one request and its node"
    claim = service.service.tokens.claimed(token.id)
    assert claim is not None


def test_used_token_is_refused_for_another_machine_without_signing(
    service: RunningService, pki: Path, kubernetes: Path, tmp_path: Path
) -> None:
    token = token_of(service, pki)
    ask(service, pki, token)
    for name, key, word in (
        ("w1", tmp_path / "thief.key", "already used by w1"),
        ("w2", join_identity.KEY, "already used by w1"),
        ("p1", join_identity.KEY, "is a Primer"),
    ):
        with pytest.raises(RefusedError, match=word):
            ask(service, pki, token, name=name, key=key)
    assert len(calls(kubernetes, "create")) == 2, "one request and its node"


def test_refusal_of_a_taken_name_leaves_the_token_unused(
    service: RunningService, pki: Path, kubernetes: Path, tmp_path: Path
) -> None:
    node = {"kind": "Node", "metadata": {"name": "w1"}}
    (kubernetes / "node-w1.json").write_text(json.dumps(node))
    token = token_of(service, pki)
    with pytest.raises(RefusedError, match="node w1 exists"):
        ask(service, pki, token)
    assert service.service.tokens.claimed(token.id) is None
    assert ask(service, pki, token, name="w2", key=tmp_path / "w2.key")["identity"]


def test_name_stays_reserved_after_the_cluster_deleted_the_request(
    service: RunningService, pki: Path, kubernetes: Path, tmp_path: Path
) -> None:
    """The controller manager deletes an approved request after an hour; certificates stay valid.

    Another machine or a new Primer cannot take the name; the machine that has it can join again.
    """
    ask(service, pki, token_of(service, pki))
    (kubernetes / "csr-keystone-join-w1.json").unlink()
    with pytest.raises(RefusedError, match="node w1 exists"):
        ask(service, pki, token_of(service, pki), key=tmp_path / "other.key")
    primer = NewPrimer(kubernetes, tmp_path / "primer")
    with pytest.raises(join_cluster.TakenError, match="kubectl delete node/w1"):
        join_cluster.give(primer, "w1", primer, "installer")
    for _ in range(2):
        join_cluster.give(primer, "w7", primer, "installer")
        (kubernetes / "csr-keystone-join-w7.json").unlink()
    assert ask(service, pki, token_of(service, pki))["identity"]


def test_interrupted_join_resumes_without_request_and_claims(
    service: RunningService, pki: Path, kubernetes: Path, tmp_path: Path,
) -> None:  # fmt: skip
    """By the annotation of the Node: for a Primer a day later, for a worker by another Primer."""
    request = kubernetes / "csr-keystone-join-p4.json"
    (kubernetes / "ca.key").rename(tmp_path / "ca.key")  # no controller manager runs
    primer = NewPrimer(kubernetes, tmp_path / "primer")
    with pytest.raises(HostError):
        join_cluster.give(primer, "p4", primer, "installer")
    request.unlink()
    (tmp_path / "ca.key").rename(kubernetes / "ca.key")
    join_cluster.give(primer, "p4", primer, "installer")
    assert (tmp_path / "primer/kubelet.conf").exists()

    ask(service, pki, token_of(service, pki))
    (kubernetes / "csr-keystone-join-w1.json").unlink()
    shutil.rmtree(tmp_path / "claims")
    with pytest.raises(RefusedError, match="node w1 exists"):
        ask(service, pki, token_of(service, pki), key=tmp_path / "other.key")
    assert ask(service, pki, token_of(service, pki))["identity"]


def test_worker_joined_by_an_older_installer_is_refused(
    service: RunningService, pki: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ANSWER", tmp_path / "answer.json")
    monkeypatch.setattr(client, "DONE", tmp_path / "done")
    monkeypatch.setattr(client, "findings", lambda *_: [])
    client.DONE.write_text("")
    client.ANSWER.write_text(json.dumps({"roles": {}, "blobs": [], "primers": []}))
    with pytest.raises(RefusedError, match="an older installer joined"):
        client.main(["https://127.0.0.1:1"], token_of(service, pki), pki / "site-ca.crt")


@dataclass(frozen=True)
class NewPrimer:
    """A new Primer: runs `node-identity`, and kubectl as on a control plane."""

    cluster: Path
    folder: Path

    def run(
        self, argv: Sequence[str], *, data: str | None = None, check: bool = True
    ) -> run.Result:
        """As keystone.run.Host.run."""
        key, conf = self.folder / "node.key", self.folder / "kubelet.conf"
        output = ""
        if argv[0] == "cat":
            argv = ["cat", str(self.cluster / "ca.crt")]
        if argv[0] != "installer":
            return join_cluster.Here().run(argv, data=data, check=check)
        if argv[2] == "request":
            output = join_identity.made(argv[3], key)
        elif argv[2] == "held":
            there = HELD(argv[3], key=key, folder=self.folder / "pki", conf=conf)
            output = "yes" if there else "no"
        else:
            identity = join_identity.Identity(**json.loads(data or ""))
            PLACE(identity, key=key, folder=self.folder / "pki", conf=conf)
        return run.Result(tuple(argv), 0, output, "", 0)


def test_token_revoked_before_its_claim_gets_no_certificate(
    service: RunningService, pki: Path, kubernetes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the first check of the token and its claim, `token revoke` finds no claim."""
    token = token_of(service, pki)
    tokens, claim = service.service.tokens, join.Tokens.claim

    def revoked(self: join.Tokens, token_id: str, claimed: join.Claim) -> None:
        assert self.claimed(token_id) is None
        self.revoke(token_id)
        claim(self, token_id, claimed)

    monkeypatch.setattr(join.Tokens, "claim", revoked)
    with pytest.raises(RefusedError, match="token revoked"):
        ask(service, pki, token)
    assert calls(kubernetes, "create")
    assert not calls(kubernetes, "certificate approve")
    assert tokens.claimed(token.id) is not None, "a second revocation finds the machine"


def test_run_after_a_failed_role_reuses_the_kept_answer(
    service: RunningService, pki: Path, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after many failures, as at an unattended start: no new request is sent."""
    monkeypatch.setattr(client, "ANSWER", tmp_path / "answer.json")
    monkeypatch.setattr(client, "DONE", tmp_path / "done")
    monkeypatch.setattr(client, "findings", lambda *_: [])
    monkeypatch.setattr(client, "observe", lambda: MACHINE)
    monkeypatch.setattr(join_script, "SITE_CA", tmp_path / "site-ca.crt")
    monkeypatch.setattr(client, "fetch_all", lambda *_: None)
    done: list[str] = []

    def fails(hostname: str, _roles: object) -> None:
        done.append(hostname)
        raise HostError("a role failed")

    monkeypatch.setattr(client, "converge", fails)
    server, token = f"https://{PRIMER}:{service.server_address[1]}", token_of(service, pki)
    for _ in range(7):
        with pytest.raises(HostError, match="a role failed"):
            client.main([server], token, pki / "site-ca.crt")
    assert len(done) == 7
    asked: list[str] = []
    real = client.ask

    def recorded(*words: Any) -> dict[str, Any]:
        asked.append(words[3])
        return real(*words)

    monkeypatch.setattr(client, "ask", recorded)
    with pytest.raises(HostError, match="a role failed"):
        client.main([server], token, pki / "site-ca.crt")
    assert asked == []
    other = token_of(service, pki)
    assert client.kept(other, "w1") is None
    answer = json.loads(client.ANSWER.read_text())
    elsewhere = {**answer, "address": "198.51.100.7"}
    client.ANSWER.write_text(json.dumps(elsewhere))
    assert client.kept(token, "w1") is None, "this machine has another address now"
    client.ANSWER.write_text(json.dumps(answer))
    assert client.kept(token, "w2") is None
    monkeypatch.setattr(client.time, "time", lambda: 4e9)
    assert client.kept(token, "w1") is None
    monkeypatch.undo()
    monkeypatch.setattr(client, "ANSWER", tmp_path / "answer.json")
    monkeypatch.setattr(join_identity, "KEY", tmp_path / "another.key")
    assert client.kept(token, "w1") is None
    monkeypatch.setattr(join_identity, "KEY", key)
    assert client.kept(token, "w1") is not None


def test_node_that_the_site_removed_is_refused(
    machine: list[str], service: RunningService, pki: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    joins(service, pki)
    monkeypatch.setattr(standing, "KUBECTL", ("true",))
    with pytest.raises(
        RefusedError, match="w1 joined before, but the site no longer has this node"
    ):
        joins(service, pki)
    assert machine == ["w1"]
    monkeypatch.setattr(standing, "KUBECTL", ("false",))  # the API does not answer
    joins(service, pki)


@pytest.fixture
def machine(
    service: RunningService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[str]]:
    """A machine on which converging succeeds and is recorded."""
    converged: list[str] = []

    def converge(hostname: str, _roles: object) -> None:
        converged.append(hostname)
        client.DONE.write_text("")

    monkeypatch.setattr(client, "ANSWER", tmp_path / "answer.json")
    monkeypatch.setattr(client, "DONE", tmp_path / "etc/done")
    monkeypatch.setattr(standing, "CONTROL_PLANE", tmp_path / "kube-apiserver.yaml")
    monkeypatch.setattr(join_script, "SITE_CA", tmp_path / "etc/site-ca.crt")
    monkeypatch.setattr(client, "findings", lambda *_: [])
    monkeypatch.setattr(client, "observe", lambda: MACHINE)
    monkeypatch.setattr(client, "fetch_all", lambda *_: None)
    monkeypatch.setattr(client, "converge", converge)
    monkeypatch.setattr(standing, "KUBECTL", ("echo", "node/w1"))
    return converged


def joins(service: RunningService, pki: Path) -> None:
    """Run the join command with a new token on this machine."""
    server = f"https://{PRIMER}:{service.server_address[1]}"
    client.main([server], token_of(service, pki), pki / "site-ca.crt")


def contents(folder: Path) -> dict[Path, bytes]:
    """Return the machine's files, without those of the cluster and the Primer."""
    own = ("etc", "pki", "answer.json", "kubelet.conf", "node.key", "kube-apiserver.yaml")
    files = [file for name in own for file in (folder / name, *(folder / name).rglob("*"))]
    return {file: file.read_bytes() for file in files if file.is_file()}


def test_node_converges_again_but_joins_no_other_site_and_no_second_name(
    service: RunningService, machine: list[str], pki: Path, kubernetes: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    joins(service, pki)
    joins(service, pki)
    assert machine == ["w1", "w1"]
    assert len(calls(kubernetes, "create")) == 2, "it sent one request"
    before, asked = contents(tmp_path), len(calls(kubernetes, ""))
    other = tmp_path / "other.crt"
    other.write_text(pem(certificate("site CA")[0]))
    elsewhere, _ = join.new("worker", join_script.pin(other.read_text()), now=0, ttl=60)
    with pytest.raises(RefusedError, match="already part of a cluster"):
        client.main(["https://127.0.0.1:1"], elsewhere, other)
    # After a revocation, its owner gives the machine another name and makes another token.
    monkeypatch.setattr(client, "observe", lambda: replace(MACHINE, hostname="w2"))
    with pytest.raises(RefusedError, match="not as worker w2 of this site") as caught:
        joins(service, pki)
    assert "kubeadm reset" in caught.value.hint
    monkeypatch.setattr(client, "observe", lambda: MACHINE)
    (tmp_path / "kube-apiserver.yaml").touch()
    with pytest.raises(RefusedError, match="already part of a cluster"):
        joins(service, pki)
    (tmp_path / "kube-apiserver.yaml").unlink()
    assert contents(tmp_path) == before
    assert machine == ["w1", "w1"]
    assert len(calls(kubernetes, "")) == asked
    # After the hint's commands, the machine can have its name again.
    for gone in ("kubelet.conf", "etc/done"):
        (tmp_path / gone).unlink()
    shutil.rmtree(tmp_path / "pki")
    joins(service, pki)
    assert machine == ["w1", "w1", "w1"]


@pytest.mark.parametrize("site_ca", [False, True])
def test_node_of_a_foreign_cluster_is_refused_and_unchanged(
    service: RunningService, machine: list[str], pki: Path, kubernetes: Path, tmp_path: Path,
    site_ca: bool,
) -> None:  # fmt: skip
    """A cluster made by kubeadm, or another site, even with the same node name."""
    (tmp_path / "kubelet.conf").write_text("a node of theirs")
    (tmp_path / "pki").mkdir()
    subject = x509.Name([
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes"),
        x509.NameAttribute(NameOID.COMMON_NAME, "system:node:w1"),
    ])  # fmt: skip
    now, their = dt.datetime.now(dt.UTC), certificates.new_key()
    signed = x509.CertificateBuilder(
        subject, subject, their.public_key(), 1, now, now + dt.timedelta(days=1)
    ).sign(their, hashes.SHA256())
    (tmp_path / "pki" / join_identity.CURRENT).write_text(pem(signed))
    if site_ca:
        join_script.SITE_CA.parent.mkdir()
        join_script.SITE_CA.write_text(pem(certificate("their site CA")[0]))
    before = contents(tmp_path)
    with pytest.raises(RefusedError, match="already part of a cluster"):
        joins(service, pki)
    assert contents(tmp_path) == before
    assert calls(kubernetes, "") == []
    assert machine == []


def test_join_killed_at_any_file_completes_when_run_again(
    service: RunningService, machine: list[str], pki: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Killed before and after each file that it writes; then run with another token."""
    real, name = files.write_whole, "write_whole"
    kills = [
        (where, after) for where in ("answer.json", "site-ca.crt", join_identity.JOINED,
                                     "kubelet.conf") for after in (False, True)
    ]  # fmt: skip
    for where, after in kills:
        for module in (client, join_identity):

            def kill(
                file: Path, data: bytes, mode: int, where: str = where, after: bool = after
            ) -> None:
                if file.name != where or after:
                    real(file, data, mode)
                if file.name == where:
                    raise SystemExit("killed")

            monkeypatch.setattr(module, name, kill)
        with pytest.raises(SystemExit, match="killed"):
            joins(service, pki)
        for module in (client, join_identity):
            monkeypatch.setattr(module, name, real)
        joins(service, pki)
        for gone in ("etc", "pki"):
            shutil.rmtree(tmp_path / gone)
        for gone in ("answer.json", "kubelet.conf"):
            (tmp_path / gone).unlink()
    assert machine == ["w1"] * len(kills)


def test_join_interrupted_before_signing_resumes(
    service: RunningService, pki: Path, kubernetes: Path
) -> None:
    token = token_of(service, pki)
    request = join_identity.checked(join_identity.made("w1", join_identity.KEY), "w1")
    service.service.cluster.reserve(request, again=False)
    service.service.tokens.claim(token.id, join.Claim("w1", 1, request.key, "127.0.0.1"))
    assert ask(service, pki, token)["identity"]
    assert len(calls(kubernetes, "create")) == 2, "one request and its node"


def test_expired_and_unknown_tokens_are_refused_and_guessing_is_slowed(
    service: RunningService, pki: Path, kubernetes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RefusedError, match="expired"):
        ask(service, pki, token_of(service, pki, ttl=5, now=1000))
    good = token_of(service, pki)
    wrong = join.Token(good.id, "0" * 40, good.pin)
    for _ in range(9):
        with pytest.raises(RefusedError, match="does not know the token"):
            ask(service, pki, wrong)
    monkeypatch.setattr(client, "TRY_SECONDS", 0)
    with pytest.raises(HostError, match="too many"):
        ask(service, pki, wrong)
    assert not (kubernetes / "calls").exists()
    assert ask(service, pki, good)["identity"], "a valid token is not delayed"


def test_request_is_retried_while_the_cluster_does_not_answer(
    service: RunningService, pki: Path, kubernetes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kubernetes / "broken").touch()
    monkeypatch.setattr(client, "TRY_SECONDS", 0)
    token = token_of(service, pki)
    with pytest.raises(HostError, match="cannot admit workers now"):
        ask(service, pki, token)
    (kubernetes / "broken").unlink()
    assert ask(service, pki, token)["blobs"]


def test_ca_of_another_site_is_refused_before_any_request(
    service: RunningService, pki: Path, tmp_path: Path
) -> None:
    token = token_of(service, pki)
    foreign = tmp_path / "foreign.crt"
    foreign.write_text(pem(certificate("other CA")[0]))
    with pytest.raises(RefusedError, match="not the CA"):
        client.trust(foreign, token)


def test_join_command_of_a_trial_site_is_refused_by_a_production_site(
    service: RunningService, pki: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ANSWER", tmp_path / "answer.json")
    monkeypatch.setattr(client, "DONE", tmp_path / "done")
    monkeypatch.setattr(client, "findings", lambda *_: [])
    monkeypatch.setattr(client, "observe", lambda: MACHINE)
    server = f"https://{PRIMER}:{service.server_address[1]}"
    with pytest.raises(RefusedError, match="the site is not a trial site"):
        client.main([server], token_of(service, pki), pki / "site-ca.crt", trial=True)
    assert not (tmp_path / "answer.json").exists()


def raw(service: RunningService, pki: Path, text: bytes) -> bytes:
    """Send bytes, and return the status line of the answer."""
    context = ssl.create_default_context(cafile=pki / "site-ca.crt")
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    with (
        closing(socket.create_connection((PRIMER, service.server_address[1]), 30)) as plain,
        context.wrap_socket(plain, server_hostname=PRIMER) as link,
    ):
        link.sendall(text)
        return link.recv(4096).split(b"\r\n")[0]


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (b"POST /v1/join HTTP/1.1\r\n\r\n", b"411"),
        (b"POST /v1/join HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"411"),
        (b"POST /v1/join HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", b"413"),
        (b"POST /v1/join HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", b"400"),
        (b"POST /v1/other HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", b"404"),
        (b"GET /v1/health HTTP/1.1\r\n\r\n", b"200"),
        (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", b"404"),
    ],
)
def test_invalid_requests_get_the_right_status(
    service: RunningService, pki: Path, request_text: bytes, status: bytes
) -> None:
    assert status in raw(service, pki, request_text)


def test_silent_connection_does_not_block_others(service: RunningService, pki: Path) -> None:
    with closing(socket.create_connection((PRIMER, service.server_address[1]), 30)):
        assert ask(service, pki, token_of(service, pki))["blobs"]


class FileServer(http.server.ThreadingHTTPServer):
    """files: content by path. asked: paths and ranges. truncate: paths to send incomplete once."""

    files: dict[str, bytes]
    asked: list[tuple[str, str | None]]
    truncate: set[str]


class Files(http.server.BaseHTTPRequestHandler):
    """Serves files and ranges as nginx does; sends those in `truncate` incomplete once."""

    server: FileServer

    def do_GET(self) -> None:
        data = self.server.files.get(self.path)
        self.server.asked.append((self.path, self.headers.get("Range")))
        if data is None:
            self.send_error(404)
            return
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        body = data[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.path in self.server.truncate:
            self.server.truncate.remove(self.path)
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Silence."""


@contextmanager
def file_server(
    pki: Path, files: dict[str, bytes], port: int = 0, truncate: Sequence[str] = ()
) -> Iterator[FileServer]:
    # Tests run in parallel, and a fixed port can be used by one at a time.
    with (Path(tempfile.gettempdir()) / f"keystone-test-port-{port}").open("w") as lock:
        if port:
            fcntl.flock(lock, fcntl.LOCK_EX)
        server = FileServer((PRIMER, port), Files)
        server.files, server.asked, server.truncate = files, [], set(truncate)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(pki / "site.crt", pki / "site.key")
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        with serving(server):
            yield server


def blob(name: str) -> dict[str, Any]:
    digest = hashlib.sha256(content(name)).hexdigest()
    return {"sha256": digest, "size": len(content(name)), "name": name}


def test_fetch_resumes_and_retries_another_primer_after_wrong_content(
    service: RunningService, pki: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "BLOBS", tmp_path / "blobs")
    token = token_of(service, pki)
    context = client.trust(pki / "site-ca.crt", token)
    wanted = [blob(name) for name in BINARIES]
    correct = {f"/files/sha256/{blob(name)['sha256']}": content(name) for name in BINARIES}
    broken = f"/files/sha256/{wanted[0]['sha256']}"
    wrong = {path: b"x" * len(data) for path, data in correct.items()}
    with (
        file_server(pki, wrong) as bad_primer,
        file_server(pki, correct, truncate=[broken]) as primer,
    ):
        primers = [f"{PRIMER}:{server.server_address[1]}" for server in (bad_primer, primer)]
        client.fetch_all(wanted, primers, context)
        asked = len(primer.asked)
        client.fetch_all(wanted, primers, context)
        assert len(primer.asked) == asked
    for name in BINARIES:
        assert (tmp_path / "blobs" / blob(name)["sha256"]).read_bytes() == content(name)
    assert not list((tmp_path / "blobs").glob("*.part"))


@pytest.mark.parametrize(
    "digest", ["../../../etc/keystone/x", "a" * 63, "A" * 64, "a" * 64 + "\n", 7]
)
def test_malformed_digest_is_refused_before_any_file(
    digest: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "BLOBS", tmp_path / "blobs")
    monkeypatch.setattr(client, "TRY_SECONDS", 0)
    one = {"sha256": digest, "size": 1, "name": "kubelet"}
    with pytest.raises(HostError, match="is not a SHA-256"):
        client.fetch_all([one], [f"{PRIMER}:1"], ssl.create_default_context())
    assert list(tmp_path.iterdir()) == []


def test_interrupted_download_resumes_with_a_range(
    service: RunningService, pki: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "BLOBS", tmp_path / "blobs")
    context = client.trust(pki / "site-ca.crt", token_of(service, pki))
    one = blob("kubelet")
    path = f"/files/sha256/{one['sha256']}"
    with file_server(pki, {path: content("kubelet")}, truncate=[path]) as primer:
        client.fetch_all([one], [f"{PRIMER}:{primer.server_address[1]}"], context)
        ranges = [wanted for _, wanted in primer.asked]
    assert ranges == ["bytes=0-", f"bytes={one['size'] // 2}-"]


def test_printed_command_fetches_the_installer_and_runs_it(
    pki: Path, tmp_path: Path, config: join_config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "join.py"
    digest = join_script.write(config, ca_file=pki / "site-ca.crt", path=script)
    token, _ = join.new("worker", "c" * 64, now=0, ttl=60)
    words = ["sh"]
    pasted = join_script.command(config, token, digest)
    root, anywhere = tmp_path / "root", tmp_path / "anywhere"
    anywhere.mkdir()
    for module in ("hashlib", "ssl", "os"):  # of a user who may write where root pastes the command
        (anywhere / f"{module}.py").write_text("raise SystemExit('foreign module')")
    # A proxy, as in an office's /etc/environment; it must not be used.
    env = {"KEYSTONE_ROOT": str(root), "https_proxy": "http://127.0.0.1:9"}
    installer = "/files/keystone-install"
    files = {"/join": script.read_bytes(), installer: INSTALLER}
    with file_server(pki, files, join_script.FILES_PORT, truncate=[installer]) as server:
        done = run.run(words, data=pasted, env=env, timeout=120, cwd=anywhere)
        ca_file = root / "var/lib/keystone/join/ca.crt"
        assert done.stdout.splitlines()[-9:] == [
            "join", "--ca-file", str(ca_file),
            "--server", f"https://{PRIMER}:8444", "--token-file", "-",
            f"on standard input: {token}", "no process shows the token",
        ]  # fmt: skip
        assert ca_file.read_text() == (pki / "site-ca.crt").read_text()
        assert not (root / "etc").exists(), "not before the site has admitted the machine"
        target = root / "usr/local/bin/keystone-install"
        assert target.read_bytes() == INSTALLER
        assert stat.S_IMODE(target.stat().st_mode) == 0o755
        asked = len(server.asked)
        run.run(words, data=pasted, env=env, timeout=120)
        assert [path for path, _ in server.asked[asked:]] == ["/join"]
        api_server = root / "etc/kubernetes/manifests/kube-apiserver.yaml"
        api_server.parent.mkdir(parents=True)
        api_server.touch()
        with pytest.raises(run.CommandError, match="runs a control plane"):
            run.run(words, data=pasted, env=env, timeout=120)
        server.files["/join"] += b"\n# changed on the way"
        with pytest.raises(run.CommandError, match="not the script of this site"):
            run.run(words, data=pasted, env=env, timeout=120)


def test_refusals_are_logged_without_the_secret(
    service: RunningService, pki: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.configure(json_lines=True)
    try:
        good = token_of(service, pki)
        with pytest.raises(RefusedError):
            ask(service, pki, join.Token(good.id, "0" * 40, good.pin))
    finally:
        log.configure()
    output = capsys.readouterr().err
    assert "refused" in output
    assert "0" * 40 not in output


def test_full_disk_of_the_primer_is_logged(
    service: RunningService, pki: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "claims/x.json")

    monkeypatch.setattr(join.Tokens, "claim", full)
    monkeypatch.setattr(client, "TRY_SECONDS", 0)
    with pytest.raises(HostError):
        ask(service, pki, token_of(service, pki))
    assert "No space left on device" in capsys.readouterr().err


# From a medium: `token create --to` writes join.yaml, and the disk's first start joins with it.


@pytest.fixture
def primer(
    service: RunningService, pki: Path, config: join_config.Config,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> Path:  # fmt: skip
    """A Primer on which `token create` runs; returns the folder of an empty stick."""
    monkeypatch.setattr(join_config, "load", lambda: config)
    monkeypatch.setattr(join_script, "SITE_CA", pki / "site-ca.crt")
    monkeypatch.setattr(join_script, "write", partial(join_script.write, path=tmp_path / "join.py"))
    monkeypatch.setattr(join_config, "PORT", service.server_address[1])
    monkeypatch.setattr(join, "DIRECTORY", tmp_path)
    # The machines of these tests are on loopback, which a site may not use.
    ranges = checks.NOT_FOR_MACHINES
    elsewhere = {network: why for network, why in ranges.items() if why != "loopback"}
    monkeypatch.setattr(checks, "NOT_FOR_MACHINES", elsewhere)
    stick = tmp_path / "stick"
    stick.mkdir()
    return stick


def create(*words: str | Path) -> Result:
    return CliRunner().invoke(token_verbs, ["create", *map(str, words)])


def test_token_create_to_adds_a_worker_and_drops_revoked_tokens(primer: Path) -> None:
    file = primer / "join.yaml"
    about = ("--name", "w1", "--machine-serial", "M1", "--mac", "52:54:00:00:00:2A",
             "--address", "127.0.0.21", "--disk", "SYS1")  # fmt: skip
    done = create("--to", primer, *about)
    assert done.exit_code == 0
    assert join_script.pin(join_script.SITE_CA.read_text())[:16] in done.output
    assert create("--to", primer, "--ttl", "7d").exit_code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    one, two = join_yaml.load(file).workers
    assert (one.name, one.machine) == ("w1", Machine("M1", ("52:54:00:00:00:2a",)))
    assert (str(one.address), one.system_disk, two.machine) == ("127.0.0.21", "SYS1", None)
    tokens = join.Tokens(join.DIRECTORY)
    assert len(tokens.all()) == 2
    refused = create("--to", primer, *about)
    assert isinstance(refused.exception, ConfigurationError)
    assert join_yaml.load(file).workers == (one, two)
    assert len(tokens.all()) == 2
    tokens.revoke(join.Token.parse(one.token).id)
    assert create("--to", primer, *about).exit_code == 0
    kept, new = join_yaml.load(file).workers
    assert kept == two
    assert (new.name, new.token == one.token) == ("w1", False)


@pytest.mark.parametrize("words", [("--name", "w1"), ("--disk", "X"), ("--mac", "x")])
def test_token_create_refuses_machine_options_without_to(
    primer: Path, words: tuple[str, str]
) -> None:
    assert isinstance(create(*words).exception, UsageError)
    assert not join.Tokens(join.DIRECTORY).all()


def test_token_create_without_to_prints_the_command(primer: Path) -> None:
    output = create().output
    assert "python3 -I -c" in output
    assert not list(primer.iterdir())


@pytest.fixture
def worker(
    primer: Path, pki: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """The first start of a written disk, up to the roles, which are only recorded."""
    assert create("--to", primer, "--name", "w1", "--machine-serial", "M1").exit_code == 0
    known = join_yaml.load(primer / "join.yaml")
    monkeypatch.setattr(join_script, "SITE_CA", Path("/etc/keystone/pki/site-ca.crt"))
    state = writing.seeded(tmp_path / "disk", installing.worker_files(known, known.workers[0]))
    recorded: dict[str, Any] = {"file": state / installing.JOIN}
    monkeypatch.setattr(first_start, "CONFIG", state / "etc/keystone")
    monkeypatch.setattr(first_start, "DONE", state / "installed")
    monkeypatch.setattr(join_script, "SITE_CA", state / "etc/keystone/pki/site-ca.crt")
    monkeypatch.setattr(client, "observe", lambda: MACHINE)
    monkeypatch.setattr(client, "DONE", state / "done")
    monkeypatch.setattr(client, "ANSWER", state / "answer.json")
    monkeypatch.setattr(client, "BLOBS", state / "blobs")
    monkeypatch.setattr(
        client, "converge", lambda name, roles: recorded.update(name=name, roles=list(roles))
    )
    return recorded


def test_written_worker_joins_at_first_start_and_deletes_its_token(
    worker: dict[str, Any], pki: Path
) -> None:
    blobs = {f"/files/sha256/{blob(name)['sha256']}": content(name) for name in BINARIES}
    with file_server(pki, blobs, join_script.FILES_PORT):
        first_start.main()
    assert worker["name"] == "w1"
    assert tuple(worker["roles"]) == ROLES
    assert not worker["file"].exists()
    assert first_start.DONE.exists()
    worker.clear()
    first_start.main()
    assert worker == {}


def test_first_start_without_a_primer_fails_and_succeeds_once_one_answers(
    service: RunningService, worker: dict[str, Any], pki: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    text = worker["file"].read_text()
    with socket.socket() as unused:
        unused.bind((PRIMER, 0))
        away = text.replace(f":{service.server_address[1]}", f":{unused.getsockname()[1]}")
    worker["file"].write_text(away)
    monkeypatch.setattr(client, "TRY_SECONDS", 0)
    with pytest.raises(HostError, match="Connection refused") as caught:
        first_start.main()
    assert "check that the Primers are up" in caught.value.hint
    assert "trying again" in capsys.readouterr().err
    assert worker["file"].read_text() == away
    worker["file"].write_text(text)
    blobs = {f"/files/sha256/{blob(name)['sha256']}": content(name) for name in BINARIES}
    with file_server(pki, blobs, join_script.FILES_PORT):
        first_start.main()
    assert first_start.DONE.exists()


def test_first_start_with_a_refused_token_keeps_it_and_names_the_remedy(
    service: RunningService, worker: dict[str, Any]
) -> None:
    (record,) = service.service.tokens.all()
    service.service.tokens.revoke(record.id)
    with pytest.raises(RefusedError, match="token revoked") as caught:
        first_start.main()
    assert "token create" in caught.value.hint
    assert worker["file"].exists()
    assert not first_start.DONE.exists()


def test_problem_of_certificate_dates_mentions_the_clock(pki: Path) -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = 9, "certificate is not yet valid"
    text = client.problem(error, 0)
    assert text.startswith("certificate is not yet valid; check this machine's clock")
    assert "1970-01-01 00:00 UTC" in text
    error.verify_code = 20
    assert "clock" not in client.problem(error, 0)


def test_revoking_a_used_token_removes_its_node(
    service: RunningService, primer: Path, pki: Path, kubernetes: Path
) -> None:
    token, unused = token_of(service, pki), token_of(service, pki)
    ask(service, pki, token)
    before = len(calls(kubernetes, ""))
    assert CliRunner().invoke(token_verbs, ["revoke", unused.id]).exit_code == 0
    assert len(calls(kubernetes, "")) == before
    asked = CliRunner().invoke(token_verbs, ["revoke", token.id]).exception
    assert isinstance(asked, RefusedError)
    assert "node w1 (127.0.0.1, joined 20" in asked.message
    assert f"revoke {token.id} --yes" in asked.hint
    assert len(calls(kubernetes, "")) == before
    assert CliRunner().invoke(token_verbs, ["revoke", token.id, "--yes"]).exit_code == 0
    done = [" ".join(line.split()[:3]) for line in calls(kubernetes, "")[before:]]
    assert done == [
        "patch -n kube-system", "get csr -o", "delete csr keystone-join-w1", "delete node w1",
        "delete pods",
    ]  # fmt: skip
    with pytest.raises(RefusedError, match="revoked"):
        ask(service, pki, token)


def test_revoke_node_removes_a_node_by_name(primer: Path, kubernetes: Path) -> None:
    """For a node whose token another Primer made, or one that no longer exists."""
    revoke = partial(CliRunner().invoke, token_verbs)
    refused = revoke(["revoke", "--node", "w9"]).exception
    assert isinstance(refused, RefusedError)
    assert "token revoke --node w9 --yes" in refused.hint
    both = ["0" * 12, "--node", "w9"]
    for words in ([], both, ["--node", "p1"], ["--node=--all"], ["--node", "w1 w2"]):
        assert isinstance(revoke(["revoke", *words, "--yes"]).exception, UsageError), words
    assert calls(kubernetes, "") == []
    removed = revoke(["revoke", "--node", "w9", "--yes"])
    assert removed.exit_code == 0, removed.exception
    done = [" ".join(line.split()[:3]) for line in calls(kubernetes, "")]
    assert done == [
        "patch -n kube-system", "get csr -o", "delete csr keystone-join-w9", "delete node w9",
        "delete pods",
    ]  # fmt: skip


def test_revoke_accepts_an_older_workers_name_that_is_now_invalid(
    service: RunningService, primer: Path, pki: Path, kubernetes: Path
) -> None:
    token = token_of(service, pki)
    service.service.tokens.claim(token.id, join.Claim("debian", 1, "k", "127.0.0.1"))
    assert CliRunner().invoke(token_verbs, ["revoke", token.id, "--yes"]).exit_code == 0
    assert calls(kubernetes, "delete node debian")


@pytest.mark.parametrize("name", ["p1", "--all", "w1 w2", ""])
def test_revoke_refuses_an_invalid_name_in_a_claim(
    service: RunningService, primer: Path, pki: Path, kubernetes: Path, name: str
) -> None:
    token = token_of(service, pki)
    service.service.tokens.claim(token.id, join.Claim(name, 1, "k", "127.0.0.1"))
    error = CliRunner().invoke(token_verbs, ["revoke", token.id, "--yes"]).exception
    assert isinstance(error, RefusedError)
    assert "join/claims" in error.hint
    assert calls(kubernetes, "") == []


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--token", "ks1.a.b.c"), "--token-file FILE"),
        ((), "--token-file FILE"),
        (("--token-file", "-"), "copy the whole command"),
    ],
)
def test_join_takes_the_token_from_a_file_never_as_argument(
    words: tuple[str, ...], hint: str
) -> None:
    done = CliRunner().invoke(join_verb, ["--server", "https://10.77.0.11:8444", *words], "x\n")
    assert isinstance(done.exception, UsageError)
    assert hint in done.exception.hint


@pytest.mark.parametrize(
    "server",
    ["https://[::1", "https://10.0.0.1:99999", "https://10.0.0.1:x", "http://10.0.0.1:8444",
     "https://", "10.0.0.1:8444", "https://[10.0.0.1]:8444"],
)  # fmt: skip
def test_join_names_an_invalid_server(server: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("x")
    done = CliRunner().invoke(
        join_verb, ["--server", server, "--token-file", str(tmp_path / "token")]
    )
    assert isinstance(done.exception, UsageError), done.exception
    assert done.exception.message == f"--server {server}: not https://<primer>:8444"


def test_server_without_port_gets_the_port_of_the_join_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, _ = join.new("worker", "c" * 64, now=0, ttl=60)
    (tmp_path / "token").write_text(f"{token}\n")
    asked: list[str] = []
    monkeypatch.setattr(client, "main", lambda servers, *_, **__: asked.extend(servers))
    servers = ("https://10.0.0.1", "https://10.0.0.2:8445", "https://[fd00::1]")
    words = [word for server in servers for word in ("--server", server)]
    done = CliRunner().invoke(join_verb, [*words, "--token-file", str(tmp_path / "token")])
    assert done.exit_code == 0, done.exception
    assert asked == ["https://10.0.0.1:8444", "https://10.0.0.2:8445", "https://[fd00::1]:8444"]


def test_binary_file_as_token_or_ca_is_refused(pki: Path, tmp_path: Path) -> None:
    bad = tmp_path / "program"
    bad.write_bytes(b"\x7fELF\xff\xfe")
    words = ["--server", "https://10.0.0.1:8444", "--token-file"]
    done = CliRunner().invoke(join_verb, [*words, str(bad)])
    assert isinstance(done.exception, UsageError)
    assert done.exception.message == "not a join token"
    token, _ = join.new("worker", join_script.pin((pki / "site-ca.crt").read_text()), now=0, ttl=60)
    with pytest.raises(RefusedError, match="is not the CA in the token"):
        client.trust(bad, token)


class Later(http.server.BaseHTTPRequestHandler):
    """Sends the prepared answers: one of nginx itself, then a refusal of the service."""

    answers: ClassVar[list[tuple[int, bytes]]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status, body = self.answers.pop(0)
        self.send_response(status)
        self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Silence."""


@pytest.mark.parametrize("status", [429, 502, 503])
def test_answer_to_retry_later_is_not_a_refusal(
    pki: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(client, "_PAUSE", 0.1)
    Later.answers = [(status, b"<html>"), (403, b'{"error": "token revoked"}')]
    server = http.server.HTTPServer((PRIMER, 0), Later)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pki / "site.crt", pki / "site.key")
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    token, _ = join.new("worker", join_script.pin((pki / "site-ca.crt").read_text()), now=0, ttl=60)
    context = client.trust(pki / "site-ca.crt", token)
    url = f"https://{PRIMER}:{server.server_address[1]}"
    with serving(server), pytest.raises(RefusedError, match="token revoked"):
        client.ask([url], context, token, "w1", "")
    assert Later.answers == []
