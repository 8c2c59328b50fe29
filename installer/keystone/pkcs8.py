"""Encrypted private keys: PKCS#8 PEM, encrypted with scrypt and AES-256 (PBES2).

`cryptography` reads this format, but writes only PBKDF2 with 2,048 rounds, of which a graphics card
tries millions per second. So this module builds the structure (RFC 5958, RFC 8018 appendix A.4,
RFC 7914 section 7.1) with scrypt and AES of `cryptography`; `openssl pkey -in FILE` reads it.
"""

from __future__ import annotations

import base64
import os
import re
import textwrap

SCRYPT_N, SCRYPT_R, SCRYPT_P = 2**14, 8, 5
"""Costs 16 MiB and about 0.25 s; one of OWASP's parameter sets (Password Storage Cheat Sheet)."""

_SEQUENCE, _INTEGER, _OCTETS, _OID = 0x30, 0x02, 0x04, 0x06
_PBES2 = bytes.fromhex("2a864886f70d01050d")
_SCRYPT = bytes.fromhex("2b06010401da47040b")
_AES256_CBC = bytes.fromhex("60864801650304012a")
_BLOCK = re.compile(rb"-----BEGIN ENCRYPTED PRIVATE KEY-----\s+([A-Za-z0-9+/=\s]+)-----END")


def is_encrypted_with_scrypt(pem: bytes) -> bool:
    """Return whether a PEM file's private key is encrypted with scrypt: others are weaker."""
    found = _BLOCK.search(pem)
    # The OID of the key derivation is at the start of the structure, before any salt or secret.
    return found is not None and _der(_OID, _SCRYPT) in base64.b64decode(found[1])[:64]


def encrypted(plain: bytes, passphrase: str) -> bytes:
    """Encrypt a private key. plain: PrivateKeyInfo (DER). Return EncryptedPrivateKeyInfo in PEM."""
    from cryptography.hazmat.primitives.ciphers import (  # noqa: PLC0415 slow to import
        Cipher,
        algorithms,
        modes,
    )
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt  # noqa: PLC0415
    from cryptography.hazmat.primitives.padding import PKCS7  # noqa: PLC0415

    salt, vector = os.urandom(16), os.urandom(16)
    secret = Scrypt(salt, 32, SCRYPT_N, SCRYPT_R, SCRYPT_P).derive(passphrase.encode())
    padder = PKCS7(128).padder()
    cipher = Cipher(algorithms.AES256(secret), modes.CBC(vector)).encryptor()
    body = cipher.update(padder.update(plain) + padder.finalize()) + cipher.finalize()
    costs = b"".join(_number(value) for value in (SCRYPT_N, SCRYPT_R, SCRYPT_P))
    derivation = _der(_SEQUENCE, _der(_OID, _SCRYPT), _der(_SEQUENCE, _der(_OCTETS, salt), costs))
    scheme = _der(_SEQUENCE, _der(_OID, _AES256_CBC), _der(_OCTETS, vector))
    algorithm = _der(_SEQUENCE, _der(_OID, _PBES2), _der(_SEQUENCE, derivation, scheme))
    text = base64.b64encode(_der(_SEQUENCE, algorithm, _der(_OCTETS, body))).decode()
    lines = "\n".join(textwrap.wrap(text, 64))
    label = "ENCRYPTED PRIVATE KEY"
    return f"-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n".encode()


def _der(tag: int, *parts: bytes) -> bytes:
    """Encode a DER element (X.690): tag, definite length, content."""
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:  # noqa: PLR2004 the short form ends there
        return bytes([tag, size]) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + content


def _number(value: int) -> bytes:
    return _der(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))
