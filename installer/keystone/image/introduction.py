"""The Primers of a site, introduced to each other before they are there.

`site introduce` makes a folder that travels beside the site file. In it each Primer has its ssh
host key and the host keys of all, and the first one the key with which it reaches the others and
what an installation without a person needs. So nobody is trusted because he answered first. The
folder holds private keys: whoever has the stick has the site until it is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from keystone.errors import ConfigurationError, RefusedError
from keystone.wholefile import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from keystone.site import Node, Site

FOLDER = "introductions"
HOST_KEY = "ssh_host_ed25519_key"
CLIENT_KEY = "id_ed25519"
KNOWN_HOSTS = "known_hosts"
ALLOWED = "authorized_keys"
FINGERPRINT, PASSPHRASE = "root-fingerprint", "passphrase"
"""Of the first Primer: the bundle's trust root, and what guards the site's root key."""
CONFIG = "etc/keystone"
PLACES = {
    HOST_KEY: (f"etc/ssh/{HOST_KEY}", 0o600),
    f"{HOST_KEY}.pub": (f"etc/ssh/{HOST_KEY}.pub", 0o644),
    KNOWN_HOSTS: (f"root/.ssh/{KNOWN_HOSTS}", 0o600),
    ALLOWED: (f"root/.ssh/{ALLOWED}", 0o600),
    CLIENT_KEY: (f"root/.ssh/{CLIENT_KEY}", 0o600),
    FINGERPRINT: (f"{CONFIG}/{FINGERPRINT}", 0o644),
    PASSPHRASE: (f"{CONFIG}/{PASSPHRASE}", 0o600),
}
"""Where a Primer's state has what is in its folder, and with which mode."""


def make(site: Site, fingerprint: str, passphrase: str) -> Mapping[str, Mapping[str, str]]:
    """New keys for every Primer: texts by file name, by Primer.

    fingerprint, passphrase: for the first one; "" to leave them out.
    """
    first = site.primers[0].name
    hosts = {node.name: _pair(node.name) for node in site.primers}
    private, public = _pair(f"keystone@{first}")
    known = "".join(
        f"{_known(node, site.ssh.port)} {' '.join(hosts[node.name][1].split()[:2])}\n"
        for node in site.primers
    )
    made = {
        name: {HOST_KEY: key, f"{HOST_KEY}.pub": line, KNOWN_HOSTS: known, ALLOWED: public}
        for name, (key, line) in hosts.items()
    }
    made[first][CLIENT_KEY] = private
    for name, text in ((FINGERPRINT, fingerprint), (PASSPHRASE, passphrase)):
        if text:
            made[first][name] = f"{text}\n"
    return made


def save(made: Mapping[str, Mapping[str, str]], folder: Path) -> Path:
    """Write them to `folder`/introductions, which must not be there. Raises RefusedError."""
    place = folder / FOLDER
    if place.exists():
        raise RefusedError(
            f"{place} is there already: machines may know its keys",
            hint="use it, or remove it before any machine is installed with it",
        )
    half = folder / f"{FOLDER}.part"
    for name, files in made.items():
        (half / name).mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            write_whole(half / name / file, text.encode(), 0o600)
    half.rename(place)
    return place


def read(site_file: Path, node: Node) -> Mapping[str, str]:
    """What the folder beside a site file has for a Primer; nothing when there is no such folder.

    Raises ConfigurationError when there is one without this Primer, or with what does not belong.
    """
    folder = site_file.parent / FOLDER
    if not folder.is_dir():
        return {}
    mine = folder / node.name
    if not mine.is_dir():
        raise ConfigurationError(
            f"{folder}: nothing for {node.name}",
            hint="make it anew from this site file: keystone-install site introduce",
        )
    found = {file.name: file.read_text() for file in mine.iterdir() if file.is_file()}
    foreign = sorted(found.keys() - PLACES)
    if foreign:
        raise ConfigurationError(
            f"{mine / foreign[0]}: nothing that an introduction has", hint="take it out"
        )
    return found


def state(
    site: Site, node: Node, found: Mapping[str, str], text: str
) -> dict[str, tuple[str, int]]:
    """What a Primer's state begins with out of its folder: text and mode by path.

    text: the site file, which the first Primer goes on with.
    """
    if not found:
        return {}
    files = {PLACES[name][0]: (content, PLACES[name][1]) for name, content in found.items()}
    keys = "".join(f"{key}\n" for key in site.ssh.authorized_keys)
    place, mode = PLACES[ALLOWED]
    files[place] = (keys + found.get(ALLOWED, ""), mode)
    if node is site.primers[0]:
        files[f"{CONFIG}/site.yaml"] = (text, 0o644)
    return files


def _known(node: Node, port: int) -> str:
    """A host as known_hosts has it (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT)."""
    return str(node.address) if port == 22 else f"[{node.address}]:{port}"  # noqa: PLR2004


def _pair(comment: str) -> tuple[str, str]:
    """A new key as OpenSSH has it: the private file, and the public line."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return private, f"{public} {comment}\n"
