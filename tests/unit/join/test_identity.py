"""Certificate requests of nodes: one name, signed with its key; anything else is refused."""

import base64
import datetime as dt
import json
import stat
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keystone.errors import HostError, RefusedError
from keystone.join import cluster, identity
from keystone.pki import certificates
from keystone.site import checks

Builder = x509.CertificateSigningRequestBuilder


def name(*pairs: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in pairs])


O, CN = NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME  # noqa: E741 the letters of X.509
GOOD = name((O, "system:nodes"), (CN, "system:node:w1"))


def pem(
    subject: x509.Name = GOOD,
    more: Callable[[Builder], Builder] = lambda builder: builder,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
) -> str:
    builder = more(Builder().subject_name(subject))
    signed = builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def test_requests_of_a_machine_have_the_same_key(tmp_path: Path) -> None:
    file = tmp_path / "node.key"
    first, second = (identity.made("w1", file) for _ in range(2))
    one, two = (identity.checked(text, "w1") for text in (first, second))
    assert one.key == two.key
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "bad",
    ["all", "ungrouped", "kubernetes", "localhost", "0x10", "10", "10.0x1f", "1.2", "w" * 52,
     "debian", "debian.example", "W1", "w_1", ""],
)  # fmt: skip
def test_name_problem_rejects_names_that_no_machine_may_have(bad: str) -> None:
    assert identity.name_problem(bad)


@pytest.mark.parametrize("good", ["w1", "w" * 51, "w1.example", "0xg", "1a", "10.w"])
def test_name_problem_accepts_other_names(good: str) -> None:
    assert identity.name_problem(good) == ""
    assert checks.unusable(good) == ""


def test_two_processes_at_once_make_one_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, new_key = tmp_path / "node.key", certificates.new_key
    other: list[str] = []

    def meanwhile() -> ec.EllipticCurvePrivateKey:
        monkeypatch.setattr(certificates, "new_key", new_key)
        other.append(identity.made("w1", file))
        return new_key()

    monkeypatch.setattr(certificates, "new_key", meanwhile)
    mine = identity.made("w1", file)
    one, two = (identity.checked(text, "w1").key for text in (mine, *other))
    assert one == two


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (pem(name((O, "system:nodes"), (CN, "system:node:p1"))), "asks for"),
        (pem(name((O, "system:masters"), (CN, "system:node:w1"))), "asks for"),
        (pem(name((O, "system:nodes"), (O, "system:masters"), (CN, "system:node:w1"))), "asks for"),
        (pem(name((CN, "system:node:w1"))), "asks for"),
        (pem(name((O, "system:nodes"), (CN, "system:node:w1"), (CN, "admin"))), "asks for"),
        (pem(GOOD, lambda b: b.add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("10.77.0.11"))]), False)),
         "extensions"),
        (pem(GOOD, lambda b: b.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)), "extensions"),
        (pem(GOOD, lambda b: b.add_attribute(x509.ObjectIdentifier("1.2.3"), b"x")), "extensions"),
        (pem(key=ec.generate_private_key(ec.SECP384R1())), "P-256"),
        (pem(key=rsa.generate_private_key(65537, 2048)), "P-256"),
        ("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----", "PKCS#10"),
        ("\ud800", "PKCS#10"),
    ],
)  # fmt: skip
def test_request_for_more_than_the_own_name_is_refused(text: str, word: str) -> None:
    with pytest.raises(RefusedError, match=word):
        identity.checked(text, "w1")


def test_request_with_unknown_curve_is_refused() -> None:
    der = x509.load_pem_x509_csr(pem().encode()).public_bytes(serialization.Encoding.DER)
    curve = bytes.fromhex("06082a8648ce3d030107")
    unknown = ssl_pem(der.replace(curve, curve[:-1] + b"\x7f"))
    with pytest.raises(RefusedError, match="PKCS#10"):
        identity.checked(unknown, "w1")


def go_decodes(text: str) -> bytes:
    """Decode the first block with BEGIN at the start of a line, as Go's encoding/pem does."""
    begin, end = "-----BEGIN CERTIFICATE REQUEST-----", "-----END CERTIFICATE REQUEST-----"
    _, body = ("\n" + text).split(f"\n{begin}\n", 1)
    return base64.b64decode(body.split(end, 1)[0])


def test_submitted_request_is_the_one_that_was_checked() -> None:
    """Two blocks: Python reads the first; Go skips a BEGIN within a line and reads the second."""
    two = "x" + pem() + pem(name((O, "system:nodes"), (CN, "system:node:p1")))
    asked = x509.load_der_x509_csr(go_decodes(two)).subject.rfc4514_string()
    assert asked == "CN=system:node:p1,O=system:nodes"
    request = identity.checked(two, "w1")
    assert request.pem.count("BEGIN") == 1
    assert x509.load_der_x509_csr(go_decodes(request.pem)).subject == GOOD
    raw = identity.KeyRequest(two, "w1", request.key)
    there = cluster.read(listed(raw, "keystone:join"), request, ("keystone:join",))
    assert not there.mine, "an older installer stored it: it must not count as ours"


