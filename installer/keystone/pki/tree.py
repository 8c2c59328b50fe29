"""The trust tree of a site: an offline root, five issuing CAs, short-lived leaves for every Primer.

It is in one folder, mode 0700, on every Primer, so that any one may be lost and each can renew its
own leaves. A Primer has of `leaves` and `deploy` only what it issued itself, and its own log:

    root.crt                    the offline root; its key is only in the operator's file
    <ca>.key  <ca>.crt          an issuing CA, signed by the root
    <ca>-anchor.crt             the same key and name, self-signed: verifiers load it
    sa.key  sa.pub              key that signs service account tokens
    leaves/<host>/<name>.{crt,key}
    deploy/<host>.json          files for a host, which the role `trust` places; of an installed
                                tree in memory, /run/keystone/deploy
    root-key-file               path of the operator's file, so that a run can remind of it
    encryption.yaml             the key for secrets in etcd (keystone.pki.encryption)
    rotation.json               what is being replaced (keystone.pki.rotation)
    issued.jsonl                all certificates ever issued, each line with the hash of the last

Anchors are needed because TLS stacks differ: Go accepts any certificate as a trust anchor; OpenSSL,
unless its caller sets X509_V_FLAG_PARTIAL_CHAIN, requires a self-signed one. A verifier that loads
one anchor trusts one CA, not all CAs that the root ever signed (docs/adr/0010-trust-tree.md).

The order of writes makes interruptions safe: a key is on disk before its certificate, a certificate
is in the log before it is renamed to its final name, and a run uses only complete files.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec

from keystone.errors import RefusedError
from keystone.files import write_whole
from keystone.pki import (
    authorities,
    brought,
    certificates,
    encryption,
    leaf_files,
    root_key,
    rotation,
    seal,
)
from keystone.pki.authorities import ISSUING
from keystone.pki.host_files import authority_files, deployment, deployment_file, wanted
from keystone.pki.issue_log import IssueLog
from keystone.pki.plan import (
    CertificateSpec,
    Issued,
    Missing,
    TrustFacts,
    desired,
    is_due,
    plan_trust,
)
from keystone.pki.rotate import locked, problems

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography import x509

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
"""No valid clock is earlier than this program: an empty clock battery must not backdate a CA."""


def observe(
    site: Site,
    directory: Path = DIRECTORY,
    now: dt.datetime | None = None,
    placed: leaf_files.Placed | None = None,
) -> TrustFacts:
    """Read the folder. now: for tests. Raises RefusedError for a file with invalid content.

    placed: leaves are judged by what these hosts have, and only theirs; by default by what the tree
    last issued for each host.
    """
    for name in (*authority_files(), encryption.FILE):
        seal.require_open(directory / name)
    incomplete = tuple(name for name in authority_files() if not (directory / name).exists())
    has_key = (directory / encryption.FILE).exists()
    specs = [spec for spec in desired(site) if placed is None or spec.host in placed]
    read = (
        leaf_files.judge(directory, spec, *leaf_files.staged(directory, spec))
        if placed is None
        else leaf_files.judge(directory, spec, *leaf_files.of_host(site, placed[spec.host], spec))
        for spec in specs
    )
    found = TrustFacts(
        incomplete,
        tuple(leaf for leaf in read if leaf),
        {n.name: wanted(directory, site, n) for n in site.primers if not incomplete and has_key},
        root=leaf_files.text(directory / root_key.CERTIFICATE),
        encryption=encryption.stage(directory) if has_key else _first_stage(incomplete),
        keys=encryption.keys(directory) if has_key else (),
        rotations=rotation.read(directory),
    )
    moment = _moment(now)
    hosts = {spec.host for spec in specs}
    due = frozenset(s.host for s in plan_trust(site, found, moment).leaves if s.host in hosts)
    return replace(found, due=due, outside_validity=_outside(directory, moment))


def _first_stage(incomplete: tuple[str, ...]) -> str:
    return encryption.REQUIRED if incomplete else encryption.READABLE


def _outside(directory: Path, now: dt.datetime) -> tuple[str, ...]:
    files = (directory / name for name in authority_files() if name.endswith(".crt"))
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
    if observed.outside_validity:
        raise RefusedError(
            f"not valid by this machine's clock: {observed.outside_validity_line}",
            hint="compare the clock with a watch and set it: verifiers would refuse certificates "
            "that these authorities sign now",
        )


def init(
    site: Site,
    directory: Path,
    root_key_file: Path,
    passphrase: str | Callable[[], str],
    now: dt.datetime | None = None,
    given: brought.Given | None = None,
) -> bool:
    """Make the tree with its leaves, or finish an interrupted run; return whether it changed.

    given: authorities of the operator, in place of a root of our own.

    The root key is written, encrypted, only to `root_key_file` (PEM: the PKCS#8 key and the root
    certificate), before any other file. Once all authorities exist, neither that file nor the
    passphrase (called if it is callable) is used. Raises RefusedError when authorities are missing
    and the root key is missing, is another site's, or would be in the tree's folder; and when an
    authority is not valid now.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    with locked(directory):
        if given:
            brought.require_same(directory, given)
        before = observe(site, directory, now)
        _require_valid(before)
        if before.complete and not before.due:
            return False
        if before.incomplete:
            if given:
                brought.write(directory, given)
            else:
                _require_outside(root_key_file, directory)
                words = passphrase if isinstance(passphrase, str) else passphrase()
                _init_authorities(site, directory, root_key_file, words, _start(now))
            encryption.ensure(directory, encryption.REQUIRED)
            _service_account_key(directory)
        _issue(site, directory, now, None)
        return True


