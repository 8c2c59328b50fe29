"""Compute the value of a TPM's PCR 11 after it measured one of our unified kernel images.

systemd-stub(7) extends PCR 11 by each section of the image that it uses: first the name with its
NUL, then the content, in the order of the UAPI Group's specification "Unified Kernel Image (UKI)"
(systemd: src/fundamental/uki.c). This is the SHA-256 bank, extended as in TPM 2.0 Library, Part 1,
17.2.
"""

from __future__ import annotations

import json
from hashlib import sha256

SECTIONS = (
    ".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat",
    ".pcrpkey", ".profile", ".dtbauto", ".hwids", ".efifw",
)  # fmt: skip


def register(inspected: str) -> str:
    """PCR 11 in hex, from `ukify inspect --json=short --all` of an image (ukify(1))."""
    sections = json.loads(inspected)
    value = bytes(32)
    for name in filter(sections.__contains__, SECTIONS):
        value = _extend(value, sha256(f"{name}\0".encode()).digest())
        value = _extend(value, bytes.fromhex(sections[name]["sha256"]))
    return value.hex()


def _extend(value: bytes, measured: bytes) -> bytes:
    return sha256(value + measured).digest()
