"""Introductions: keys by which the Primers of a site know each other before they are installed.

`site introduce` makes a folder that is carried beside the site file. It has an ssh host key for
each Primer. For the first Primer it also has all public host keys, the key to log in to the others,
and secrets for an unattended installation. So no Primer trusts a machine because it answered first.
The folder has private keys: anyone who has the stick controls the site until it is installed.
"""

from __future__ import annotations

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

from keystone import files, host_keys
from keystone.errors import ConfigurationError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.site.model import Node, Site

FOLDER = "introductions"
HOST_KEY = "ssh_host_ed25519_key"
CLIENT_KEY = "id_ed25519"
KNOWN_HOSTS = "known_hosts"
ALLOWED = "authorized_keys"
FINGERPRINT, PASSPHRASE = "root-fingerprint", "passphrase"
"""Files of the first Primer: the fingerprint of the bundle's trust root, and the passphrase of the
site's root key."""
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
"""For each file of a Primer's folder, its path and mode in the Primer's state."""


def make(site: Site, fingerprint: str, passphrase: str) -> Mapping[str, Mapping[str, str]]:
    """Make new keys for every Primer; return texts by file name, by Primer.

    fingerprint, passphrase: files for the first Primer; "" for none.
    """
    first = site.primers[0].name
    client = new_pair(f"keystone@{first}")
    hosts = {node.name: new_pair(node.name) for node in site.primers}
    known = known_hosts(site, {name: pair.public for name, pair in hosts.items()})
    made = {name: host_files(pair, client.public) for name, pair in hosts.items()}
    made[first].update(first_files(client, known, fingerprint, passphrase))
    return made


def require_alone(site: Site) -> None:
    """Raise ConfigurationError if the first Primer would still ask for the passphrase."""
    kept = f"/{CONFIG}/{PASSPHRASE}"
    if site.trust.passphrase_file != kept or not site.trust.root_key_file:
        raise ConfigurationError(
            "the first Primer would ask for the passphrase of the site's root key: --passphrase-"
            f"file becomes {kept} there, which the site file does not name",
            hint="set in spec of the site file: "
            f"trust: {{rootKeyFile: /root/site-root.key, passphraseFile: {kept}}}",
        )


@dataclass(frozen=True)
class Pair:
    """An SSH key in OpenSSH's formats: the private file, and the public line."""

    private: str
    public: str


def new_pair(comment: str) -> Pair:
    """Make a new Ed25519 key."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return Pair(private, f"{public} {comment}\n")


def host_files(pair: Pair, client: str) -> dict[str, str]:
    """Return the files of every Primer: its host key, and the public line that may log in."""
    return {HOST_KEY: pair.private, f"{HOST_KEY}.pub": pair.public, ALLOWED: client}


def first_files(client: Pair, known: str, fingerprint: str, passphrase: str) -> dict[str, str]:
    """Return the additional files of the first Primer."""
    texts = {FINGERPRINT: fingerprint, PASSPHRASE: passphrase}
    return {
        CLIENT_KEY: client.private,
        KNOWN_HOSTS: known,
        **{name: f"{text}\n" for name, text in texts.items() if text},
    }


def known_hosts(site: Site, public: Mapping[str, str]) -> str:
    """Return known_hosts of the first Primer. public: host keys (public lines) by Primer."""
    return "".join(
        f"{host_keys.place(str(node.address), site.ssh.port)} {host_keys.key(public[node.name])}\n"
        for node in site.primers
    )


def save(made: Mapping[str, Mapping[str, str]], folder: Path) -> Path:
    """Write the files to `folder`/introductions. Raises RefusedError when that exists already."""
    place = folder / FOLDER
    if place.exists():
        raise RefusedError(
            f"{place} exists already: machines may have its keys",
            hint="use it, or, if no machine was installed with it yet, remove it",
        )
    folder.mkdir(parents=True, exist_ok=True)
    files.require_ours(folder)
    with files.made(place, 0o700, synced=True) as half:
        for name, texts in made.items():
            (half / name).mkdir()
            for file, text in texts.items():
                files.write_whole(half / name / file, text.encode(), 0o600)
        files.sync_directory(half)
    return place


def read(site_file: Path, node: Node) -> Mapping[str, str]:
    """Return a Primer's files in the introductions beside a site file; none if there are none.

    Raises ConfigurationError when the introductions do not have this Primer, or have other files.
    """
    folder = site_file.parent / FOLDER
    if not folder.is_dir():
        return {}
    mine = folder / node.name
    if not mine.is_dir():
        raise ConfigurationError(
            f"{folder}: no introduction for {node.name}",
            hint="make a new one from this site file: keystone-install site introduce",
        )
    # Files that begin with a dot come from desktops on which somebody opened the stick.
    names = {file.name for file in mine.iterdir() if file.name[0] != "." and file.is_file()}
    foreign = sorted(names - PLACES.keys())
    if foreign:
        raise ConfigurationError(
            f"{mine / foreign[0]}: not a file of an introduction", hint="remove it"
        )
    return {name: _text(mine / name) for name in names}


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{file}: not a text file", hint="make new ones: keystone-install site introduce"
        ) from error


def state(site: Site, found: Mapping[str, str], text: str) -> dict[str, tuple[str, int]]:
    """Return the files for a Primer's state from its introduction: text and mode by path.

    found: from `read`. text: the site file for the first Primer, which installs the site; "" for
    the others.
    """
    if not found:
        return {}
    files = {PLACES[name][0]: (content, PLACES[name][1]) for name, content in found.items()}
    keys = "".join(f"{key}\n" for key in site.ssh.authorized_keys)
    place, mode = PLACES[ALLOWED]
    files[place] = (keys + found.get(ALLOWED, ""), mode)
    if KNOWN_HOSTS in found:  # a copy of the file in root's home, which people's ssh uses
        files[f"{CONFIG}/{KNOWN_HOSTS}"] = (found[KNOWN_HOSTS], 0o644)
    if text:
        files[f"{CONFIG}/site.yaml"] = (text, 0o644)
    return files
