"""SSH host keys and fingerprints: parse, compare and check them, without contacting a machine.

A key is the first two words of a line of OpenSSH's `*.pub` ("ssh-ed25519 AAAA..."); a fingerprint
is "SHA256:" and the unpadded base64 of the hash of its second word (RFC 4716; ssh-keygen(1), -l).
`primers[].hostKey` takes either one.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING

from keystone.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BEST_FIRST = (
    "ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa",
)  # fmt: skip
HASH = "SHA256:"
SSH_PORT = 22
HUNG_UP = re.compile("Connection (closed|reset) by")
"""What ssh and ssh-keyscan say of a server that ends a connection before it has shown a key."""


def key(line: str) -> str:
    """Return a public key line without its comment."""
    return " ".join(line.split()[:2])


def fingerprint(line: str) -> str:
    """Return the fingerprint of a public key line, as ssh-keygen -l prints it."""
    digest = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
    return HASH + base64.b64encode(digest).decode().rstrip("=")


def mistake(line: str) -> str:
    """Return what is wrong with a public key line or fingerprint that the schema accepts, or ""."""
    if line.startswith(HASH):
        return ""
    kind, text = line.split()[:2]
    try:
        blob = base64.b64decode(text, validate=True)
    except ValueError as error:
        return str(error)
    # RFC 4253, 6.6: the blob begins with the name of its kind.
    name = len(kind).to_bytes(4) + kind.encode()
    return "" if blob.startswith(name) and len(blob) > len(name) else f"incomplete {kind} key"


def named(wanted: str, seen: Iterable[str]) -> str:
    """Return the key in `seen` that `wanted`, a key or fingerprint, names; "" when none does."""
    for line in seen:
        if wanted in (key(line), fingerprint(line)):
            return line
    return ""


def place(address: str, port: int) -> str:
    """Return a host as known_hosts names it (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT)."""
    return address if port == SSH_PORT else f"[{address}]:{port}"


def known(text: str, where: str) -> tuple[str, ...]:
    """Return the keys for a host in a known_hosts file of ours or of ssh-keyscan(1), best first.

    where: the host as `place` returns it.
    """
    words = (line.split() for line in text.splitlines() if line[:1] not in ("#", "@"))
    found = {" ".join(w[1:3]) for w in words if len(w) > 2 and w[0] == where and w[1] in BEST_FIRST}  # noqa: PLR2004 place, kind, key
    valid = (line for line in found if not mistake(line))  # a file can be truncated
    return tuple(sorted(valid, key=lambda line: (BEST_FIRST.index(line.split()[0]), line)))


def another(name: str, address: str, expected: str, seen: Sequence[str]) -> HostError:
    """Return the error for an unexpected host key. expected: fingerprint. seen: key lines."""
    return HostError(
        f"{name} ({address}): answers with another SSH host key than expected\n"
        f"  expected {expected}, seen {fingerprint(seen[0])}",
        hint="find out which machine answers; if this Primer was reinstalled or replaced, "
        "compare the key with the one on its console, set primers[].hostKey in the site file, "
        f"and run: keystone-install node replace {name}",
    )


def hung_up(name: str, address: str) -> HostError:
    """Return the error for a server that closes connections before it has shown a key."""
    return HostError(
        f"{name} ({address}): its SSH server closes our connections unanswered",
        hint="OpenSSH does so for a while after several failed connections from one address "
        "(PerSourcePenalties in sshd_config(5)); wait a minute, then run the same command again",
    )
