"""Private key files: Ed25519 in PKCS#8 PEM, encrypted as described in keystone.pkcs8."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone import pkcs8
from keystone.errors import ConfigurationError, RefusedError
from keystone.files import write_file, write_new

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from securesystemslib.signer import CryptoSigner, SSlibKey

NAME = "x-keystone-name"
"""A field of a public key in a root: the name of its holder."""
ENCRYPTED = b"BEGIN ENCRYPTED PRIVATE KEY"


def generate(path: Path, passphrase: str | None) -> SSlibKey:
    """Make a private key at `path`, mode 0600, and its public key beside it (`.pub`).

    Raises RefusedError when `path` exists: it never overwrites a key.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415 slow to import
        Ed25519PrivateKey,
    )

    taken = RefusedError(f"{path}: this key exists already", hint="choose another name")
    if path.exists():
        raise taken
    key = Ed25519PrivateKey.generate()
    try:
        write_new(path, _pem(key, passphrase), 0o600)
    except FileExistsError as error:  # another run wrote it while this one encrypted its key
        raise taken from error
    write_file(path.with_suffix(".pub"), _public_pem(key))
    return load_public(path.with_suffix(".pub"))


def ensure(path: Path, passphrase: str | None) -> None:
    """Make a key as `generate` does, or only its missing half: so an interrupted run can continue.

    Raises ConfigurationError when the public key is missing and the private key cannot be opened.
    """
    public = path.with_suffix(".pub")
    if not path.exists():
        generate(path, passphrase)
    elif not public.exists():
        write_file(public, _public_pem(_open(path, passphrase)))


def load(path: Path, passphrase: str | None) -> CryptoSigner:
    """Load a private key for signing. Raises ConfigurationError."""
    from securesystemslib.signer import CryptoSigner  # noqa: PLC0415 slow to import

    return CryptoSigner(_open(path, passphrase))


def _open(path: Path, passphrase: str | None) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 slow to import
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
        Ed25519PrivateKey,
    )

    data = _read(path, "private key")
    password = passphrase.encode() if passphrase and ENCRYPTED in data else None
    try:
        key = serialization.load_pem_private_key(data, password)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{path}: cannot be opened: {error}", hint="give its passphrase: --passphrase-file"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"{path}: not an Ed25519 key")
    return key


def load_public(path: Path, name: str = "") -> SSlibKey:
    """Load a public key (SubjectPublicKeyInfo PEM). Raises ConfigurationError.

    name: of its holder; the file name without extension by default.
    """
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 slow to import
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
        Ed25519PublicKey,
    )
    from securesystemslib.signer import SSlibKey  # noqa: PLC0415

    try:
        key = serialization.load_pem_public_key(_read(path, "public key"))
    except ValueError as error:
        raise ConfigurationError(f"{path}: not a public key in PEM: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError(f"{path}: not an Ed25519 key")
    found = SSlibKey.from_crypto(key)
    # Set the encoding here, so that the same key always gives the same entry.
    public = {"public": key.public_bytes_raw().hex()}
    return SSlibKey(found.keyid, "ed25519", "ed25519", public, {NAME: name or path.stem})


def is_encrypted(path: Path) -> bool:
    """Whether a private key needs a passphrase. Raises ConfigurationError when it is missing."""
    return ENCRYPTED in _read(path, "private key")


@dataclass(frozen=True)
class Kept:
    """A private key in a folder. encrypted: whether it needs a passphrase."""

    path: Path
    encrypted: bool


def kept(folder: Path) -> list[Kept]:
    """List the private keys in a folder."""
    return [
        Kept(path, ENCRYPTED in data)
        for path in sorted(folder.glob("*.pem"))
        if b"PRIVATE KEY" in (data := path.read_bytes())
    ]


def _read(path: Path, kind: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{path}: cannot read this {kind}: {error.strerror}",
            hint="to make keys: keystone-install bundle keys init, or bundle keys new",
        ) from error


def _public_pem(key: Ed25519PrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 slow to import

    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _pem(key: Ed25519PrivateKey, passphrase: str | None) -> bytes:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 slow to import

    plain = key.private_bytes(
        serialization.Encoding.DER if passphrase else serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return pkcs8.encrypted(plain, passphrase) if passphrase else plain
