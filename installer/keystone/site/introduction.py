"""The Primers of a site, introduced to each other before they are there.

`site introduce` makes a folder that travels beside the site file. In it each Primer has its ssh
host key and the host keys of all, and the first one the key with which it reaches the others and
what an installation without a person needs. So nobody is trusted because he answered first. The
folder holds private keys: whoever has the stick has the site until it is installed.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from keystone import host_keys
from keystone.errors import ConfigurationError, RefusedError
from keystone.files import require_ours, write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.site.model import Node, Site

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
    client = new_pair(f"keystone@{first}")
    hosts = {node.name: new_pair(node.name) for node in site.primers}
    known = known_hosts(site, {name: pair.public for name, pair in hosts.items()})
    made = {name: host_files(pair, client.public) for name, pair in hosts.items()}
    made[first].update(first_files(client, known, fingerprint, passphrase))
    return made


def require_alone(site: Site) -> None:
    """Raises ConfigurationError where the first Primer would ask for what it has been given."""
    kept = f"/{CONFIG}/{PASSPHRASE}"
    if site.trust.passphrase_file != kept or not site.trust.root_key_file:
        raise ConfigurationError(
            "the first Primer would ask for the passphrase of the site's root key: the one that is "
            f"given here will be {kept}",
            hint="say so in spec of the site file: "
            f"trust: {{rootKeyFile: /root/site-root.key, passphraseFile: {kept}}}",
        )


@dataclass(frozen=True)
class Pair:
    """A key as OpenSSH has it: the private file, and the public line."""

    private: str
    public: str


def new_pair(comment: str) -> Pair:
    """A new Ed25519 key."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return Pair(private, f"{public} {comment}\n")


def host_files(pair: Pair, client: str) -> dict[str, str]:
    """What every Primer has: its own key, and the public line of who may log in."""
    return {HOST_KEY: pair.private, f"{HOST_KEY}.pub": pair.public, ALLOWED: client}


def first_files(client: Pair, known: str, fingerprint: str, passphrase: str) -> dict[str, str]:
    """What the first Primer has besides."""
    texts = {FINGERPRINT: fingerprint, PASSPHRASE: passphrase}
    return {
        CLIENT_KEY: client.private,
        KNOWN_HOSTS: known,
        **{name: f"{text}\n" for name, text in texts.items() if text},
    }


def known_hosts(site: Site, public: Mapping[str, str]) -> str:
    """The file by which the first Primer knows all. public: host keys' public lines by Primer."""
    return "".join(
        f"{host_keys.place(str(node.address), site.ssh.port)} {host_keys.key(public[node.name])}\n"
        for node in site.primers
    )


def save(made: Mapping[str, Mapping[str, str]], folder: Path) -> Path:
    """Write them to `folder`/introductions, which must not be there. Raises RefusedError."""
    place = folder / FOLDER
    if place.exists():
        raise RefusedError(
            f"{place} is there already: machines may know its keys",
            hint="use it, or remove it before any machine is installed with it",
        )
    folder.mkdir(parents=True, exist_ok=True)
    require_ours(folder)
    half = Path(tempfile.mkdtemp(dir=folder, prefix=f"{FOLDER}-"))
    for name, files in made.items():
        (half / name).mkdir()
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
    # What begins with a dot is of a desktop on which the stick was looked at.
    names = {file.name for file in mine.iterdir() if file.name[0] != "." and file.is_file()}
    foreign = sorted(names - PLACES.keys())
    if foreign:
        raise ConfigurationError(
            f"{mine / foreign[0]}: nothing that an introduction has", hint="take it out"
        )
    return {name: _text(mine / name) for name in names}


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{file}: not a text", hint="make it anew: keystone-install site introduce"
        ) from error


def state(site: Site, found: Mapping[str, str], text: str) -> dict[str, tuple[str, int]]:
    """What a Primer's state begins with out of its folder: text and mode by path.

    text: the site file, for the first Primer, which goes on with it; "" for the others.
    """
    if not found:
        return {}
    files = {PLACES[name][0]: (content, PLACES[name][1]) for name, content in found.items()}
    keys = "".join(f"{key}\n" for key in site.ssh.authorized_keys)
    place, mode = PLACES[ALLOWED]
    files[place] = (keys + found.get(ALLOWED, ""), mode)
    if KNOWN_HOSTS in found:  # for a person's ssh it lies in root's home, too
        files[f"{CONFIG}/{KNOWN_HOSTS}"] = (found[KNOWN_HOSTS], 0o644)
    if text:
        files[f"{CONFIG}/site.yaml"] = (text, 0o644)
    return files
