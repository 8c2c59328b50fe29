"""Issuing CAs that the operator brings, from a PKI of their own, in place of those of our root.

A folder has for each CA `<ca>.crt` and `<ca>.key`, and `root.crt`: the certificate that signed them
all, which names the site from then on. PEM; keys are not encrypted. The root's key stays where it
is. Everything is judged before anything is written, by RFC 5280 and by what the programs of a site
can use (docs/adr/0083-authorities-of-the-operator.md).
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from keystone.errors import ConfigurationError, KeystoneError, Mistake, RefusedError
from keystone.files import write_whole
from keystone.pki import authorities, certificates
from keystone.pki.authorities import ISSUING
from keystone.pki.issue_log import IssueLog

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from keystone.site.model import Site

Extension = TypeVar("Extension", bound=x509.ExtensionType)
ROOT = "root.crt"
CURVES = {"secp256r1": "P-256", "secp384r1": "P-384"}
LIVES = 2
"""A CA must outlive so many lifetimes of the site's certificates: it cannot be replaced in less."""
KNOWN = {
    x509.BasicConstraints.oid, x509.KeyUsage.oid, x509.ExtendedKeyUsage.oid,
    x509.SubjectKeyIdentifier.oid, x509.AuthorityKeyIdentifier.oid, x509.CertificatePolicies.oid,
    x509.CRLDistributionPoints.oid, x509.AuthorityInformationAccess.oid,
}  # fmt: skip
KEPT = (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage, x509.SubjectKeyIdentifier)


@dataclass(frozen=True)
class Given:
    """What a folder has: the root's certificate, and CAs with their keys by name."""

    root: x509.Certificate
    issuing: Mapping[str, certificates.Pair]


def read(
    folder: Path, lifetime: dt.timedelta, now: dt.datetime, names: Iterable[str] = tuple(ISSUING)
) -> Given:
    """Read and judge a folder. lifetime: of the site's certificates.

    Raises ConfigurationError with all mistakes of all files.
    """
    mistakes: list[Mistake] = []
    root, issuing = _certificate(folder / ROOT, mistakes), {}
    if root:
        mistakes += [Mistake(str(folder / ROOT), text) for text in root_problems(root, now)]
    for name in names:
        file = folder / f"{name}.crt"
        certificate = _certificate(file, mistakes)
        key = _key(file.with_suffix(".key"), mistakes)
        if certificate and root:
            texts = problems(name, certificate, root, lifetime, now)
            mistakes += [Mistake(str(file), text) for text in texts]
        if certificate and key:
            issuing[name] = certificates.Pair(certificate, key)
            if not _matches(certificate, key):
                text = f"its key is not {file.with_suffix('.key').name}"
                mistakes.append(Mistake(str(file), text))
    if root:
        mistakes += [Mistake(str(folder), text) for text in collisions(root, issuing)]
    if mistakes or root is None:
        raise ConfigurationError(
            f"{folder}: these authorities cannot be used", mistakes=mistakes,
            hint="nothing was changed; the folder needs root.crt, and NAME.crt and NAME.key for "
            "each CA; let your PKI issue again what is wrong in them",
        )  # fmt: skip
    return Given(root, issuing)


def _certificate(file: Path, mistakes: list[Mistake]) -> x509.Certificate | None:
    try:
        return certificates.load_certificate(file.read_bytes(), str(file))
    except OSError as error:
        mistakes.append(Mistake(str(file), f"cannot be read: {error.strerror}"))
    except KeystoneError:
        mistakes.append(Mistake(str(file), "not a certificate in PEM"))
    return None


def _key(file: Path, mistakes: list[Mistake]) -> ec.EllipticCurvePrivateKey | None:
    try:
        return certificates.load_key(file.read_bytes(), str(file))
    except OSError as error:
        mistakes.append(Mistake(str(file), f"cannot be read: {error.strerror}"))
    except KeystoneError:
        mistakes.append(
            Mistake(str(file), "not an ECDSA key in PEM without a passphrase",
                    f"openssl pkey -in {file.name} -out plain.key removes one")
        )  # fmt: skip
    return None


def root_problems(root: x509.Certificate, now: dt.datetime) -> Iterator[str]:
    """Say what is wrong with a certificate that signed CAs. Pure."""
    yield from _common(root)
    basic = _of(root, x509.BasicConstraints)
    if basic and basic.ca and basic.path_length == 0:
        yield "its path length is 0: it allows no CA below it"
    yield from _validity(root, now, dt.timedelta())


def problems(
    name: str, one: x509.Certificate, root: x509.Certificate, lifetime: dt.timedelta,
    now: dt.datetime,
) -> Iterator[str]:  # fmt: skip
    """Say why a certificate cannot be the issuing CA of this name. Pure."""
    yield from _common(one)
    if not certificates.issued_by(one, root):
        yield f"not signed by {ROOT} ({root.subject.rfc4514_string()})"
    yield from _validity(one, now, lifetime * LIVES)
    key = one.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CURVES:
        yield f"its key is not ECDSA on {' or '.join(CURVES.values())}, with which Keystone signs"
    usages = _of(one, x509.ExtendedKeyUsage)
    wanted = {certificates.USAGES[usage] for usage in ISSUING[name]}
    if usages and not wanted <= set(usages) and certificates.ANY_USAGE not in usages:
        yield f"its extended key usage does not allow: {', '.join(ISSUING[name])}"


