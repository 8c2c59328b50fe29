"""SSH host keys: who a machine is, before anything is said to it.

A key is the first two words of a line of OpenSSH's `*.pub` ("ssh-ed25519 AAAA..."); a fingerprint
is "SHA256:" and the unpadded base64 of the hash of its second word (RFC 4716; ssh-keygen(1), -l).
A person names either one in `primers[].hostKey`. Nothing here asks a machine.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

BEST_FIRST = (
    "ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa",
)  # fmt: skip
HASH = "SHA256:"
SSH_PORT = 22


def key(line: str) -> str:
    """A public line without its comment."""
    return " ".join(line.split()[:2])


def fingerprint(line: str) -> str:
    """Of a public line, as ssh-keygen -l prints it."""
    digest = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
    return HASH + base64.b64encode(digest).decode().rstrip("=")


def mistake(line: str) -> str:
    """What is wrong with a public line or a fingerprint of the right shape; "" when nothing is."""
    if line.startswith(HASH):
        return ""
    kind, text = line.split()[:2]
    try:
        blob = base64.b64decode(text, validate=True)
    except ValueError as error:
        return str(error)
    # RFC 4253, 6.6: the blob begins with the name of its kind.
    name = len(kind).to_bytes(4) + kind.encode()
    return "" if blob.startswith(name) and len(blob) > len(name) else f"not a whole key of {kind}"


def named(wanted: str, seen: Iterable[str]) -> str:
    """Which of the keys seen a person has named by key or fingerprint; "" when none of them."""
    for line in seen:
        if wanted in (key(line), fingerprint(line)):
            return line
    return ""


def place(address: str, port: int) -> str:
    """A host as known_hosts has it (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT)."""
    return address if port == SSH_PORT else f"[{address}]:{port}"


def known(text: str, where: str) -> tuple[str, ...]:
    """The keys that a known_hosts file of ours, or ssh-keyscan(1), has for a place, best first."""
    words = (line.split() for line in text.splitlines() if line[:1] not in ("#", "@"))
    found = {" ".join(w[1:3]) for w in words if len(w) > 2 and w[0] == where and w[1] in BEST_FIRST}  # noqa: PLR2004 place, kind, key
    whole = (line for line in found if not mistake(line))  # a file can be cut
    return tuple(sorted(whole, key=lambda line: (BEST_FIRST.index(line.split()[0]), line)))
