"""The trust tree of a site: an offline root, five issuing CAs, short-lived leaves for every Primer.

Everything lies in one directory on the first Primer, mode 0700:

    root.crt                    the offline root; its key is in the operator's file only
    <ca>.key  <ca>.crt          an issuing CA, signed by the root
    <ca>-anchor.crt             the same key and name, signed by itself: what verifiers load
    sa.key  sa.pub              signs service account tokens
    leaves/<host>/<name>.{crt,key}
    deploy/<host>.json          what the host gets, as the role `trust` places it
    root-key-file               where that file is, so that a run can say it still lies here
    encryption.yaml             the key of secrets in etcd (keystone.pki.encryption)
    issued.jsonl                every certificate ever issued, each line hashing the one before

Anchors exist because TLS stacks differ: Go takes any certificate as a trust anchor, OpenSSL before
its callers set X509_V_FLAG_PARTIAL_CHAIN wants a self-signed one. A verifier that loads one anchor
trusts one CA, not all that the root ever signed (docs/adr/0010-trust-tree.md).

Order makes it safe to cut: a key is on disk before its certificate, a certificate is in the log
before it has its name, and a run believes only what is complete.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec

from keystone.errors import RefusedError
from keystone.files import write_whole
from keystone.lockfile import only_one
from keystone.pki import certificates, encryption, root_key
from keystone.pki.host_files import deployment, deployment_digest, deployment_file, is_deployed
from keystone.pki.issue_log import IssueLog
from keystone.pki.plan import (
    ISSUING,
    ISSUING_LIFETIME,
    CertificateSpec,
    Issued,
    Missing,
    TrustFacts,
    desired,
    plan_trust,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    from keystone.site.model import Site

__all__ = [
    "DIRECTORY",
    "ISSUING",
    "CertificateSpec",
    "Entry",
    "Issued",
    "Missing",
    "TrustFacts",
    "desired",
    "init",
    "issue",
    "observe",
    "plan_trust",
    "tree",
    "verify",
]

DIRECTORY = Path("/var/lib/keystone/pki")
BUILD_FLOOR = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
"""No honest clock is earlier than this program: a dead clock battery must not backdate a CA."""


def observe(site: Site, directory: Path = DIRECTORY, now: dt.datetime | None = None) -> TrustFacts:
    """Read the directory. Raises RefusedError for a file that is not what its name says."""
    incomplete = tuple(name for name in _authority_files() if not (directory / name).exists())
    leaves = [leaf for spec in desired(site) if (leaf := _observe_leaf(directory, spec))]
    deployed, has_key = {}, (directory / encryption.FILE).exists()
    if not incomplete and has_key and len(leaves) == len(desired(site)):
        deployed = {
            node.name: deployment_digest(directory, node.name)
            for node in site.primers
            if is_deployed(directory, node)
        }
    root = directory / root_key.CERTIFICATE
    pem = root.read_text() if root.exists() else ""
    made_with = encryption.REQUIRED if incomplete else encryption.READABLE
    stage = encryption.stage(directory) if has_key else made_with
    keys = encryption.keys(directory) if has_key else ()
    found = TrustFacts(incomplete, tuple(leaves), deployed, root=pem, encryption=stage, keys=keys)
    moment = _moment(now)
    due, outside = plan_trust(site, found, moment), _outside(directory, moment)
    return replace(found, complete=not due, outside=outside)


def _outside(directory: Path, now: dt.datetime) -> tuple[str, ...]:
    files = (directory / name for name in _authority_files() if name.endswith(".crt"))
    lives = ((file.name, _life(file)) for file in files if file.exists())
    return tuple(
        f"{name} (valid from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC)"
        for name, (start, end) in lives
        if not start <= now < end
    )


def _life(file: Path) -> tuple[dt.datetime, dt.datetime]:
    certificate = _certificate(file)
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


def _require_valid(observed: TrustFacts) -> None:
    if observed.outside:
        raise RefusedError(
            f"not valid by this machine's clock: {observed.outside_said}",
            hint="compare the clock with a watch and set it: what these sign now nobody believes",
        )


def _authority_files() -> tuple[str, ...]:
    issuing = (f"{name}{end}" for name in ISSUING for end in (".key", ".crt", "-anchor.crt"))
    return ("root.crt", *issuing, "sa.key", "sa.pub")


def _observe_leaf(directory: Path, spec: CertificateSpec) -> Issued | None:
    certificate_file, key_file = _leaf_files(directory, spec)
    anchor_file = directory / f"{spec.issuer}-anchor.crt"
    if not (certificate_file.exists() and key_file.exists() and anchor_file.exists()):
        return None
    certificate = _certificate(certificate_file)
    key = _key(key_file)
    return Issued(
        spec.host,
        spec.name,
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        certificates.fingerprint(certificate),
        sound=certificates.same_key(certificate, key)
        and certificates.issued_by(certificate, _certificate(anchor_file)),
        as_asked=certificates.matches(certificate, spec.profile),
    )


def init(
    site: Site,
    directory: Path,
    root_key_file: Path,
    passphrase: str | Callable[[], str],
    now: dt.datetime | None = None,
) -> bool:
    """Make the tree, leaves included, or finish what a cut run began; True when it did anything.

    The root key goes, encrypted, to `root_key_file` (PEM: the PKCS#8 key and the root certificate)
    before anything else exists, and nowhere else. Once the authorities are there neither that file
    nor the passphrase (asked for when it is callable) is looked at. Raises RefusedError when they
    are not and the root key is not at hand, is another site's, or would be left in the directory;
    and when an authority is not valid now.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    with _alone(directory):
        before = observe(site, directory, now)
        _require_valid(before)
        if before.complete:
            return False
        if before.incomplete:
            _require_outside(root_key_file, directory)
            words = passphrase if isinstance(passphrase, str) else passphrase()
            _init_authorities(site, directory, root_key_file, words, _start(now))
        _issue(site, directory, now)
        return True


def _alone(directory: Path) -> AbstractContextManager[None]:
    """Two at once would each make a root, and the tree would be of one, the key of the other."""
    return only_one(directory / ".lock", f"the trust tree in {directory}")


def _require_outside(root_key_file: Path, directory: Path) -> None:
    if root_key_file.is_dir() or root_key_file.resolve().is_relative_to(directory.resolve()):
        raise RefusedError(
            f"{root_key_file}: the offline root's key needs a file outside {directory}",
            hint="set spec.trust.rootKeyFile to a file that you carry away",
        )


def _init_authorities(
    site: Site, directory: Path, root_key_file: Path, passphrase: str, start: dt.datetime
) -> None:
    root = root_key.obtain(site, directory, root_key_file, passphrase, start)
    log = IssueLog(directory / "issued.jsonl")
    if not (directory / "root.crt").exists():
        log.add(root.certificate)
        write_whole(directory / "root.crt", certificates.certificate_pem(root.certificate), 0o644)
    for name in ISSUING:
        _issuing_authority(site, directory, name, root, log, start)
    encryption.ensure(directory, encryption.REQUIRED)
    _service_account_key(directory)


def _issuing_authority(
    site: Site,
    directory: Path,
    name: str,
    root: certificates.Pair,
    log: IssueLog,
    start: dt.datetime,
) -> None:
    key_file = directory / f"{name}.key"
    if not key_file.exists():
        write_whole(key_file, certificates.key_pem(certificates.new_key()), 0o600)
    key = _key(key_file)
    profile = certificates.Profile(
        f"Keystone {name}", site.name, ISSUING[name], ISSUING_LIFETIME, path_length=0
    )
    for file, issuer in ((f"{name}.crt", root), (f"{name}-anchor.crt", None)):
        if not (directory / file).exists():
            certificate = certificates.sign(profile, key, issuer, start)
            log.add(certificate)
            write_whole(directory / file, certificates.certificate_pem(certificate), 0o644)


def _service_account_key(directory: Path) -> None:
    private = directory / "sa.key"
    if not private.exists():
        write_whole(private, certificates.key_pem(certificates.new_key()), 0o600)
    write_whole(directory / "sa.pub", certificates.public_pem(_key(private).public_key()), 0o644)


def issue(
    site: Site, directory: Path = DIRECTORY, now: dt.datetime | None = None
) -> tuple[CertificateSpec, ...]:
    """Issue every leaf that is due, from the issuing CAs alone; returns what was issued.

    Then writes the deployment file of every host where it differs. Raises RefusedError when the
    tree is not complete, or an authority not valid now.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(directory):
        return _issue(site, directory, now)


def _issue(site: Site, directory: Path, now: dt.datetime | None) -> tuple[CertificateSpec, ...]:
    observed = observe(site, directory, now)
    if observed.incomplete:
        raise RefusedError(
            f"{directory}: the trust tree is not complete: {', '.join(observed.incomplete)}",
            hint="run trust init first",
        )
    _require_valid(observed)
    encryption.ensure(directory, encryption.READABLE)
    due = plan_trust(site, observed, _moment(now)).leaves
    log = IssueLog(directory / "issued.jsonl")
    for spec in due:
        _issue_leaf(directory, spec, log, _start(now))
    for node in site.primers:
        if not is_deployed(directory, node):
            write_whole(deployment_file(directory, node.name), deployment(directory, node), 0o600)
    return due


def _issue_leaf(directory: Path, spec: CertificateSpec, log: IssueLog, start: dt.datetime) -> None:
    authority = _certificate(directory / f"{spec.issuer}.crt")
    issuer = certificates.Pair(authority, _key(directory / f"{spec.issuer}.key"))
    certificate_file, key_file = _leaf_files(directory, spec)
    key = certificates.new_key()
    certificate = certificates.sign(spec.profile, key, issuer, start)
    log.add(certificate)
    # A cut between the two leaves a pair that does not match: unsound, so the next run reissues.
    write_whole(key_file, certificates.key_pem(key), 0o600)
    write_whole(certificate_file, certificates.certificate_pem(certificate, authority), 0o644)


def verify(site: Site, directory: Path = DIRECTORY, now: dt.datetime | None = None) -> list[str]:
    """Everything that is wrong with the tree, as sentences; empty when it is sound."""
    moment = now or dt.datetime.now(dt.UTC)
    observed = observe(site, directory, moment)
    wrong = [f"{name}: missing" for name in observed.incomplete]
    if not wrong:
        wrong += _verify_authorities(directory, moment)
        for file in root_key.left(site, directory):
            wrong += root_key.differing(directory, file)
    if not wrong and not (directory / encryption.FILE).exists():
        wrong.append(f"{encryption.FILE}: missing")
    existing = {(leaf.host, leaf.name): leaf for leaf in observed.leaves}
    for spec in desired(site):
        leaf, label = existing.get((spec.host, spec.name)), f"{spec.host}/{spec.name}"
        if leaf is None:
            wrong.append(f"{label}: missing")
        elif not leaf.sound:
            wrong.append(f"{label}: certificate, key and {spec.issuer} CA do not belong together")
        elif not leaf.as_asked:
            wrong.append(f"{label}: not what the site file asks for")
        elif not leaf.not_before <= moment < leaf.not_after:
            span = f"from {leaf.not_before:%Y-%m-%d %H:%M} to {leaf.not_after:%Y-%m-%d %H:%M} UTC"
            wrong.append(f"{label}: not valid now ({span})")
    return [*wrong, *IssueLog(directory / "issued.jsonl").problems()]


def _verify_authorities(directory: Path, now: dt.datetime) -> list[str]:
    root = _certificate(directory / "root.crt")
    wrong = []
    for name in ISSUING:
        key = _key(directory / f"{name}.key")
        for file, issuer in ((f"{name}.crt", root), (f"{name}-anchor.crt", None)):
            certificate = _certificate(directory / file)
            if not certificates.issued_by(certificate, issuer or certificate):
                wrong.append(f"{file}: not signed by {'the root' if issuer else 'itself'}")
            if not certificates.same_key(certificate, key):
                wrong.append(f"{file}: {name}.key is another key")
    return wrong + [f"{said}: not valid now" for said in _outside(directory, now)]


@dataclass(frozen=True)
class Entry:
    """One certificate of the tree, for people."""

    path: str
    subject: str
    issuer: str
    not_after: dt.datetime
    fingerprint: str
    pin: str


def tree(directory: Path = DIRECTORY) -> tuple[Entry, ...]:
    """Every certificate, root first. Raises RefusedError when there is no tree."""
    if not (directory / "root.crt").exists():
        raise RefusedError(f"{directory}: no trust tree here", hint="trust init makes one")
    files = [directory / "root.crt"]
    files += [file for name in ISSUING if (file := directory / f"{name}.crt").exists()]
    files += [file for name in ISSUING if (file := directory / f"{name}-anchor.crt").exists()]
    files += sorted(directory.glob("leaves/*/*.crt"))
    return tuple(_entry(directory, file) for file in files)


def _entry(directory: Path, file: Path) -> Entry:
    certificate = _certificate(file)
    return Entry(
        str(file.relative_to(directory)),
        certificate.subject.rfc4514_string(),
        certificate.issuer.rfc4514_string(),
        certificate.not_valid_after_utc,
        certificates.fingerprint(certificate),
        certificates.pin(certificate),
    )


# Files


def _leaf_files(directory: Path, spec: CertificateSpec) -> tuple[Path, Path]:
    stem = directory / "leaves" / spec.host / spec.name
    return stem.with_suffix(".crt"), stem.with_suffix(".key")


def _certificate(file: Path) -> x509.Certificate:
    return certificates.load_certificate(file.read_bytes(), str(file))


def _key(file: Path) -> ec.EllipticCurvePrivateKey:
    return certificates.load_key(file.read_bytes(), str(file))


def _start(now: dt.datetime | None) -> dt.datetime:
    return max(_moment(now).replace(microsecond=0) - certificates.BACKDATE, BUILD_FLOOR)


def _moment(now: dt.datetime | None) -> dt.datetime:
    return max(now or dt.datetime.now(dt.UTC), BUILD_FLOOR)