def collisions(root: x509.Certificate, issuing: Mapping[str, certificates.Pair]) -> Iterator[str]:
    """Find authorities that verifiers cannot tell apart: with one key, or of one name. Pure."""
    every = {ROOT: root, **{name: pair.certificate for name, pair in issuing.items()}}
    keys: dict[bytes, str] = {}
    names: dict[x509.Name, str] = {}
    for name, one in every.items():
        if (other := keys.setdefault(certificates.spki(one), name)) != name:
            yield f"{other} and {name} have the same key"
        if (other := names.setdefault(one.subject, name)) != name:
            yield f"{other} and {name} have the same name, {one.subject.rfc4514_string()}"


def _common(one: x509.Certificate) -> Iterator[str]:
    basic, usage = _of(one, x509.BasicConstraints), _of(one, x509.KeyUsage)
    if not basic or not basic.ca:
        yield "no CA: basicConstraints does not say CA:TRUE"
    if usage and not usage.key_cert_sign:
        yield "its key usage does not allow to sign certificates (keyCertSign)"
    if weak := _weak(one):
        yield f"signed with {weak}, not with SHA-256 or better"
    for oid in (item.oid for item in one.extensions if item.critical and item.oid not in KNOWN):
        yield f"its critical extension {oid.dotted_string} may forbid what the site needs"


def _weak(one: x509.Certificate) -> str:
    try:
        used = one.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return one.signature_algorithm_oid.dotted_string
    if used is None or isinstance(used, hashes.SHA256 | hashes.SHA384 | hashes.SHA512):
        return ""
    return used.name.upper()


def _validity(one: x509.Certificate, now: dt.datetime, least: dt.timedelta) -> Iterator[str]:
    start, end = one.not_valid_before_utc, one.not_valid_after_utc
    if now < start:
        yield f"not valid before {start:%Y-%m-%d %H:%M} UTC"
    elif end <= now:
        yield f"ended on {end:%Y-%m-%d %H:%M} UTC"
    elif end - now < least:
        yield (
            f"ends on {end:%Y-%m-%d %H:%M} UTC: it must be valid for {LIVES} lifetimes of the "
            f"site's certificates ({least.days} days)"
        )


def _of(one: x509.Certificate, kind: type[Extension]) -> Extension | None:
    try:
        return one.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _matches(one: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bool:
    found = one.public_key()
    return isinstance(found, ec.EllipticCurvePublicKey) and certificates.same_key(one, key)


def anchor(pair: certificates.Pair) -> x509.Certificate:
    """Sign a CA's certificate again by itself: what OpenSSL accepts as a trust anchor."""
    one = pair.certificate
    return certificates.self_signed(
        pair, {item.value: item.critical for item in one.extensions if type(item.value) in KEPT}
    )


def write(directory: Path, given: Given) -> None:
    """Write them into the tree, which has none or some of the same. May be repeated."""
    log = IssueLog(directory / "issued.jsonl")
    _write(directory / ROOT, given.root, log)
    for name, pair in given.issuing.items():
        write_whole(directory / f"{name}.key", certificates.key_pem(pair.key), 0o600)
        _write(directory / f"{name}.crt", pair.certificate, log)
        if not (directory / f"{name}-anchor.crt").exists():
            _write(directory / f"{name}-anchor.crt", anchor(pair), log)


def _write(file: Path, one: x509.Certificate, log: IssueLog) -> None:
    if not file.exists():
        log.add(one)
        write_whole(file, certificates.certificate_pem(one), 0o644)


def require_same(directory: Path, given: Given) -> None:
    """Raise RefusedError if the tree has other authorities: a site gets them once."""
    wanted = {name: pair.certificate for name, pair in given.issuing.items()}
    for name, one in {ROOT.removesuffix(".crt"): given.root, **wanted}.items():
        file = directory / f"{name}.crt"
        if file.exists() and certificates.load_certificate(file.read_bytes(), str(file)) != one:
            raise RefusedError(
                f"{file}: this site has its authorities already, and another {name}",
                hint="nothing was changed; to replace a CA of a running site: keystone-install "
                "trust rotate ca NAME --from FOLDER",
            )


def require_signed_by_root(directory: Path, given: Given) -> None:
    """Raise RefusedError if these were signed by another root than the tree's."""
    file = directory / ROOT
    if certificates.load_certificate(file.read_bytes(), str(file)) != given.root:
        raise RefusedError(
            f"{given.root.subject.rfc4514_string()}: not the root of this site, which names it",
            hint=f"nothing was changed; let the same root sign the new CA: {file}",
        )


def require_new(directory: Path, given: Given) -> None:
    """Raise RefusedError if a CA has the key or the name of one that the tree has now.

    Verifiers choose an issuer by its name: two with one name make them try the wrong key.
    """
    for name, pair in given.issuing.items():
        for other in ISSUING:
            file = directory / f"{other}.crt"
            has = certificates.load_certificate(file.read_bytes(), str(file))
            same = (
                "key" if certificates.spki(has) == certificates.spki(pair.certificate)
                else "name" if has.subject == pair.certificate.subject else ""
            )  # fmt: skip
            if same:
                raise RefusedError(
                    f"{name}: the new CA has the {same} of the CA {other} that this site has",
                    hint="nothing was changed; let your PKI issue one with another key and name",
                )


def require_none(site: Site, directory: Path) -> None:
    """Raise RefusedError if the tree has CAs of the operator: a root of ours cannot sign those."""
    for name in ISSUING:
        file = directory / f"{name}.crt"
        one = certificates.load_certificate(file.read_bytes(), str(file))
        if not certificates.matches(one, authorities.profile(site, name)):
            raise RefusedError(
                f"{file}: of your own PKI, whose root names this site; Keystone makes no other",
                hint="nothing was changed; replace the CAs: keystone-install trust rotate ca NAME "
                "--from FOLDER",
            )
