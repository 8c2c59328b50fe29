"""The offline root's key: write it to the operator's file, and decrypt it to sign authorities.

The file is PEM: the PKCS#8 key, encrypted with a passphrase, and the root's certificate. It is
written once and never overwrites another file. While it is on a Primer, anyone who takes that
machine can try passphrases without limit, so every run reminds the operator to carry it away.
"""

from __future__ import annotations

import glob
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from cryptography.hazmat.primitives.asymmetric import ec

from keystone import log, passphrase, pkcs8
from keystone.errors import ConfigurationError, RefusedError
from keystone.files import write_new, write_whole
from keystone.pki import certificates
from keystone.pki.plan import ROOT_LIFETIME

if TYPE_CHECKING:
    import datetime as dt

    from cryptography import x509

    from keystone.site.model import Site, Trust

CERTIFICATE = "root.crt"
PLACE = "root-key-file"
"""File in the tree's folder with the path of the key, because a site file can move or change."""


def obtain(
    site: Site, directory: Path, file: Path, words: str, start: dt.datetime
) -> certificates.Pair:
    """Return the root to sign with: make a new one, or decrypt it and compare it with the tree.

    words: the passphrase. start: when a new root becomes valid. Raises RefusedError when the key
    is missing, or belongs to another site or another tree.
    """
    trusted = directory / CERTIFICATE
    if not made(file):
        if trusted.exists():
            raise RefusedError(
                f"{file}: missing or empty; the root key is needed to finish the trust tree",
                hint="restore the file that the first run wrote, then run again",
            )
        return _new(site, directory, file, words, start)
    pair = _opened(file, words)
    certificate = pair.certificate
    same_site = certificate.subject == certificate.issuer and certificates.matches(
        certificate, _profile(site)
    )
    known = not trusted.exists() or _certificate(trusted) == certificate
    if not same_site or not known or not certificates.same_key(certificate, pair.key):
        raise RefusedError(
            f"{file}: not the root key of site {site.name}",
            hint="name another file for this site in spec.trust.rootKeyFile",
        )
    return pair


def another(
    site: Site, directory: Path, file: Path, words: str, start: dt.datetime
) -> certificates.Pair:
    """Return a new root, or the one in `file`, which an interrupted run made.

    Parameters as for `obtain`. Raises RefusedError when the file has another site's root.
    """
    if not made(file):
        return _new(site, directory, file, words, start)
    pair = _opened(file, words)
    if not certificates.matches(pair.certificate, _profile(site)) or not certificates.same_key(
        pair.certificate, pair.key
    ):
        raise RefusedError(
            f"{file}: not a root key of site {site.name}",
            hint="name a file that does not exist yet, for the new root's key",
        )
    return pair


def certificate_in(file: Path) -> str:
    """Return the root's certificate (PEM) in the operator's file, "" where nothing was written."""
    return certificates.certificate_pem(_certificate(file)).decode() if made(file) else ""


def compare(directory: Path, file: Path, words: str) -> list[str]:
    """Return why a file does not have the key of the tree's root; empty when it has.

    words: the passphrase. Raises RefusedError when the file cannot be read or decrypted.
    """
    wrong, pair = differing(directory, file), _opened(file, words)
    if not certificates.same_key(_certificate(directory / CERTIFICATE), pair.key):
        wrong.append(f"{file}: its key is not that of {CERTIFICATE}, so it cannot sign here")
    return wrong


def differing(directory: Path, file: Path) -> list[str]:
    """Compare as `compare` does, but without the passphrase: only the certificate in the file."""
    own, root = _certificate(file), _certificate(directory / CERTIFICATE)
    if own == root:
        return []
    one, other = (certificates.fingerprint(certificate)[:16] for certificate in (own, root))
    problem = f"{file}: the key of another root (SHA-256 {one}) than {CERTIFICATE} ({other})"
    return [f"{problem}: find the file that was made with {CERTIFICATE}"]


def left(site: Site, directory: Path) -> tuple[Path, ...]:
    """Return the files on this machine with the root's key, which must be carried away."""
    recorded = directory / PLACE
    places = [site.trust.root_key_file, recorded.read_text().strip() if recorded.exists() else ""]
    files = [Path(place) for place in dict.fromkeys(places) if place]
    return tuple(one for file in files for one in (file, *_incomplete(file)) if _holds_key(one))


