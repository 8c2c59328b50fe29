"""Make a site's own keys for UEFI Secure Boot, and sign kernel modules.

The firmware holds three certificates (UEFI 2.10, 32.3): the platform key PK, the key exchange key
KEK, and db. The key of db signs the unified kernel image, systemd-boot, and the kernel modules that
Debian did not sign. Debian's kernel accepts modules signed by a key in db.
"""

from __future__ import annotations

import datetime as dt
import struct
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs7,
)
from cryptography.x509.oid import NameOID

from keystone.errors import ConfigurationError, RefusedError
from keystone.files import write_whole

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("PK", "KEK", "db")
BITS = 2048
"""A size that every firmware supports; some support no other."""
MODULE_OPTIONS = [
    pkcs7.PKCS7Options.DetachedSignature, pkcs7.PKCS7Options.Binary,
    pkcs7.PKCS7Options.NoAttributes, pkcs7.PKCS7Options.NoCerts,
]  # fmt: skip
PKCS7 = 2
"""id_type of struct module_signature."""
APPENDED = b"~Module signature appended~\n"
YEARS = 20
"""Validity, longer than a machine is used; firmware ignores dates anyway."""


@dataclass(frozen=True)
class Keys:
    """A folder with PK, KEK and db, each .key and .pem (PEM) and .cer (DER, for firmware menus)."""

    folder: Path

    @property
    def key(self) -> Path:
        """The private key that signs."""
        return self.folder / "db.key"

    @property
    def certificate(self) -> Path:
        """The certificate that verifies its signatures."""
        return self.folder / "db.pem"

    @property
    def digest(self) -> str:
        """SHA-256 of the certificates in hex, to name steps that use the keys."""
        found = sha256()
        for name in NAMES:
            found.update((self.folder / f"{name}.pem").read_bytes())
        return found.hexdigest()


def load(folder: Path) -> Keys:
    """Load keys from a folder. Raises ConfigurationError if a file is missing."""
    files = [f"{name}.{kind}" for name in NAMES for kind in ("pem", "cer")]
    for file in ("db.key", *files):
        if not (folder / file).is_file():
            raise ConfigurationError(
                f"{folder / file} does not exist",
                hint=f"make keys: keystone-install image keys {folder}",
            )
    return Keys(folder)


def make(folder: Path, site: str, now: dt.datetime) -> Keys:
    """Make keys in a folder. site: their subject's prefix. Raises RefusedError if it has keys."""
    for name in NAMES:
        if (folder / f"{name}.key").exists():
            raise RefusedError(
                f"{folder / name}.key already exists: machines may trust it",
                hint="use another folder",
            )
    for name in NAMES:
        key = rsa.generate_private_key(public_exponent=65537, key_size=BITS)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{site[:60]} {name}")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=365 * YEARS))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_whole(folder / f"{name}.pem", certificate.public_bytes(Encoding.PEM), 0o644)
        write_whole(folder / f"{name}.cer", certificate.public_bytes(Encoding.DER), 0o644)
        write_whole(folder / f"{name}.key", private, 0o600)
    return load(folder)


def signed_module(keys: Keys, module: bytes) -> bytes:
    """A kernel module with a signature by db appended, in the format of Linux's scripts/sign-file.

    See Documentation/admin-guide/module-signing.rst and include/linux/module_signature.h: a
    detached signature (CMS, RFC 5652), 12 bytes of struct module_signature, and a marker line.
    """
    key = load_pem_private_key(keys.key.read_bytes(), password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ConfigurationError(
            f"{keys.key}: not an RSA key", hint="make keys: keystone-install image keys"
        )
    certificate = x509.load_pem_x509_certificate(keys.certificate.read_bytes())
    signature = (
        pkcs7.PKCS7SignatureBuilder()
        .set_data(module)
        .add_signer(certificate, key, hashes.SHA512())
        .sign(Encoding.DER, MODULE_OPTIONS)
    )
    return (
        module + signature + struct.pack(">8BI", 0, 0, PKCS7, *5 * [0], len(signature)) + APPENDED
    )
