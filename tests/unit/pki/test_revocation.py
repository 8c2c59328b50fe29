"""pki.revocation: lists of revoked certificates, the same on every Primer, and what is refused."""

from __future__ import annotations

import datetime as dt
import shutil
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from keystone.errors import RefusedError
from keystone.pki import certificates, host_files, revocation, rotate, rotation
from keystone.pki import tree as pki
from keystone.pki.rotation import DROPPED, REISSUED, TRUSTED

from .test_pki import NOW, SITE, PowerCutError

if TYPE_CHECKING:
    from pathlib import Path

LATER = NOW + dt.timedelta(hours=1)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("revocation")
    pki.init(SITE, folder / "pki", folder / "root.pem", "correct horse", NOW)
    return folder


@pytest.fixture
def made(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original / "pki", tmp_path / "pki")


def pem(tree: Path, host: str, name: str) -> bytes:
    return (tree / f"leaves/{host}/{name}.crt").read_bytes()


def has(tree: Path, host: str) -> dict[str, str]:
    """Return what the Primer has, as it is noted."""
    node = next(node for node in SITE.primers if node.name == host)
    places = host_files.leaf_places(node)
    files = {path: pem(tree, host, name).decode() for name, path in places.items()}
    return revocation.noted(files, places)


def listed(tree: Path, authority: str) -> x509.CertificateRevocationList:
    return x509.load_der_x509_crl(revocation.list_of(tree, authority))


def serials(tree: Path, authority: str) -> set[int]:
    return {one.serial_number for one in listed(tree, authority)}


def serial(text: bytes) -> int:
    return x509.load_pem_x509_certificate(text).serial_number


@pytest.mark.parametrize("authority", revocation.AUTHORITIES)
def test_new_site_has_empty_lists_signed_by_the_ca_until_its_end(
    made: Path, authority: str
) -> None:
    one = listed(made, authority)
    signer = x509.load_pem_x509_certificate((made / f"{authority}.crt").read_bytes())
    assert list(one) == []
    assert one.issuer == signer.subject
    assert one.is_signature_valid(signer.public_key())  # type: ignore[arg-type]
    assert one.next_update_utc == signer.not_valid_after_utc
    assert revocation.list_of(made, authority) == revocation.list_of(made, authority)


def test_revoked_leaves_are_on_the_list_of_their_ca_and_issued_again(made: Path) -> None:
    old = {name: serial(pem(made, "p1", name)) for name in revocation.LEAVES}
    other = serial(pem(made, "p2", "etcd-client"))
    revocation.revoke(made, revocation.of_host("p1", has(made, "p1")), LATER)
    assert serials(made, "etcd-client") == {old["etcd-client"], old["apiserver-etcd-client"]}
    assert serials(made, "etcd-peer") == {old["etcd-peer"], old["etcd-server"]}
    assert listed(made, "etcd-peer").last_update_utc == LATER.replace(microsecond=0)
    issued = pki.issue(SITE, made, LATER)
    assert {(spec.host, spec.name) for spec in issued} == {("p1", name) for name in old}
    assert not serials(made, "etcd-client") & {other, serial(pem(made, "p1", "etcd-client"))}
    assert pki.verify(SITE, made, LATER) == []


def test_one_name_is_revoked_and_the_others_stay(made: Path) -> None:
    found = revocation.of_host("p1", has(made, "p1"), ("etcd-client",))
    assert [(one.what, one.issuer) for one in found] == [("p1/etcd-client", "etcd-client")]
    revocation.revoke(made, found, LATER)
    assert [spec.name for spec in pki.issue(SITE, made, LATER)] == ["etcd-client"]
    assert serials(made, "etcd-peer") == set()


def test_host_with_a_revoked_leaf_gets_another_one_though_it_issued_that_itself(
    made: Path, tmp_path: Path
) -> None:
    """As after a renewal by its own timer: the tree here has an older leaf, still valid."""
    own = shutil.copytree(made, tmp_path / "own")
    rotate.expire_leaves(own, LATER)
    pki.issue(SITE, own, LATER)
    node = SITE.primers[0]
    places = host_files.leaf_places(node)
    placed = {path: pem(own, "p1", name).decode() for name, path in places.items()}
    revocation.revoke(made, revocation.of_host("p1", has(own, "p1")), LATER)
    issued = pki.issue(SITE, made, LATER, {"p1": placed})
    assert {spec.name for spec in issued} >= set(revocation.LEAVES)
    assert not {serial(pem(made, "p1", n)) for n in revocation.LEAVES} & {
        serial(pem(own, "p1", n)) for n in revocation.LEAVES
    }


