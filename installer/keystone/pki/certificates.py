"""Make and compare keys and certificates (RFC 5280) for the trust tree, without files.

Every function takes and returns PEM or frozen values. `keystone.pki.tree` decides which
certificates are issued and renewed, and where their files are.
"""

from __future__ import annotations

import datetime as dt
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keystone import pkcs8
from keystone.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ipaddress import IPv4Address

BACKDATE = dt.timedelta(minutes=10)
"""Certificates start this long in the past, because clocks of a new site differ."""

USAGES = {
    "server": ExtendedKeyUsageOID.SERVER_AUTH,
    "client": ExtendedKeyUsageOID.CLIENT_AUTH,
}
ANY_USAGE = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE


@dataclass(frozen=True)
class Profile:
    """The content of a certificate.

    usages: "server", "client"; also set on issuing CAs, so that a CA cannot sign for the purpose
    of another one. path_length: None for a leaf; for a CA, how many CAs may be below it.
    """

    common_name: str
    organization: str
    usages: tuple[str, ...]
    lifetime: dt.timedelta
    path_length: int | None = None
    addresses: tuple[IPv4Address, ...] = ()
    dns_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, with which it can sign."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def new_key(curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    """Make a new ECDSA key, by default on the curve P-256."""
    return ec.generate_private_key(curve or ec.SECP256R1())


def sign(
    profile: Profile,
    key: ec.EllipticCurvePrivateKey,
    issuer: Pair | None,
    not_before: dt.datetime,
) -> x509.Certificate:
    """Sign a certificate for `key` with `issuer`, or self-signed when that is None.

    The serial is a random number of 128 bits. The certificate never expires after its issuer.
    """
    subject = _name(profile)
    end = not_before + profile.lifetime + BACKDATE
    if issuer:
        end = min(end, issuer.certificate.not_valid_after_utc)
    signer = issuer.key if issuer else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(1 + secrets.randbelow(2**128 - 1))
        .not_valid_before(not_before)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_issuer_identifier(issuer, signer), critical=False)
    )
    for extension, critical in _extensions(profile):
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(signer, _hash(signer))


def _hash(signer: ec.EllipticCurvePrivateKey) -> hashes.SHA384 | hashes.SHA256:
    return hashes.SHA384() if isinstance(signer.curve, ec.SECP384R1) else hashes.SHA256()


def _issuer_identifier(
    issuer: Pair | None, signer: ec.EllipticCurvePrivateKey
) -> x509.AuthorityKeyIdentifier:
    """Return the issuer's key identifier as its own certificate has it: OpenSSL compares them."""
    if issuer:
        try:
            kind = x509.SubjectKeyIdentifier
            own = issuer.certificate.extensions.get_extension_for_class(kind).value
            return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)
        except x509.ExtensionNotFound:
            pass
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())


def self_signed(pair: Pair, extensions: Mapping[x509.ExtensionType, bool]) -> x509.Certificate:
    """Sign a CA's certificate again with its own key: the same name, key and validity.

    extensions: those to keep, each with whether it is critical.
    """
    one = pair.certificate
    builder = (
        x509.CertificateBuilder()
        .subject_name(one.subject)
        .issuer_name(one.subject)
        .public_key(pair.key.public_key())
        .serial_number(1 + secrets.randbelow(2**128 - 1))
        .not_valid_before(one.not_valid_before_utc)
        .not_valid_after(one.not_valid_after_utc)
    )
    for extension, critical in extensions.items():
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(pair.key, _hash(pair.key))


def _name(profile: Profile) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, profile.organization),
            x509.NameAttribute(NameOID.COMMON_NAME, profile.common_name),
        ]
    )


def _extensions(profile: Profile) -> list[tuple[x509.ExtensionType, bool]]:
    authority = profile.path_length is not None
    found: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=authority, path_length=profile.path_length), True),
        (
            x509.KeyUsage(
                digital_signature=not authority,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=authority,
                crl_sign=authority,
                encipher_only=False,
                decipher_only=False,
            ),
            True,
        ),
    ]
    if profile.usages:
        found.append((x509.ExtendedKeyUsage([USAGES[name] for name in profile.usages]), False))
    names: list[x509.GeneralName] = [x509.IPAddress(address) for address in profile.addresses]
    names += [x509.DNSName(name) for name in profile.dns_names]
    if names:
        found.append((x509.SubjectAlternativeName(names), False))
    return found


