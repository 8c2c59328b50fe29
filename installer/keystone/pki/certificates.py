"""Keys and certificates as bytes: the shapes of RFC 5280 that the trust tree needs, no files.

Every function takes and gives PEM or frozen values; what is issued, where it lies and when it is
renewed is `keystone.pki.tree`'s business.
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
    from ipaddress import IPv4Address

BACKDATE = dt.timedelta(minutes=10)
"""Certificates start this much in the past: clocks of a site that is being built differ."""

_USAGES = {
    "server": ExtendedKeyUsageOID.SERVER_AUTH,
    "client": ExtendedKeyUsageOID.CLIENT_AUTH,
}


@dataclass(frozen=True)
class Profile:
    """What a certificate says.

    usages: "server", "client"; also set on issuing CAs, so that one cannot sign for the other's
    purpose. path_length: None for a leaf, otherwise it is a CA with that many CAs below it.
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
    """A certificate and its key, ready to sign."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def new_key(curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    """A fresh ECDSA key, P-256 unless told."""
    return ec.generate_private_key(curve or ec.SECP256R1())


def sign(
    profile: Profile,
    key: ec.EllipticCurvePrivateKey,
    issuer: Pair | None,
    not_before: dt.datetime,
) -> x509.Certificate:
    """A certificate for `key`, by `issuer`, or by itself when there is none.

    The serial is 128 random bits. It never outlives its issuer.
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
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    for extension, critical in _extensions(profile):
        builder = builder.add_extension(extension, critical=critical)
    strong = isinstance(signer.curve, ec.SECP384R1)
    return builder.sign(signer, hashes.SHA384() if strong else hashes.SHA256())


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
        found.append((x509.ExtendedKeyUsage([_USAGES[name] for name in profile.usages]), False))
    names: list[x509.GeneralName] = [x509.IPAddress(address) for address in profile.addresses]
    names += [x509.DNSName(name) for name in profile.dns_names]
    if names:
        found.append((x509.SubjectAlternativeName(names), False))
    return found


def matches(certificate: x509.Certificate, profile: Profile) -> bool:
    """Whether the certificate says what the profile asks for: name, usages and SANs."""
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
    """Whether the issuer's name and key are really behind the certificate."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def same_key(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bool:
    """Whether the certificate is about this key."""
    return public_pem(certificate.public_key()) == public_pem(key.public_key())


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the DER form, hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def pin(certificate: x509.Certificate) -> str:
    """SHA-256 of the public key (SPKI), as kubeadm writes a CA pin: "sha256:<64 hex>"."""
    der = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    digest = hashes.Hash(hashes.SHA256())
    digest.update(der)
    return f"sha256:{digest.finalize().hex()}"


def certificate_pem(*certificates: x509.Certificate) -> bytes:
    """One certificate, or a chain with the leaf first."""
    return b"".join(item.public_bytes(serialization.Encoding.PEM) for item in certificates)


def key_pem(key: ec.EllipticCurvePrivateKey, passphrase: str = "") -> bytes:
    """PKCS#8 in PEM; with a passphrase locked with scrypt and AES-256."""
    plain = key.private_bytes(
        serialization.Encoding.DER if passphrase else serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return pkcs8.encrypted(plain, passphrase) if passphrase else plain


def public_pem(key: object) -> bytes:
    """A public key as SubjectPublicKeyInfo PEM."""
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def load_certificate(pem: bytes, where: str) -> x509.Certificate:
    """The first certificate of a PEM file. Raises RefusedError naming `where`."""
    try:
        return x509.load_pem_x509_certificates(pem)[0]
    except (ValueError, IndexError) as error:
        raise RefusedError(
            f"{where}: not a certificate ({error})",
            hint="Keystone writes these files whole; put back the original from a copy",
        ) from error


def load_key(pem: bytes, where: str, passphrase: str = "") -> ec.EllipticCurvePrivateKey:
    """A private key from PEM. Raises RefusedError naming `where`, never showing the key."""
    try:
        key = serialization.load_pem_private_key(pem, passphrase.encode() or None)
    except (ValueError, TypeError) as error:
        hint = "check the passphrase" if passphrase else "put back the original from a copy"
        raise RefusedError(f"{where}: the key cannot be read: {error}", hint=hint) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise RefusedError(f"{where}: not an ECDSA key", hint="Keystone makes ECDSA keys only")
    return key
