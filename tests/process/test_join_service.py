"""The real join server behind a small front, a kubectl on PATH that notes its calls, and the real
client: the printed command, the script, the installer, the request, the blobs.
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
    """As on a Primer: the issuing CA is signed by a root that is not there."""
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
    """A folder that stands for the cluster; `calls` there is what kubectl was asked."""
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
    """This machine's key and kubelet's files, where a test may write."""
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
class Answering:
    """The join service, and where it is reached."""

    service: join_server.Service
    server_address: tuple[str, int]


@pytest.fixture
def service(
    tmp_path: Path, pki: Path, config: join_config.Config, kubernetes: Path
) -> Iterator[Answering]:
    cluster = join_cluster.Cluster(
        join_cluster.Here(), "kubeconfig", authority=str(kubernetes / "ca.crt")
    )
    made = join_server.Service(config, join.Tokens(tmp_path), cluster)
    short = Path(tempfile.mkdtemp(prefix="kstest-"))  # a socket's path holds 107 bytes
    with (
        serving(join_server.Server(short / "socket", made)),
        serving(front := join_rig.Front((PRIMER, 0), short / "socket", pki)),
    ):
        yield Answering(made, (PRIMER, front.server_address[1]))
    shutil.rmtree(short)


def token_of(
    service: Answering, pki: Path, *, ttl: int = 3600, now: int | None = None
) -> join.Token:
    pin = join_script.pin((pki / "site-ca.crt").read_text())
    started = int(service.service.clock()) if now is None else now
    token, record = join.new("worker", pin, now=started, ttl=ttl)
    service.service.tokens.add(record)
    return token


def ask(
    service: Answering, pki: Path, token: join.Token, *, name: str = "w1", key: Path | None = None
) -> dict[str, Any]:
    url = f"https://{PRIMER}:{service.server_address[1]}"
    context = client.trust(pki / "site-ca.crt", token)
    csr = join_identity.made(name, key or join_identity.KEY)
    return client.ask([url], context, token, name, csr)


def calls(kubernetes: Path, verb: str) -> list[str]:
    """What kubectl was asked to do, of one kind."""
    file = kubernetes / "calls"
    lines = file.read_text().splitlines() if file.exists() else []
    return [line for line in lines if line.startswith(verb)]


def test_a_worker_is_told_everything_and_may_ask_again(
    service: Answering, pki: Path, kubernetes: Path
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


def test_another_machine_is_refused_and_nothing_is_signed(
    service: Answering, pki: Path, kubernetes: Path, tmp_path: Path
) -> None:
    token = token_of(service, pki)
    ask(service, pki, token)
    for name, key, word in (
        ("w1", tmp_path / "thief.key", "already used, by w1"),
        ("w2", join_identity.KEY, "already used, by w1"),
        ("p1", join_identity.KEY, "is a Primer"),
    ):
        with pytest.raises(RefusedError, match=word):
            ask(service, pki, token, name=name, key=key)
    assert len(calls(kubernetes, "create")) == 2, "one request and its node"


def test_a_name_that_is_there_costs_no_token(
    service: Answering, pki: Path, kubernetes: Path, tmp_path: Path
) -> None:
    node = {"kind": "Node", "metadata": {"name": "w1"}}
    (kubernetes / "node-w1.json").write_text(json.dumps(node))
    token = token_of(service, pki)
    with pytest.raises(RefusedError, match="node w1 is there"):
        ask(service, pki, token)
    assert service.service.tokens.claimed(token.id) is None
    assert ask(service, pki, token, name="w2", key=tmp_path / "w2.key")["identity"]


def test_a_name_stays_taken_when_the_cluster_has_forgotten_the_request(
    service: Answering, pki: Path, kubernetes: Path, tmp_path: Path
) -> None:
    """The controller manager deletes an approved request after an hour; the certificate lives on.

    Not for a machine that comes later, not for a new Primer; for the machine that has it, yes.
    """
    ask(service, pki, token_of(service, pki))
    (kubernetes / "csr-keystone-join-w1.json").unlink()
    with pytest.raises(RefusedError, match="node w1 is there"):
        ask(service, pki, token_of(service, pki), key=tmp_path / "other.key")
    primer = OfPrimer(kubernetes, tmp_path / "primer")
    with pytest.raises(join_cluster.TakenError, match="kubectl delete node/w1"):
        join_cluster.give(primer, "w1", primer, "installer")
    for _ in range(2):
        join_cluster.give(primer, "w7", primer, "installer")
        (kubernetes / "csr-keystone-join-w7.json").unlink()
    assert ask(service, pki, token_of(service, pki))["identity"]


def test_a_cut_join_goes_on_when_request_and_claims_are_gone(
    service: Answering, pki: Path, kubernetes: Path, tmp_path: Path,
) -> None:  # fmt: skip
    """By what the Node says of its key: a Primer the next morning, a worker by another Primer."""
    request = kubernetes / "csr-keystone-join-p4.json"
    (kubernetes / "ca.key").rename(tmp_path / "ca.key")  # no controller manager runs
    primer = OfPrimer(kubernetes, tmp_path / "primer")
    with pytest.raises(HostError):
        join_cluster.give(primer, "p4", primer, "installer")
    request.unlink()
    (tmp_path / "ca.key").rename(kubernetes / "ca.key")
    join_cluster.give(primer, "p4", primer, "installer")
    assert (tmp_path / "primer/kubelet.conf").exists()

    ask(service, pki, token_of(service, pki))
    (kubernetes / "csr-keystone-join-w1.json").unlink()
    shutil.rmtree(tmp_path / "claims")
    with pytest.raises(RefusedError, match="node w1 is there"):
        ask(service, pki, token_of(service, pki), key=tmp_path / "other.key")
    assert ask(service, pki, token_of(service, pki))["identity"]


def test_a_worker_of_an_older_installer_is_left_as_it_is(
    service: Answering, pki: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ANSWER", tmp_path / "answer.json")
    monkeypatch.setattr(client, "DONE", tmp_path / "done")
    monkeypatch.setattr(client, "findings", lambda *_: [])
    client.DONE.write_text("")
    client.ANSWER.write_text(json.dumps({"roles": {}, "blobs": [], "primers": []}))
    with pytest.raises(RefusedError, match="joined by an older installer"):
        client.main(["https://127.0.0.1:1"], token_of(service, pki), pki / "site-ca.crt")


@dataclass(frozen=True)
class OfPrimer:
    """A new Primer: its node-identity, its control plane's kubectl."""

    cluster: Path
    folder: Path

    def run(
        self, argv: Sequence[str], *, data: str | None = None, check: bool = True
    ) -> run.Result:
        """As keystone.run.Host.run."""
        key, conf = self.folder / "node.key", self.folder / "kubelet.conf"
        said = ""
        if argv[0] == "cat":
            argv = ["cat", str(self.cluster / "ca.crt")]
        if argv[0] != "installer":
            return join_cluster.Here().run(argv, data=data, check=check)
        if argv[2] == "request":
            said = join_identity.made(argv[3], key)
        elif argv[2] == "held":
            there = HELD(argv[3], key=key, folder=self.folder / "pki", conf=conf)
            said = "yes" if there else "no"
        else:
            identity = join_identity.Identity(**json.loads(data or ""))
            PLACE(identity, key=key, folder=self.folder / "pki", conf=conf)
        return run.Result(tuple(argv), 0, said, "", 0)