def matches(certificate: x509.Certificate, profile: Profile) -> bool:
    """Return whether a certificate has the name, usages and SANs of a profile."""
    wanted = dict(_by_oid(_extensions(profile)))
    found = {
        extension.oid: extension.value
        for extension in certificate.extensions
        if extension.oid not in {x509.SubjectKeyIdentifier.oid, x509.AuthorityKeyIdentifier.oid}
    }
    return certificate.subject == _name(profile) and found == wanted


def _by_oid(
    extensions: list[tuple[x509.ExtensionType, bool]],
) -> list[tuple[x509.ObjectIdentifier, x509.ExtensionType]]:
    return [(extension.oid, extension) for extension, _ in extensions]


def issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Return whether a certificate has the issuer's name and a signature by the issuer's key."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def is_since(
    certificate: x509.Certificate, moment: dt.datetime | None, backdate: dt.timedelta = BACKDATE
) -> bool:
    """Return whether a certificate was issued at a moment or later; any was if it is None.

    backdate: how long before its issue a certificate of this issuer begins to be valid.
    """
    return moment is None or certificate.not_valid_before_utc + backdate >= moment


def same_key(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bool:
    """Return whether a certificate has the public key of `key`."""
    return public_pem(certificate.public_key()) == public_pem(key.public_key())


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate's DER encoding, in hexadecimal."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def pin(certificate: x509.Certificate) -> str:
    """Return the CA pin of kubeadm, SHA-256 of the public key (SPKI): "sha256:<64 hex>"."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(spki(certificate))
    return f"sha256:{digest.finalize().hex()}"


def spki(certificate: x509.Certificate) -> bytes:
    """Return a certificate's public key of any kind, SubjectPublicKeyInfo in DER."""
    return certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def certificate_pem(*certificates: x509.Certificate) -> bytes:
    """Return the PEM of a certificate, or of a chain with the leaf first."""
    return b"".join(item.public_bytes(serialization.Encoding.PEM) for item in certificates)


def list_der(
    builder: x509.CertificateRevocationListBuilder, key: ec.EllipticCurvePrivateKey
) -> bytes:
    """Sign a list of revoked certificates and return its DER: equal lists, equal bytes (RFC 6979).

    So Primers that know the same have the same file.
    """
    signed = builder.sign(key, hashes.SHA256(), ecdsa_deterministic=True)
    return signed.public_bytes(serialization.Encoding.DER)


def key_pem(key: ec.EllipticCurvePrivateKey, passphrase: str = "") -> bytes:
    """Return a key as PKCS#8 PEM; with a passphrase, encrypted with scrypt and AES-256."""
    plain = key.private_bytes(
        serialization.Encoding.DER if passphrase else serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return pkcs8.encrypted(plain, passphrase) if passphrase else plain


def public_pem(key: object) -> bytes:
    """Return a public key as SubjectPublicKeyInfo in PEM."""
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def load_certificate(pem: bytes, where: str) -> x509.Certificate:
    """Load the first certificate of a PEM text. where: its file, named by RefusedError."""
    return load_all(pem, where)[0]


def load_all(pem: bytes, where: str) -> list[x509.Certificate]:
    """Load all certificates of a PEM text, at least one. where: as in `load_certificate`."""
    try:
        return x509.load_pem_x509_certificates(pem)  # ValueError if there is none
    except ValueError as error:
        raise RefusedError(
            f"{where}: not a certificate ({error})",
            hint="Keystone writes these files atomically; restore the original from a copy",
        ) from error


def require_authorities(pem: bytes, where: str) -> None:
    """Raise RefusedError unless a PEM text holds CA certificates, one or more, and no other."""
    for one in load_all(pem, where):
        try:
            basic = one.extensions.get_extension_for_class(x509.BasicConstraints).value
        except (x509.ExtensionNotFound, ValueError) as error:
            raise RefusedError(f"{where}: holds a certificate that is no CA") from error
        if not basic.ca:
            raise RefusedError(f"{where}: holds a certificate that is no CA")


def load_key(pem: bytes, where: str, passphrase: str = "") -> ec.EllipticCurvePrivateKey:
    """Load a private key from PEM. where: its file, named by RefusedError, which hides the key."""
    try:
        key = serialization.load_pem_private_key(pem, passphrase.encode() or None)
    except (ValueError, TypeError) as error:
        hint = "check the passphrase" if passphrase else "restore the original from a copy"
        raise RefusedError(f"{where}: cannot read the key: {error}", hint=hint) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise RefusedError(f"{where}: not an ECDSA key", hint="Keystone makes ECDSA keys only")
    return key