def _require_outside(root_key_file: Path, directory: Path) -> None:
    if root_key_file.is_dir() or root_key_file.resolve().is_relative_to(directory.resolve()):
        raise RefusedError(
            f"{root_key_file}: the file of the offline root's key must be outside {directory}",
            hint="set spec.trust.rootKeyFile to the path of a file that you can carry away",
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
    profile = authorities.profile(site, name)
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
    site: Site,
    directory: Path = DIRECTORY,
    now: dt.datetime | None = None,
    placed: leaf_files.Placed | None = None,
) -> tuple[CertificateSpec, ...]:
    """Issue the leaves that are due, with the issuing CAs only; return them.

    Then write each deployment file that differs. placed: only for these hosts, and never an older
    leaf than the host has. Raises RefusedError when the tree is incomplete, or an authority is not
    valid now.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(directory):
        return _issue(site, directory, now, placed)


def _issue(
    site: Site, directory: Path, now: dt.datetime | None, placed: leaf_files.Placed | None
) -> tuple[CertificateSpec, ...]:
    rotation.settle(directory)
    observed = observe(site, directory, now)
    if observed.incomplete:
        raise RefusedError(
            f"{directory}: the trust tree is incomplete, missing: {', '.join(observed.incomplete)}",
            hint="run keystone-install trust init first",
        )
    _require_valid(observed)
    encryption.ensure(directory, encryption.READABLE)
    hosts = [node for node in site.primers if placed is None or node.name in placed]
    names = {node.name for node in hosts}
    staged = {(leaf.host, leaf.name): leaf for leaf in observed.leaves}
    old = leaf_files.newer_on_hosts(site, directory, staged.values(), placed or {})
    due = tuple(
        spec
        for spec in desired(site)
        if spec.host in names
        and (is_due(staged.get(key := (spec.host, spec.name)), spec, _moment(now)) or key in old)
    )
    log = IssueLog(directory / "issued.jsonl")
    for spec in due:
        leaf_files.issue(directory, spec, log, _start(now))
    for node in hosts:
        file, content = deployment_file(directory, node.name), deployment(directory, node)
        if not file.exists() or file.read_bytes() != content:
            write_whole(file, content, 0o600)
    return due


def verify(
    site: Site,
    directory: Path = DIRECTORY,
    now: dt.datetime | None = None,
    placed: leaf_files.Placed | None = None,
) -> list[str]:
    """Return all that is wrong with the tree, one line each; empty when it is valid.

    placed: check the leaves that these hosts have; by default those that the tree last issued.
    """
    moment = now or dt.datetime.now(dt.UTC)
    observed = observe(site, directory, moment, placed)
    wrong = [f"{name}: missing" for name in observed.incomplete]
    if not wrong:
        wrong += [*authority_problems(directory), *problems(directory)]
        wrong += [f"{authority}: not valid now" for authority in _outside(directory, moment)]
        for file in root_key.left(site, directory):
            wrong += root_key.differing(directory, file)
    if not wrong and not (directory / encryption.FILE).exists():
        wrong.append(f"{encryption.FILE}: missing")
    existing = {(leaf.host, leaf.name): leaf for leaf in observed.leaves}
    for spec in desired(site):
        if placed is None or spec.host in placed:
            wrong += leaf_files.problems(spec, existing.get((spec.host, spec.name)), moment)
    return [*wrong, *IssueLog(directory / "issued.jsonl").problems()]


def authority_problems(directory: Path) -> list[str]:
    """Return which authorities, keys and anchors do not belong together, whatever the time is."""
    root = _certificate(directory / "root.crt")  # it may be an intermediate
    wrong = []
    for name in ISSUING:
        key = _key(directory / f"{name}.key")
        for file, issuer in ((f"{name}.crt", root), (f"{name}-anchor.crt", None)):
            certificate = _certificate(directory / file)
            if not certificates.issued_by(certificate, issuer or certificate):
                wrong.append(f"{file}: not signed by {'the root' if issuer else 'itself'}")
            if not certificates.same_key(certificate, key):
                wrong.append(f"{file}: {name}.key is not its key")
    return wrong


@dataclass(frozen=True)
class Entry:
    """One certificate of the tree, for people. rotation: its part in one, "" if it has none."""

    path: str
    subject: str
    issuer: str
    not_after: dt.datetime
    fingerprint: str
    pin: str
    rotation: str = ""


def tree(directory: Path = DIRECTORY) -> tuple[Entry, ...]:
    """Return all certificates, the root first. Raises RefusedError when there is no tree."""
    if not (directory / "root.crt").exists():
        raise RefusedError(
            f"{directory}: no trust tree", hint="make one: keystone-install trust init"
        )
    files = [directory / "root.crt"]
    files += [file for name in ISSUING if (file := directory / f"{name}.crt").exists()]
    files += [file for name in ISSUING if (file := directory / f"{name}-anchor.crt").exists()]
    files += sorted(directory.glob("leaves/*/*.crt"))
    found = [_entry(str(file.relative_to(directory)), _certificate(file)) for file in files]
    return (*found, *_rotating(directory))


def _rotating(directory: Path) -> list[Entry]:
    """Return the anchors that are trusted beside those that sign now."""
    entries = []
    for name, one in rotation.read(directory).running.items():
        part, pem = ("new", one.verifier) if one.stage == rotation.TRUSTED else ("old", one.old)
        if pem and name != rotation.SERVICE_ACCOUNTS:
            path = f"{rotation.FILE}: {name}"
            entry = _entry(path, certificates.load_certificate(pem.encode(), path))
            entries.append(replace(entry, rotation=f"{part}, {one.stage} since {one.began}"))
    return entries


def _entry(path: str, certificate: x509.Certificate) -> Entry:
    return Entry(
        path,
        certificate.subject.rfc4514_string(),
        certificate.issuer.rfc4514_string(),
        certificate.not_valid_after_utc,
        certificates.fingerprint(certificate),
        certificates.pin(certificate),
    )


# Files


def _certificate(file: Path) -> x509.Certificate:
    return certificates.load_certificate(file.read_bytes(), str(file))


def _key(file: Path) -> ec.EllipticCurvePrivateKey:
    return certificates.load_key(file.read_bytes(), str(file))


def _start(now: dt.datetime | None) -> dt.datetime:
    return max(_moment(now).replace(microsecond=0) - certificates.BACKDATE, BUILD_FLOOR)


def _moment(now: dt.datetime | None) -> dt.datetime:
    return max(now or dt.datetime.now(dt.UTC), BUILD_FLOOR)
