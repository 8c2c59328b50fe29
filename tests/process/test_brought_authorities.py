"""`trust init --from`: CAs of the operator's own PKI are used, or refused with all mistakes."""

from __future__ import annotations

import datetime as dt
import subprocess  # noqa: TID251 openssl verifies, and signs with SHA-1, which cryptography refuses
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keystone.backup import opened
from keystone.errors import RefusedError
from keystone.pki import brought, rotate, rotation
from keystone.pki import tree as pki
from keystone.pki.authorities import ISSUING
from keystone.pki.rotation import STAGES, TRUSTED
from keystone.site import model as site

from .test_trust import Desk, desk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["desk"]
NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
DAY = dt.timedelta(days=1)


def pem(one: x509.Certificate) -> bytes:
    return one.public_bytes(serialization.Encoding.PEM)


def key_pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, words: str = "") -> bytes:
    sealed = serialization.BestAvailableEncryption(words.encode()) if words else None
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        sealed or serialization.NoEncryption(),
    )  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """What a CA's certificate shall be; by default one that is right."""

    name: str
    authority: bool = True
    path: int | None = 0
    signs: bool = True
    start: dt.datetime = NOW - DAY
    end: dt.datetime = NOW + 1000 * DAY
    usages: tuple[x509.ObjectIdentifier, ...] = ()
    constrained: bool = False