def test_a_token_that_is_revoked_meanwhile_signs_nothing(
    service: Answering, pki: Path, kubernetes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the first look at the token and its claim: `token revoke` sees nobody's claim."""
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
    assert tokens.claimed(token.id) is not None, "revoked again, it names the machine"


def test_a_run_that_failed_goes_on_with_what_it_was_answered(
    service: Answering, pki: Path, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Roles that fail again and again, at a start without a person, use up nothing."""
    monkeypatch.setattr(client, "ANSWER", tmp_path / "answer.json")
    monkeypatch.setattr(client, "DONE", tmp_path / "done")
    monkeypatch.setattr(client, "findings", lambda *_: [])
    monkeypatch.setattr(client, "look", lambda: MACHINE)
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

    def noted(*words: Any) -> dict[str, Any]:
        asked.append(words[3])
        return real(*words)

    monkeypatch.setattr(client, "ask", noted)
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


def test_a_node_that_was_taken_out_is_told_so(
    machine: list[str], service: Answering, pki: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    joins(service, pki)
    monkeypatch.setattr(standing, "KUBECTL", ("true",))
    with pytest.raises(RefusedError, match="w1 joined once, and the site has no such node"):
        joins(service, pki)
    assert machine == ["w1"]
    monkeypatch.setattr(standing, "KUBECTL", ("false",))  # an API that does not answer says nothing
    joins(service, pki)


@pytest.fixture
def machine(
    service: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[str]]:
    """A machine whose roles are noted; with them it is a whole node."""
    converged: list[str] = []

    def converge(hostname: str, _roles: object) -> None:
        converged.append(hostname)
        client.DONE.write_text("")

    monkeypatch.setattr(client, "ANSWER", tmp_path / "answer.json")
    monkeypatch.setattr(client, "DONE", tmp_path / "etc/done")
    monkeypatch.setattr(standing, "CONTROL_PLANE", tmp_path / "kube-apiserver.yaml")
    monkeypatch.setattr(join_script, "SITE_CA", tmp_path / "etc/site-ca.crt")
    monkeypatch.setattr(client, "findings", lambda *_: [])
    monkeypatch.setattr(client, "look", lambda: MACHINE)
    monkeypatch.setattr(client, "fetch_all", lambda *_: None)
    monkeypatch.setattr(client, "converge", converge)
    monkeypatch.setattr(standing, "KUBECTL", ("echo", "node/w1"))
    return converged


def joins(service: Answering, pki: Path) -> None:
    """The command with a new token, on this machine."""
    server = f"https://{PRIMER}:{service.server_address[1]}"
    client.main([server], token_of(service, pki), pki / "site-ca.crt")


def contents(folder: Path) -> dict[Path, bytes]:
    """Of the machine, not of the cluster or the Primer."""
    own = ("etc", "pki", "answer.json", "kubelet.conf", "node.key", "kube-apiserver.yaml")
    files = [file for name in own for file in (folder / name, *(folder / name).rglob("*"))]
    return {file: file.read_bytes() for file in files if file.is_file()}


def test_a_node_joins_no_second_time_and_nowhere_else(
    service: Answering, machine: list[str], pki: Path, kubernetes: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    joins(service, pki)
    joins(service, pki)
    assert machine == ["w1", "w1"]
    assert len(calls(kubernetes, "create")) == 2, "it asked once"
    before, asked = contents(tmp_path), len(calls(kubernetes, ""))
    other = tmp_path / "other.crt"
    other.write_text(pem(certificate("site CA")[0]))
    elsewhere, _ = join.new("worker", join_script.pin(other.read_text()), now=0, ttl=60)
    with pytest.raises(RefusedError, match="part of a cluster already"):
        client.main(["https://127.0.0.1:1"], elsewhere, other)
    # Revoked, its owner gives it another name and makes another token.
    monkeypatch.setattr(client, "look", lambda: replace(MACHINE, hostname="w2"))
    with pytest.raises(RefusedError, match="not as the worker w2 of this site") as caught:
        joins(service, pki)
    assert "kubeadm reset" in caught.value.hint
    monkeypatch.setattr(client, "look", lambda: MACHINE)
    (tmp_path / "kube-apiserver.yaml").touch()
    with pytest.raises(RefusedError, match="part of a cluster already"):
        joins(service, pki)
    (tmp_path / "kube-apiserver.yaml").unlink()
    assert contents(tmp_path) == before
    assert machine == ["w1", "w1"]
    assert len(calls(kubernetes, "")) == asked
    # What the hint says, and the name that it had is its own still.
    for gone in ("kubelet.conf", "etc/done"):
        (tmp_path / gone).unlink()
    shutil.rmtree(tmp_path / "pki")
    joins(service, pki)
    assert machine == ["w1", "w1", "w1"]


@pytest.mark.parametrize("site_ca", [False, True])
def test_a_node_of_somebody_elses_cluster_stays_one(
    service: Answering, machine: list[str], pki: Path, kubernetes: Path, tmp_path: Path,
    site_ca: bool,
) -> None:  # fmt: skip
    """Of kubeadm's, or of another site: whatever its name."""
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
    with pytest.raises(RefusedError, match="part of a cluster already"):
        joins(service, pki)
    assert contents(tmp_path) == before
    assert calls(kubernetes, "") == []
    assert machine == []


def test_a_join_that_is_cut_anywhere_ends_when_it_is_run_again(
    service: Answering, machine: list[str], pki: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Killed at each file that it writes, before it and after it; with another token too."""
    real, name = files.write_whole, "write_whole"
    cuts = [
        (where, after) for where in ("answer.json", "site-ca.crt", join_identity.JOINED,
                                     "kubelet.conf") for after in (False, True)
    ]  # fmt: skip
    for where, after in cuts:
        for module in (client, join_identity):

            def cut(
                file: Path, data: bytes, mode: int, where: str = where, after: bool = after
            ) -> None:
                if file.name != where or after:
                    real(file, data, mode)
                if file.name == where:
                    raise SystemExit("killed")

            monkeypatch.setattr(module, name, cut)
        with pytest.raises(SystemExit, match="killed"):
            joins(service, pki)
        for module in (client, join_identity):
            monkeypatch.setattr(module, name, real)
        joins(service, pki)
        for gone in ("etc", "pki"):
            shutil.rmtree(tmp_path / gone)
        for gone in ("answer.json", "kubelet.conf"):
            (tmp_path / gone).unlink()
    assert machine == ["w1"] * len(cuts)


def test_a_join_that_was_cut_before_it_was_signed_goes_on(
    service: Answering, pki: Path, kubernetes: Path
) -> None:
    token = token_of(service, pki)
    request = join_identity.checked(join_identity.made("w1", join_identity.KEY), "w1")
    service.service.cluster.reserve(request, again=False)
    service.service.tokens.claim(token.id, join.Claim("w1", 1, request.key, "127.0.0.1"))
    assert ask(service, pki, token)["identity"]
    assert len(calls(kubernetes, "create")) == 2, "one request and its node"


def test_expired_and_unknown_tokens_are_refused_and_guessing_is_slowed(
    service: Answering, pki: Path, kubernetes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RefusedError, match="expired"):
        ask(service, pki, token_of(service, pki, ttl=5, now=1000))
    good = token_of(service, pki)
    wrong = join.Token(good.id, "0" * 40, good.pin)
    for _ in range(9):
        with pytest.raises(RefusedError, match="unknown"):
            ask(service, pki, wrong)
    monkeypatch.setattr(client, "TRY_SECONDS", 0)
    with pytest.raises(HostError, match="too many"):
        ask(service, pki, wrong)
    assert not (kubernetes / "calls").exists()
    assert ask(service, pki, good)["identity"], "who has a good token waits for nobody"


def test_a_primer_whose_cluster_is_away_is_asked_again(
    service: Answering, pki: Path, kubernetes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kubernetes / "broken").touch()
    monkeypatch.setattr(client, "TRY_SECONDS", 0)
    token = token_of(service, pki)
    with pytest.raises(HostError, match="cannot admit workers now"):
        ask(service, pki, token)
    (kubernetes / "broken").unlink()
    assert ask(service, pki, token)["blobs"]


def test_another_sites_ca_is_refused_before_anything_is_sent(
    service: Answering, pki: Path, tmp_path: Path
) -> None:
    token = token_of(service, pki)
    foreign = tmp_path / "foreign.crt"
    foreign.write_text(pem(certificate("other CA")[0]))
    with pytest.raises(RefusedError, match="not the CA"):
        client.trust(foreign, token)


def test_a_command_for_a_trial_site_does_not_join_another(
    service: Answering, pki: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ANSWER", tmp_path / "answer.json")
    monkeypatch.setattr(client, "DONE", tmp_path / "done")
    monkeypatch.setattr(client, "findings", lambda *_: [])
    monkeypatch.setattr(client, "look", lambda: MACHINE)
    server = f"https://{PRIMER}:{service.server_address[1]}"
    with pytest.raises(RefusedError, match="the site is no trial site"):
        client.main([server], token_of(service, pki), pki / "site-ca.crt", trial=True)
    assert not (tmp_path / "answer.json").exists()


def raw(service: Answering, pki: Path, text: bytes) -> bytes:
    """The status line that some bytes are answered with."""
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
def test_requests_out_of_bounds_are_answered_with_their_status(
    service: Answering, pki: Path, request_text: bytes, status: bytes
) -> None:
    assert status in raw(service, pki, request_text)


def test_a_silent_connection_keeps_nobody_else_waiting(service: Answering, pki: Path) -> None:
    with closing(socket.create_connection((PRIMER, service.server_address[1]), 30)):
        assert ask(service, pki, token_of(service, pki))["blobs"]


class FileServer(http.server.ThreadingHTTPServer):
    """What it serves by path, what it was asked, and what it cuts once."""

    files: dict[str, bytes]
    asked: list[tuple[str, str | None]]
    cut: set[str]


class Files(http.server.BaseHTTPRequestHandler):
    """Files as nginx serves them, ranges too; what is told to be cut is cut once."""

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
        if self.path in self.server.cut:
            self.server.cut.remove(self.path)
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Silence."""


@contextmanager
def file_server(
    pki: Path, files: dict[str, bytes], port: int = 0, cut: Sequence[str] = ()
) -> Iterator[FileServer]:
    # Tests run side by side, and a port of the product's own is there once.
    with (Path(tempfile.gettempdir()) / f"keystone-test-port-{port}").open("w") as turn:
        if port:
            fcntl.flock(turn, fcntl.LOCK_EX)
        server = FileServer((PRIMER, port), Files)
        server.files, server.asked, server.cut = files, [], set(cut)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(pki / "site.crt", pki / "site.key")
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        with serving(server):
            yield server


def blob(name: str) -> dict[str, Any]:
    digest = hashlib.sha256(content(name)).hexdigest()
    return {"sha256": digest, "size": len(content(name)), "name": name}


def test_blobs_resume_and_a_lying_primer_is_left(
    service: Answering, pki: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "BLOBS", tmp_path / "blobs")
    token = token_of(service, pki)
    context = client.trust(pki / "site-ca.crt", token)
    wanted = [blob(name) for name in BINARIES]
    honest = {f"/files/sha256/{blob(name)['sha256']}": content(name) for name in BINARIES}
    broken = f"/files/sha256/{wanted[0]['sha256']}"
    lies = {path: b"x" * len(data) for path, data in honest.items()}
    with (
        file_server(pki, lies) as liar,
        file_server(pki, honest, cut=[broken]) as primer,
    ):
        primers = [f"{PRIMER}:{server.server_address[1]}" for server in (liar, primer)]
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
def test_what_is_no_digest_names_no_file(
    digest: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "BLOBS", tmp_path / "blobs")
    monkeypatch.setattr(client, "TRY_SECONDS", 0)
    one = {"sha256": digest, "size": 1, "name": "kubelet"}
    with pytest.raises(HostError, match="is no SHA-256"):
        client.fetch_all([one], [f"{PRIMER}:1"], ssl.create_default_context())
    assert list(tmp_path.iterdir()) == []


def test_a_cut_download_goes_on_where_it_stopped(
    service: Answering, pki: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "BLOBS", tmp_path / "blobs")
    context = client.trust(pki / "site-ca.crt", token_of(service, pki))
    one = blob("kubelet")
    path = f"/files/sha256/{one['sha256']}"
    with file_server(pki, {path: content("kubelet")}, cut=[path]) as primer:
        client.fetch_all([one], [f"{PRIMER}:{primer.server_address[1]}"], context)
        ranges = [wanted for _, wanted in primer.asked]
    assert ranges == ["bytes=0-", f"bytes={one['size'] // 2}-"]


def test_the_printed_command_gets_the_installer_and_runs_it(
    pki: Path, tmp_path: Path, config: join_config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "join.py"
    digest = join_script.write(config, ca_file=pki / "site-ca.crt", path=script)
    token, _ = join.new("worker", "c" * 64, now=0, ttl=60)
    words = ["sh"]
    pasted = join_script.command(config, token, digest)
    root, anywhere = tmp_path / "root", tmp_path / "anywhere"
    anywhere.mkdir()
    for module in ("hashlib", "ssl", "os"):  # whoever may write where root pastes it
        (anywhere / f"{module}.py").write_text("raise SystemExit('somebody elses module')")
    # As offices have it in /etc/environment: it leads nowhere from here.
    told = {"KEYSTONE_ROOT": str(root), "https_proxy": "http://127.0.0.1:9"}
    installer = "/files/keystone-install"
    files = {"/join": script.read_bytes(), installer: INSTALLER}
    with file_server(pki, files, join_script.FILES_PORT, cut=[installer]) as server:
        done = run.run(words, data=pasted, env=told, timeout=120, cwd=anywhere)
        ca_file = root / "var/lib/keystone/join/ca.crt"
        assert done.stdout.splitlines()[-9:] == [
            "join", "--ca-file", str(ca_file),
            "--server", f"https://{PRIMER}:8444", "--token-file", "-",
            f"on standard input: {token}", "no process shows the token",
        ]  # fmt: skip
        assert ca_file.read_text() == (pki / "site-ca.crt").read_text()
        assert not (root / "etc").exists(), "whose node it is, is not known yet"
        target = root / "usr/local/bin/keystone-install"
        assert target.read_bytes() == INSTALLER
        assert stat.S_IMODE(target.stat().st_mode) == 0o755
        asked = len(server.asked)
        run.run(words, data=pasted, env=told, timeout=120)
        assert [path for path, _ in server.asked[asked:]] == ["/join"]
        api_server = root / "etc/kubernetes/manifests/kube-apiserver.yaml"
        api_server.parent.mkdir(parents=True)
        api_server.touch()
        with pytest.raises(run.CommandError, match="runs a control plane"):
            run.run(words, data=pasted, env=told, timeout=120)
        server.files["/join"] += b"\n# changed on the way"
        with pytest.raises(run.CommandError, match="not the script of this site"):
            run.run(words, data=pasted, env=told, timeout=120)


def test_refusals_are_logged_without_the_secret(
    service: Answering, pki: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.configure(json_lines=True)
    try:
        good = token_of(service, pki)
        with pytest.raises(RefusedError):
            ask(service, pki, join.Token(good.id, "0" * 40, good.pin))
    finally:
        log.configure()
    said = capsys.readouterr().err
    assert "refused" in said
    assert "0" * 40 not in said


def test_a_full_disk_of_the_primer_is_in_its_journal(
    service: Answering, pki: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "claims/x.json")

    monkeypatch.setattr(join.Tokens, "claim", full)
    monkeypatch.setattr(client, "TRY_SECONDS", 0)
    with pytest.raises(HostError):
        ask(service, pki, token_of(service, pki))
    assert "No space left on device" in capsys.readouterr().err


# From a medium: `token create --to` writes join.yaml, the disk's first start joins with it.


@pytest.fixture
def primer(
    service: Answering, pki: Path, config: join_config.Config,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> Path:  # fmt: skip
    """A Primer where `token create` is run, with an empty stick; the stick."""
    monkeypatch.setattr(join_config, "load", lambda: config)
    monkeypatch.setattr(join_script, "SITE_CA", pki / "site-ca.crt")
    monkeypatch.setattr(join_script, "write", partial(join_script.write, path=tmp_path / "join.py"))
    monkeypatch.setattr(join_config, "PORT", service.server_address[1])
    monkeypatch.setattr(join, "DIRECTORY", tmp_path)
    # The machines of these tests are on loopback, where no site may be.
    ranges = checks.NOT_FOR_MACHINES
    elsewhere = {network: why for network, why in ranges.items() if why != "loopback"}
    monkeypatch.setattr(checks, "NOT_FOR_MACHINES", elsewhere)
    stick = tmp_path / "stick"
    stick.mkdir()
    return stick


def create(*words: str | Path) -> Result:
    return CliRunner().invoke(token_verbs, ["create", *map(str, words)])


def test_each_call_adds_a_worker_to_the_stick_and_drops_the_worthless(primer: Path) -> None:
    file = primer / "join.yaml"
    about = ("--name", "w1", "--machine-serial", "M1", "--mac", "52:54:00:00:00:2A",
             "--address", "127.0.0.21", "--disk", "SYS1")  # fmt: skip
    said = create("--to", primer, *about)
    assert said.exit_code == 0
    assert join_script.pin(join_script.SITE_CA.read_text())[:16] in said.output
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
def test_what_describes_a_machine_goes_with_a_stick(primer: Path, words: tuple[str, str]) -> None:
    assert isinstance(create(*words).exception, UsageError)
    assert not join.Tokens(join.DIRECTORY).all()


def test_the_printed_command_is_as_before(primer: Path) -> None:
    said = create().output
    assert "python3 -I -c" in said
    assert not list(primer.iterdir())


@pytest.fixture
def worker(
    primer: Path, pki: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """A written disk's first start, as far as the roles, which are noted."""
    assert create("--to", primer, "--name", "w1", "--machine-serial", "M1").exit_code == 0
    known = join_yaml.load(primer / "join.yaml")
    monkeypatch.setattr(join_script, "SITE_CA", Path("/etc/keystone/pki/site-ca.crt"))
    state = writing.seeded(tmp_path / "disk", installing.worker_files(known, known.workers[0]))
    noted: dict[str, Any] = {"file": state / installing.JOIN}
    monkeypatch.setattr(first_start, "CONFIG", state / "etc/keystone")
    monkeypatch.setattr(first_start, "DONE", state / "installed")
    monkeypatch.setattr(join_script, "SITE_CA", state / "etc/keystone/pki/site-ca.crt")
    monkeypatch.setattr(client, "look", lambda: MACHINE)
    monkeypatch.setattr(client, "DONE", state / "done")
    monkeypatch.setattr(client, "ANSWER", state / "answer.json")
    monkeypatch.setattr(client, "BLOBS", state / "blobs")
    monkeypatch.setattr(
        client, "converge", lambda name, roles: noted.update(name=name, roles=list(roles))
    )
    return noted


def test_a_written_worker_joins_at_its_first_start_and_forgets_its_token(
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


def test_without_a_primer_it_says_so_and_goes_on_when_there_is_one(
    service: Answering, worker: dict[str, Any], pki: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    text = worker["file"].read_text()
    with socket.socket() as nobody:
        nobody.bind((PRIMER, 0))
        away = text.replace(f":{service.server_address[1]}", f":{nobody.getsockname()[1]}")
    worker["file"].write_text(away)
    monkeypatch.setattr(client, "TRY_SECONDS", 0)
    with pytest.raises(HostError, match="Connection refused") as caught:
        first_start.main()
    assert "is the Primer up?" in caught.value.hint
    assert "trying on" in capsys.readouterr().err
    assert worker["file"].read_text() == away
    worker["file"].write_text(text)
    blobs = {f"/files/sha256/{blob(name)['sha256']}": content(name) for name in BINARIES}
    with file_server(pki, blobs, join_script.FILES_PORT):
        first_start.main()
    assert first_start.DONE.exists()


def test_a_refused_token_stays_and_the_way_out_is_said(
    service: Answering, worker: dict[str, Any]
) -> None:
    (record,) = service.service.tokens.all()
    service.service.tokens.revoke(record.id)
    with pytest.raises(RefusedError, match="token revoked") as caught:
        first_start.main()
    assert "token create" in caught.value.hint
    assert worker["file"].exists()
    assert not first_start.DONE.exists()


def test_a_wrong_clock_is_named(pki: Path) -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = 9, "certificate is not yet valid"
    said = client.problem(error, 0)
    assert said.startswith("certificate is not yet valid; is this machine's clock right?")
    assert "1970-01-01 00:00 UTC" in said
    error.verify_code = 20
    assert "clock" not in client.problem(error, 0)


def test_revoking_takes_back_what_came_of_the_token(
    service: Answering, primer: Path, pki: Path, kubernetes: Path
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


def test_a_node_is_taken_out_by_name_where_no_token_is_known(
    primer: Path, kubernetes: Path
) -> None:
    """The Primer that made its token is another one, or gone."""
    revoke = partial(CliRunner().invoke, token_verbs)
    refused = revoke(["revoke", "--node", "w9"]).exception
    assert isinstance(refused, RefusedError)
    assert "token revoke --node w9 --yes" in refused.hint
    both = ["0" * 12, "--node", "w9"]
    for words in ([], both, ["--node", "p1"], ["--node=--all"], ["--node", "w1 w2"]):
        assert isinstance(revoke(["revoke", *words, "--yes"]).exception, UsageError), words
    assert calls(kubernetes, "") == []
    said = revoke(["revoke", "--node", "w9", "--yes"])
    assert said.exit_code == 0, said.exception
    done = [" ".join(line.split()[:3]) for line in calls(kubernetes, "")]
    assert done == [
        "patch -n kube-system", "get csr -o", "delete csr keystone-join-w9", "delete node w9",
        "delete pods",
    ]  # fmt: skip


def test_a_worker_of_before_may_have_a_name_that_no_new_one_has(
    service: Answering, primer: Path, pki: Path, kubernetes: Path
) -> None:
    token = token_of(service, pki)
    service.service.tokens.claim(token.id, join.Claim("debian", 1, "k", "127.0.0.1"))
    assert CliRunner().invoke(token_verbs, ["revoke", token.id, "--yes"]).exit_code == 0
    assert calls(kubernetes, "delete node debian")


@pytest.mark.parametrize("name", ["p1", "--all", "w1 w2", ""])
def test_root_does_not_revoke_what_the_service_made_up(
    service: Answering, primer: Path, pki: Path, kubernetes: Path, name: str
) -> None:
    token = token_of(service, pki)
    service.service.tokens.claim(token.id, join.Claim(name, 1, "k", "127.0.0.1"))
    said = CliRunner().invoke(token_verbs, ["revoke", token.id, "--yes"]).exception
    assert isinstance(said, RefusedError)
    assert "join/claims" in said.hint
    assert calls(kubernetes, "") == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--token", "ks1.a.b.c"), "--token-file FILE"),
        ((), "--token-file FILE"),
        (("--token-file", "-"), "copy the whole command"),
    ],
)
def test_a_token_is_taken_from_a_file_and_never_as_an_argument(
    words: tuple[str, ...], said: str
) -> None:
    done = CliRunner().invoke(join_verb, ["--server", "https://10.77.0.11:8444", *words], "x\n")
    assert isinstance(done.exception, UsageError)
    assert said in done.exception.hint


@pytest.mark.parametrize(
    "server",
    ["https://[::1", "https://10.0.0.1:99999", "https://10.0.0.1:x", "http://10.0.0.1:8444",
     "https://", "10.0.0.1:8444", "https://[10.0.0.1]:8444"],
)  # fmt: skip
def test_what_is_no_server_is_said(server: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("x")
    done = CliRunner().invoke(
        join_verb, ["--server", server, "--token-file", str(tmp_path / "token")]
    )
    assert isinstance(done.exception, UsageError), done.exception
    assert done.exception.message == f"--server {server}: not https://<primer>:8444"


def test_a_server_without_a_port_is_the_join_service(
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


def test_bytes_that_are_no_text_are_no_token_and_no_authority(pki: Path, tmp_path: Path) -> None:
    bad = tmp_path / "program"
    bad.write_bytes(b"\x7fELF\xff\xfe")
    words = ["--server", "https://10.0.0.1:8444", "--token-file"]
    done = CliRunner().invoke(join_verb, [*words, str(bad)])
    assert isinstance(done.exception, UsageError)
    assert done.exception.message == "that is no join token"
    token, _ = join.new("worker", join_script.pin((pki / "site-ca.crt").read_text()), now=0, ttl=60)
    with pytest.raises(RefusedError, match="is not the CA that the token names"):
        client.trust(bad, token)


class Later(http.server.BaseHTTPRequestHandler):
    """nginx as it speaks for itself, twice, and then the service's refusal."""

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
def test_later_is_no_refusal(pki: Path, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
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