def test_primers_with_the_same_knowledge_have_the_same_files(made: Path, tmp_path: Path) -> None:
    revocation.revoke(made, revocation.of_host("p1", has(made, "p1")), LATER)
    other = tmp_path / "other"
    other.mkdir()
    for name in (rotation.FILE, *host_files.authority_files(), "encryption.yaml"):
        shutil.copy(made / name, other / name)
    for node in SITE.primers:
        assert host_files.wanted(other, SITE, node) == host_files.wanted(made, SITE, node)
    file = next(f for f in host_files.placed(SITE.primers[0]) if f.path.endswith("client.crl"))
    entry = {"base64": host_files.content(other, file.source)}
    assert host_files.data(entry) == revocation.list_of(made, "etcd-client")


def test_repeated_revocation_changes_nothing_and_ended_ones_are_forgotten(made: Path) -> None:
    first = revocation.of_host("p1", has(made, "p1"))
    revocation.revoke(made, first, LATER)
    before = (made / rotation.FILE).read_bytes()
    revocation.revoke(made, first, LATER + dt.timedelta(hours=1))
    assert (made / rotation.FILE).read_bytes() == before
    end = NOW + SITE.trust.certificate_lifetime + dt.timedelta(days=1)
    second = revocation.of_host("p2", has(made, "p2"))
    revocation.revoke(made, second, end)
    assert rotation.read(made).serials == {one.serial for one in second}


def test_list_survives_the_rotation_of_its_ca(made: Path, original: Path) -> None:
    """What the old CA issued is refused while it is trusted, whoever signs the list."""
    old = serial(pem(made, "p1", "etcd-client"))
    root = rotate.opened(SITE, made, original / "root.pem", "correct horse")
    revocation.revoke(made, revocation.of_host("p1", has(made, "p1")), LATER)
    for stage in (TRUSTED, REISSUED, DROPPED):
        rotate.advance(SITE, made, "etcd-client", stage, lambda: root, NOW)
        assert old in serials(made, "etcd-client")
        signer = x509.load_pem_x509_certificate((made / "etcd-client.crt").read_bytes())
        assert listed(made, "etcd-client").is_signature_valid(signer.public_key())  # type: ignore[arg-type]


def test_power_cut_before_the_write_leaves_the_tree_as_it_was(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object) -> None:
        raise PowerCutError

    before = {path: path.read_bytes() for path in made.glob("*.*") if path.is_file()}
    with monkeypatch.context() as patched:
        patched.setattr(rotation, "write_whole", cut)
        with pytest.raises(PowerCutError):
            revocation.revoke(made, revocation.of_host("p1", has(made, "p1")), LATER)
    assert {path: path.read_bytes() for path in made.glob("*.*") if path.is_file()} == before


def test_certificate_in_a_file_is_revoked_if_etcds_ca_issued_it(made: Path) -> None:
    text = pem(made, "p2", "etcd-client")
    one = revocation.of_file(text, "leaked.crt", made)
    assert (int(one.serial, 16), one.issuer) == (serial(text), "etcd-client")
    revocation.revoke(made, [one], LATER)
    assert serials(made, "etcd-client") == {serial(text)}


def test_certificate_of_another_ca_is_refused_with_what_to_do_instead(made: Path) -> None:
    for name in ("site", "join"):
        with pytest.raises(RefusedError, match="not issued by etcd's CAs") as caught:
            revocation.of_file(pem(made, "p1", name), "leaked.crt", made)
        assert "trust rotate ca" in caught.value.hint
    own = certificates.new_key()
    profile = certificates.Profile("p1", "x", ("client",), dt.timedelta(days=9))
    foreign = certificates.certificate_pem(certificates.sign(profile, own, None, NOW))
    with pytest.raises(RefusedError, match="not issued by etcd's CAs"):
        revocation.of_file(foreign, "leaked.crt", made)


def test_invalid_entry_in_the_file_is_refused_with_its_place(made: Path) -> None:
    revocation.revoke(made, revocation.of_host("p1", has(made, "p1")), LATER)
    text = (made / rotation.FILE).read_text()
    for wrong in (text.replace('"serial": "', '"serial": "x'), text.replace("+00:00", "")):
        assert wrong != text
        with pytest.raises(RefusedError, match="there: not the state of a rotation"):
            rotation.parse(wrong, "there")


def test_noted_certificates_are_kept_until_they_end(made: Path) -> None:
    found = has(made, "p1")
    one = x509.load_pem_x509_certificate(pem(made, "p1", "etcd-peer"))
    ours = found[f"{one.serial_number:032x}"]
    assert ours == f"etcd-peer {one.not_valid_after_utc.isoformat()}"
    assert len(found) == len(revocation.LEAVES)
    assert revocation.lasting(found, NOW) == found
    assert revocation.lasting(found, NOW + dt.timedelta(days=400)) == {}