def test_request_with_wrong_signature_is_refused() -> None:
    good = x509.load_pem_x509_csr(pem().encode()).public_bytes(serialization.Encoding.DER)
    altered = good[:-1] + bytes([good[-1] ^ 1])
    text = ssl_pem(altered)
    with pytest.raises(RefusedError, match="not signed"):
        identity.checked(text, "w1")


def ssl_pem(der: bytes) -> str:
    lines = base64.encodebytes(der).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{lines}-----END CERTIFICATE REQUEST-----\n"


def listed(request: identity.KeyRequest, user: str) -> dict[str, object]:
    document = cluster._document(request)
    spec = document["spec"]
    assert isinstance(spec, dict)
    csr = {**document, "spec": {**spec, "username": user}}
    return {"items": [csr, {"kind": "Node", "metadata": {"name": "w1"}}]}


def test_name_is_free_only_for_our_own_request_with_the_same_key() -> None:
    request = identity.checked(pem(), "w1")
    other = identity.checked(pem(), "w1")
    mine = cluster.read(listed(request, "keystone:join"), request, ("keystone:join",))
    assert (mine.node, mine.request, mine.mine) == (True, True, True)
    cluster.require_free(mine, "w1", again=False)
    for seen in (
        cluster.read(listed(request, "system:node:w9"), request, ("keystone:join",)),
        cluster.read(listed(other, "keystone:join"), request, ("keystone:join",)),
        cluster.NameState(node=True),
    ):
        with pytest.raises(cluster.TakenError, match="kubectl delete node/w1"):
            cluster.require_free(seen, "w1", again=False)
    cluster.require_free(cluster.NameState(node=True), "w1", again=True)
    with pytest.raises(cluster.TakenError, match="revoked"):
        cluster.require_free(cluster.NameState(revoked=True), "w1", again=True)


def test_annotation_of_a_node_reserves_its_name_for_one_key() -> None:
    """The cluster deletes a request after an hour; an interrupted machine can still resume."""
    request, other = identity.checked(pem(), "w1"), identity.checked(pem(), "w1")
    items = {"items": [cluster._node(request)]}
    cluster.require_free(cluster.read(items, request, ()), "w1", again=False)
    with pytest.raises(cluster.TakenError, match="kubectl delete node/w1"):
        cluster.require_free(cluster.read(items, other, ()), "w1", again=False)
    revoked = {"kind": "ConfigMap", "metadata": {"name": cluster.REVOKED}, "data": {"w1": "now"}}
    seen = cluster.read({"items": [*items["items"], revoked]}, request, ())
    with pytest.raises(cluster.TakenError, match="revoked"):
        cluster.require_free(seen, "w1", again=False)
    theirs = {"items": [cluster._node(request), *listed(other, "x")["items"][:1]]}  # type: ignore[index] a list
    with pytest.raises(cluster.TakenError, match="is joining now"):
        cluster.require_free(cluster.read(theirs, request, ()), "w1", again=False)


def test_held_is_true_with_kubelets_certificate_for_the_name(tmp_path: Path) -> None:
    """With one from this installer, or from an older one (kubelet's own, by bootstrap token)."""
    key, folder, conf = tmp_path / "node.key", tmp_path / "pki", tmp_path / "kubelet.conf"
    own = {"key": key, "folder": folder, "conf": conf}
    folder.mkdir()
    pair = certificate(ec.generate_private_key(ec.SECP256R1()))
    (folder / "kubelet-client-2026-11-01-10-00-00.pem").write_text(pair)
    (folder / identity.CURRENT).symlink_to("kubelet-client-2026-11-01-10-00-00.pem")
    assert not identity.held("w1", **own), "kubelet.conf is written last"
    conf.write_text("")
    assert identity.held("w1", **own)
    assert not identity.held("w2", **own)
    (folder / identity.CURRENT).write_text("half a certif")
    assert not identity.held("w1", **own)
    identity.made("w1", key)
    pair = certificate(certificates.load_key(key.read_bytes(), "node.key"))
    (folder / identity.JOINED).write_text(pair)
    assert identity.held("w1", **own), "its own key counts, whatever kubelet has"


def certificate(key: ec.EllipticCurvePrivateKey) -> str:
    now = dt.datetime.now(dt.UTC)
    signed = x509.CertificateBuilder(
        GOOD, GOOD, key.public_key(), 1, now, now + dt.timedelta(days=1)
    ).sign(key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def test_issued_certificate_for_another_key_is_refused() -> None:
    request = identity.checked(pem(), "w1")
    text = certificate(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(HostError, match="another certificate"):
        identity.issued(text, request)


def test_place_writes_the_files_in_kubelets_layout(tmp_path: Path) -> None:
    file = tmp_path / "node.key"
    identity.made("w1", file)
    text = certificate(certificates.load_key(file.read_bytes(), "node.key"))
    conf = tmp_path / "kubelet.conf"
    for _ in range(2):
        identity.place(identity.Identity(text, "CA"), key=file, folder=tmp_path / "pki", conf=conf)
    current = tmp_path / "pki" / identity.CURRENT
    assert current.is_symlink()
    assert text in current.read_text()
    assert "PRIVATE KEY" in current.read_text()
    assert stat.S_IMODE(current.stat().st_mode) == 0o600
    user = json.loads(conf.read_text())["users"][0]["user"]
    assert user == {"client-certificate": str(current), "client-key": str(current)}
