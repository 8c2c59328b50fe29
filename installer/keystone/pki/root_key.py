"""The offline root's key: made into the operator's file, opened to sign authorities, carried away.

The file is PEM: the PKCS#8 key behind a passphrase, and the root's certificate. It is written
once and never over another. While it lies on a Primer, whoever takes that machine can try
passphrases for as long as they like, so every run says where it is.
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
"""In the tree's directory: where the key was put. A site file can be moved, or changed later."""


def obtain(
    site: Site, directory: Path, file: Path, words: str, start: dt.datetime
) -> certificates.Pair:
    """The root, to sign with: made when there is none yet, else opened and compared with the tree.

    words: the passphrase. Raises RefusedError when the key is missing, is another site's or not
    the tree's.
    """
    believed = directory / CERTIFICATE
    if not made(file):
        if believed.exists():
            raise RefusedError(
                f"{file}: the root key is needed to finish the trust tree",
                hint="bring back the file that was written when the tree was begun, then re-run",
            )
        return _new(site, directory, file, words, start)
    pair = _opened(file, words)
    certificate = pair.certificate
    same_site = certificate.subject == certificate.issuer and certificates.matches(
        certificate, _profile(site)
    )
    known = not believed.exists() or _certificate(believed) == certificate
    if not same_site or not known or not certificates.same_key(certificate, pair.key):
        raise RefusedError(
            f"{file}: not the root key of site {site.name}",
            hint="give this site a file of its own in spec.trust.rootKeyFile",
        )
    return pair


def compare(directory: Path, file: Path, words: str) -> list[str]:
    """What speaks against this file being the key of the tree's root; empty when it is.

    Raises RefusedError when it cannot be opened.
    """
    wrong, pair = differing(directory, file), _opened(file, words)
    if not certificates.same_key(_certificate(directory / CERTIFICATE), pair.key):
        wrong.append(f"{file}: its key is not the key of {CERTIFICATE}: it can sign nothing here")
    return wrong


def differing(directory: Path, file: Path) -> list[str]:
    """The same without the passphrase: by the certificate in the file alone."""
    own, root = _certificate(file), _certificate(directory / CERTIFICATE)
    if own == root:
        return []
    one, other = (certificates.fingerprint(certificate)[:16] for certificate in (own, root))
    said = f"{file}: the key of another root (SHA-256 {one}) than {CERTIFICATE} ({other})"
    return [f"{said}: look for the file that was made with it"]


def left(site: Site, directory: Path) -> tuple[Path, ...]:
    """The files on this machine that hold the root's key: they are to be carried away."""
    noted = directory / PLACE
    places = [site.trust.root_key_file, noted.read_text().strip() if noted.exists() else ""]
    files = [Path(place) for place in dict.fromkeys(places) if place]
    return tuple(one for file in files for one in (file, *_cut(file)) if _holds_key(one))


def reminder(site: Site, directory: Path) -> str:
    """What a person has to hear while the key lies here, and what to do; empty when it does not."""
    files = " ".join(str(path) for path in left(site, directory))
    if not files:
        return ""
    opens = site.trust.passphrase_file
    with_words = f", and so does {opens}, which opens it" if opens and Path(opens).exists() else ""
    return (
        f"{files}: the offline root's key lies on this Primer{with_words}: whoever takes the "
        "machine can make certificates of this site. Copy it to two media that you lock away, "
        "compare (keystone-install trust verify --root-key COPY), then here: "
        f"shred -u {files}{f' {opens}' if with_words else ''}"
    )


def made(file: Path) -> bool:
    """Whether it has content: a run that was cut on FAT leaves an empty one (wholefile)."""
    return file.exists() and (not file.is_file() or file.stat().st_size > 0)


def _cut(file: Path) -> list[Path]:
    """What a run that was killed left beside it, the key in it: `files.write_new` names it."""
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
            hint="set spec.trust.passphraseFile, or run where it can be asked for",
        )
    key = certificates.new_key(ec.SECP384R1())
    certificate = certificates.sign(_profile(site), key, None, start)
    pem = certificates.key_pem(key, words) + certificates.certificate_pem(certificate)
    write_whole(directory / PLACE, f"{file.absolute()}\n".encode(), 0o600)
    if file.exists():
        file.unlink()  # empty: `made` says so
    for cut in _cut(file):
        cut.unlink(missing_ok=True)
    try:
        write_new(file, pem, 0o600)
    except FileExistsError as error:
        raise RefusedError(
            f"{file}: another run has just made a root key here",
            hint="wait for it to end, then run the same command again",
        ) from error
    return certificates.Pair(certificate, key)


def _opened(file: Path, words: str) -> certificates.Pair:
    """The key and its certificate. A lock of an older Keystone is replaced by today's."""
    pem = file.read_bytes()
    pair = certificates.Pair(
        certificates.load_certificate(pem, str(file)),
        certificates.load_key(pem, str(file), words),
    )
    if not pkcs8.is_locked_well(pem) and words:
        again = certificates.key_pem(pair.key, words) + certificates.certificate_pem(
            pair.certificate
        )
        try:
            write_whole(file, again, 0o600)
            log.info(f"{file}: its lock was weak (an older Keystone made it); locked with scrypt")
        except (OSError, RefusedError) as error:  # read-only, or a folder of others: a stick
            why = error.message if isinstance(error, RefusedError) else error.strerror
            log.warn(
                f"{file}: its lock is weak and cannot be replaced ({why}): copy it to "
                "where it can be written, and verify it there: trust verify --root-key COPY"
            )
    return pair


def _certificate(file: Path) -> x509.Certificate:
    try:
        return certificates.load_certificate(file.read_bytes(), str(file))
    except OSError as error:
        raise RefusedError(
            f"{file}: cannot be read: {error.strerror}", hint="name the file with the root's key"
        ) from error


def passphrase_of(trust: Trust) -> str:
    """Of the offline root's key: from the file that the site file names, else asked for.

    Raises ConfigurationError when it cannot be read, there is nobody to ask, or it is too short
    for a key that is still to be made.
    """
    file = Path(trust.root_key_file)
    new = not file.exists() or not file.stat().st_size  # empty: a run was cut on FAT
    if trust.passphrase_file:
        words = passphrase.read(Path(trust.passphrase_file)).strip()
        return passphrase.require(words, trust.passphrase_file) if new else words
    if not sys.stdin.isatty():
        raise ConfigurationError(
            "spec.trust.passphraseFile is not set and there is no terminal to ask on",
            hint="name a file that holds the offline root's passphrase",
        )
    prompt = "Passphrase for the offline root's key"
    if new:
        return passphrase.chosen(prompt)
    typed: str = click.prompt(prompt, hide_input=True)
    return typed