def reminder(site: Site, directory: Path) -> str:
    """Return a warning with the next step while the key is on this machine; else ""."""
    files = " ".join(str(path) for path in left(site, directory))
    if not files:
        return ""
    opens = site.trust.passphrase_file
    with_words = f", with its passphrase in {opens}" if opens and Path(opens).exists() else ""
    return (
        f"{files}: the offline root's key is on this Primer{with_words}: anyone who takes the "
        "machine can make certificates of this site. Copy it to two media that you lock away, "
        "check each copy (keystone-install trust verify --root-key COPY), then run here: "
        f"shred -u {files}{f' {opens}' if with_words else ''}"
    )


def made(file: Path) -> bool:
    """Return whether a file has content: a run interrupted on FAT leaves an empty file."""
    return file.exists() and (not file.is_file() or file.stat().st_size > 0)


def _incomplete(file: Path) -> list[Path]:
    """Return temporary files of killed runs beside `file`, which may have the key.

    `files.write_new` chooses their names.
    """
    return sorted(file.parent.glob(f".{glob.escape(file.name)}.[0-9]*"))


def _holds_key(file: Path) -> bool:
    try:
        return b"PRIVATE KEY" in file.read_bytes()
    except OSError:
        return False


def _profile(site: Site) -> certificates.Profile:
    return certificates.Profile("Keystone root", site.name, (), ROOT_LIFETIME, path_length=1)


def _new(
    site: Site, directory: Path, file: Path, words: str, start: dt.datetime
) -> certificates.Pair:
    if not words:
        raise RefusedError(
            "no passphrase for the offline root's key",
            hint="set spec.trust.passphraseFile, or run this command on a terminal",
        )
    key = certificates.new_key(ec.SECP384R1())
    certificate = certificates.sign(_profile(site), key, None, start)
    pem = certificates.key_pem(key, words) + certificates.certificate_pem(certificate)
    write_whole(directory / PLACE, f"{file.absolute()}\n".encode(), 0o600)
    if file.exists():
        file.unlink()  # it is empty, see `made`
    for temporary in _incomplete(file):
        temporary.unlink(missing_ok=True)
    try:
        write_new(file, pem, 0o600)
    except FileExistsError as error:
        raise RefusedError(
            f"{file}: another run has just written a root key here",
            hint="wait until that run ends, then run the same command again",
        ) from error
    return certificates.Pair(certificate, key)


def _opened(file: Path, words: str) -> certificates.Pair:
    """Return the key and its certificate. Weak encryption by an older Keystone is replaced."""
    pem = file.read_bytes()
    pair = certificates.Pair(
        certificates.load_certificate(pem, str(file)),
        certificates.load_key(pem, str(file), words),
    )
    if not pkcs8.is_encrypted_with_scrypt(pem) and words:
        stronger = certificates.key_pem(pair.key, words) + certificates.certificate_pem(
            pair.certificate
        )
        try:
            write_whole(file, stronger, 0o600)
            log.info(f"{file}: replaced the weak encryption of an older Keystone with scrypt")
        except (OSError, RefusedError) as error:  # read-only, or a folder of others: a stick
            why = error.message if isinstance(error, RefusedError) else error.strerror
            log.warn(
                f"{file}: its encryption is weak and cannot be replaced ({why}): copy it to a "
                "folder of your own and run there: trust verify --root-key COPY"
            )
    return pair


def _certificate(file: Path) -> x509.Certificate:
    try:
        return certificates.load_certificate(file.read_bytes(), str(file))
    except OSError as error:
        raise RefusedError(
            f"{file}: cannot be read: {error.strerror}",
            hint="give the path of the file with the root's key",
        ) from error


def passphrase_of(trust: Trust) -> str:
    """Return the offline root's passphrase: from the file in the site file, or typed.

    Raises ConfigurationError when it cannot be read, there is no terminal, or it is too short for
    a new key.
    """
    file = Path(trust.root_key_file)
    new = not made(file)
    if trust.passphrase_file:
        words = passphrase.read(Path(trust.passphrase_file)).strip()
        return passphrase.require(words, trust.passphrase_file) if new else words
    if not sys.stdin.isatty():
        raise ConfigurationError(
            "spec.trust.passphraseFile is not set, and there is no terminal to ask on",
            hint="set it to the path of a file with the offline root's passphrase",
        )
    prompt = "Passphrase for the offline root's key"
    if new:
        return passphrase.chosen(prompt)
    typed: str = click.prompt(prompt, hide_input=True)
    return typed