class Pki:
    """The operator's PKI: an RSA root of its own, which signs what it is asked to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = rsa.generate_private_key(65537, 2048)
        self.keys: dict[str, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey] = {}
        folder.mkdir()
        self.root(Wanted("Example Root", path=None))
        for name in ISSUING:
            self.issue(name, Wanted(f"Example {name}"))

    def root(self, wanted: Wanted) -> None:
        self.own = self._sign(wanted, self.key.public_key(), self.key, _name(wanted.name))
        (self.folder / "root.crt").write_bytes(pem(self.own))

    def below(self, name: str) -> None:
        """Let another CA, which nobody gets, sign the root: it is an intermediate now."""
        above = rsa.generate_private_key(65537, 2048)
        wanted = Wanted("Example Intermediate", path=None)
        self.own = self._sign(wanted, self.key.public_key(), above, _name(name))
        (self.folder / "root.crt").write_bytes(pem(self.own))
        for one in ISSUING:
            self.issue(one, Wanted(f"Example {one}"))

    def issue(
        self, name: str, wanted: Wanted,
        key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
    ) -> None:  # fmt: skip
        self.keys[name] = mine = key or ec.generate_private_key(ec.SECP256R1())
        one = self._sign(wanted, mine.public_key(), self.key, self.own.subject)
        (self.folder / f"{name}.crt").write_bytes(pem(one))
        (self.folder / f"{name}.key").write_bytes(key_pem(mine))

    def _sign(
        self, wanted: Wanted, public: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
        signer: rsa.RSAPrivateKey, issuer: x509.Name,
    ) -> x509.Certificate:  # fmt: skip
        path = wanted.path if wanted.authority else None
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(wanted.name))
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(wanted.start)
            .not_valid_after(wanted.end)
            .add_extension(x509.BasicConstraints(wanted.authority, path), critical=True)
            .add_extension(_usage(signs=wanted.signs), critical=True)
            # Not the usual SHA-1 of the key: leaves must say what the certificate says.
            .add_extension(x509.SubjectKeyIdentifier(wanted.name.encode()[:20]), critical=False)
        )
        if wanted.usages:
            builder = builder.add_extension(x509.ExtendedKeyUsage(wanted.usages), critical=False)
        if wanted.constrained:
            names = x509.NameConstraints([x509.DNSName("example")], None)
            builder = builder.add_extension(names, critical=True)
        return builder.sign(signer, hashes.SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=signs, crl_sign=signs,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def test_site_below_an_intermediate_is_valid_and_its_backup_opens(desk: Desk, own: Pki) -> None:
    own.below("Example Above")
    init(desk)
    tree = desk.folder / "tree"
    assert pki.authority_problems(tree) == []
    assert not any("root" in one for one in opened._mismatches(tree))


@pytest.fixture
def own(desk: Desk) -> Pki:
    return Pki(desk.folder / "own")


def init(desk: Desk, code: int = 0) -> str:
    return desk.trust("init", "--from", "own", code=code)


def openssl(desk: Desk, *words: str) -> subprocess.CompletedProcess[str]:
    argv = ["openssl", *words]
    return subprocess.run(argv, cwd=desk.folder, capture_output=True, text=True, check=False)


def test_tree_has_the_operators_authorities_and_leaves_that_openssl_verifies(
    desk: Desk, own: Pki
) -> None:
    init(desk)
    tree = desk.folder / "tree"
    assert (tree / "root.crt").read_bytes() == (own.folder / "root.crt").read_bytes()
    for name in ISSUING:
        assert (tree / f"{name}.crt").read_bytes() == (own.folder / f"{name}.crt").read_bytes()
    assert not (desk.folder / "root.key").exists()
    assert "Every certificate, key and signature is valid" in desk.trust("verify")
    for leaf, authority in (("etcd-peer", "etcd-peer"), ("etcd-client", "etcd-client"),
                            ("site", "site"), ("join", "kubernetes")):  # fmt: skip
        words = ("verify", "-CAfile", f"tree/{authority}-anchor.crt", "-untrusted",
                 f"tree/{authority}.crt", f"tree/leaves/p1/{leaf}.crt")  # fmt: skip
        assert openssl(desk, *words).returncode == 0, leaf
    assert "Nothing to do" in init(desk)


def test_cut_run_is_finished_by_the_same_command_and_by_no_other(desk: Desk, own: Pki) -> None:
    init(desk)
    for name in ("site.crt", "site-anchor.crt", "sa.key"):
        (desk.folder / "tree" / name).unlink()
    assert "the root key is needed" in desk.trust("init", code=7)
    init(desk)
    assert "is valid" in desk.trust("verify")
    assert own.folder.exists()


def test_site_with_authorities_does_not_get_others(desk: Desk, own: Pki) -> None:
    desk.trust("init")
    before = {file: file.read_bytes() for file in (desk.folder / "tree").rglob("*.*")}
    assert "this site has its authorities already" in init(desk, 7)
    assert {file: file.read_bytes() for file in (desk.folder / "tree").rglob("*.*")} == before
    assert own.folder.exists()


def wrong_key(own: Pki) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    (own.folder / "site.key").write_bytes(key_pem(other))


def sealed_key(own: Pki) -> None:
    (own.folder / "site.key").write_bytes(key_pem(own.keys["site"], "secret"))


def sha1(own: Pki) -> None:
    (own.folder / "signer.key").write_bytes(key_pem(own.key))
    (own.folder / "ext").write_text("basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\n")
    request = ["openssl", "req", "-new", "-key", "site.key", "-subj", "/CN=Example site"]
    sign = ["openssl", "x509", "-req", "-sha1", "-days", "900", "-CA", "root.crt", "-CAkey",
            "signer.key", "-extfile", "ext", "-out", "site.crt"]  # fmt: skip
    made = subprocess.run(request, cwd=own.folder, capture_output=True, check=True)
    subprocess.run(sign, cwd=own.folder, input=made.stdout, capture_output=True, check=True)


def one(**changes: object) -> Callable[[Pki], None]:
    wanted = replace(Wanted("Example site"), **changes)  # type: ignore[arg-type]
    return lambda own: own.issue("site", wanted)


SITE_CA = Wanted("Example site")
CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH,)
WRONG: dict[str, tuple[Callable[[Pki], None], str]] = {
    "wrong key": (wrong_key, "site.crt: its key is not site.key"),
    "no CA flag": (one(authority=False), "site.crt: no CA: basicConstraints does not say CA:TRUE"),
    "no certSign": (one(signs=False), "site.crt: its key usage does not allow to sign"),
    "path length of the root": (
        lambda own: own.root(Wanted("Example Root", path=0)),
        "root.crt: its path length is 0: it allows no CA below it",
    ),
    "SHA-1": (sha1, "site.crt: signed with SHA1, not with SHA-256 or better"),
    "expired": (one(end=NOW - dt.timedelta(hours=1)), "site.crt: ended on"),
    "not valid yet": (one(start=NOW + DAY), "site.crt: not valid before"),
    "ends soon": (one(end=NOW + 179 * DAY), "it must be valid for 2 lifetimes of the site's"),
    "expired root": (
        lambda own: own.root(Wanted("Example Root", path=None, end=NOW - dt.timedelta(hours=1))),
        "root.crt: ended on",
    ),
    "other purpose": (one(usages=CLIENT), "its extended key usage does not allow: server"),
    "name constraints": (one(constrained=True), "its critical extension 2.5.29.30 may forbid"),
    "RSA key": (
        lambda own: own.issue("site", SITE_CA, rsa.generate_private_key(65537, 2048)),
        "its key is not ECDSA on P-256 or P-384",
    ),
    "other curve": (
        lambda own: own.issue("site", SITE_CA, ec.generate_private_key(ec.SECP521R1())),
        "its key is not ECDSA on P-256 or P-384",
    ),
    "same key": (
        lambda own: own.issue("site", SITE_CA, own.keys["kubernetes"]),
        "kubernetes and site have the same key",
    ),
    "same name": (
        lambda own: own.issue("site", Wanted("Example kubernetes")),
        "kubernetes and site have the same name, CN=Example kubernetes",
    ),
    "other root": (
        lambda own: (own.folder / "root.crt").write_bytes(
            pem(Pki(own.folder.with_name("foreign")).own)
        ),
        "site.crt: not signed by root.crt",
    ),
    "key with a passphrase": (sealed_key, "site.key: not an ECDSA key in PEM without a passphrase"),
    "missing": (lambda own: (own.folder / "site.crt").unlink(), "site.crt: cannot be read"),
    "no certificate": (
        lambda own: (own.folder / "site.crt").write_text("hello"), "site.crt: not a certificate",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_authority_that_is_wrong_is_refused_and_nothing_is_written(
    desk: Desk, own: Pki, name: str
) -> None:
    spoil, said = WRONG[name]
    spoil(own)
    assert said in init(desk, 3)
    assert not (desk.folder / "tree").exists()


def test_all_mistakes_of_all_files_are_said_at_once(desk: Desk, own: Pki) -> None:
    one(authority=False, end=NOW - dt.timedelta(hours=1))(own)
    (own.folder / "kubernetes.key").unlink()
    said = init(desk, 3)
    for text in ("site.crt: no CA", "site.crt: ended on", "kubernetes.key: cannot be read"):
        assert text in said


def test_long_path_of_a_ca_still_allows_leaves(desk: Desk, own: Pki) -> None:
    """Only a path length of the root can forbid something: leaves do not count (RFC 5280)."""
    own.issue("site", Wanted("Example site", path=None))
    init(desk)
    assert "is valid" in desk.trust("verify")


def rotated(desk: Desk, own: Pki, stage: str) -> None:
    wanted = site.load(desk.folder / "site.yaml")
    given = brought.read(own.folder, wanted.trust.certificate_lifetime, NOW, ("site",))
    tree = desk.folder / "tree"
    rotate.advance(wanted, tree, "site", stage, pytest.fail, NOW - DAY, given)


def test_ca_is_rotated_to_one_that_the_operator_brings(desk: Desk, own: Pki) -> None:
    init(desk)
    own.issue("site", Wanted("Example site 2"))
    for stage in STAGES:
        rotated(desk, own, stage)
        init_again = desk.trust("init")  # issues the leaves that are due
        assert "offline root" not in init_again
        assert "is valid" in desk.trust("verify")
    new = (own.folder / "site.crt").read_bytes()
    assert (desk.folder / "tree/site.crt").read_bytes() == new
    anchors = rotation.trusted(desk.folder / "tree", "site")
    (anchor,) = x509.load_pem_x509_certificates(anchors.encode())
    assert anchor.subject == _name("Example site 2")


@pytest.mark.parametrize(
    ("wanted", "key", "said"),
    [("Example site", None, "the new CA has the name of the CA site"),
     ("Example new", "kubernetes", "the new CA has the key of the CA kubernetes")],
)  # fmt: skip
def test_new_ca_that_verifiers_would_confuse_is_refused(
    desk: Desk, own: Pki, wanted: str, key: str | None, said: str
) -> None:
    init(desk)
    before = (desk.folder / "tree/site.crt").read_bytes()
    own.issue("site", Wanted(wanted), own.keys[key] if key else None)
    with pytest.raises(RefusedError, match=said):
        rotated(desk, own, TRUSTED)
    assert not (desk.folder / "tree" / rotation.FILE).exists()
    assert (desk.folder / "tree/site.crt").read_bytes() == before


def test_new_ca_of_another_root_is_refused(desk: Desk, own: Pki) -> None:
    init(desk)
    with pytest.raises(RefusedError, match="CN=Example Root: not the root of this site"):
        rotated(desk, Pki(own.folder.with_name("foreign")), TRUSTED)


def test_root_of_ours_does_not_sign_the_operators_authorities(desk: Desk, own: Pki) -> None:
    init(desk)
    wanted, new = site.load(desk.folder / "site.yaml"), desk.folder / "new.key"
    with pytest.raises(RefusedError, match="of your own PKI, whose root names this site") as caught:
        rotate.sign_again(wanted, desk.folder / "tree", new, "correct horse", NOW)
    assert "--from FOLDER" in caught.value.hint
    assert not new.exists()
    assert own.folder.exists()
