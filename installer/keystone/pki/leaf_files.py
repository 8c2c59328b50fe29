"""Leaf certificates as files: in the trust tree, where they are issued, and as hosts have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from keystone.files import write_whole
from keystone.pki import certificates, rotation
from keystone.pki.host_files import leaf_places
from keystone.pki.plan import CertificateSpec, Issued, desired

if TYPE_CHECKING:
    import datetime as dt
    from pathlib import Path

    from cryptography import x509

    from keystone.pki.issue_log import IssueLog
    from keystone.site.model import Site

Placed: TypeAlias = "Mapping[str, Mapping[str, str]]"
"""What hosts have: text of each certificate (PEM) by path, by host; keys where they are known."""


def judge(directory: Path, spec: CertificateSpec, pem: str, key_pem: str | None) -> Issued | None:
    """Judge a leaf. pem: "" if there is none; key_pem: None if the key cannot be seen."""
    anchor_file = directory / f"{spec.issuer}-anchor.crt"
    if not (pem and anchor_file.exists()) or key_pem == "":
        return None
    where = f"{spec.host}/{spec.name}"
    certificate = certificates.load_certificate(pem.encode(), f"leaves/{where}.crt")
    rotations = rotation.read(directory)
    known = key_pem is None or certificates.same_key(
        certificate, certificates.load_key(key_pem.encode(), f"leaves/{where}.key")
    )
    return Issued(
        spec.host,
        spec.name,
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        certificates.fingerprint(certificate),
        sound=known
        and certificates.issued_by(certificate, _load(anchor_file))
        and certificates.is_since(certificate, rotations.since)
        and f"{certificate.serial_number:032x}" not in rotations.serials,
        as_wanted=certificates.matches(certificate, spec.profile),
    )


def staged(directory: Path, spec: CertificateSpec) -> tuple[str, str]:
    """Return certificate and key as the tree last issued them, "" for none."""
    certificate_file, key_file = files(directory, spec)
    return text(certificate_file), text(key_file)


def of_host(site: Site, files: Mapping[str, str], spec: CertificateSpec) -> tuple[str, str | None]:
    """Return certificate and key as the host has them."""
    node = next(node for node in site.primers if node.name == spec.host)
    path = leaf_places(node)[spec.name]
    return files.get(path, ""), files.get(path.removesuffix(".crt") + ".key")


def text(file: Path) -> str:
    """Return the text of a file, "" if there is none."""
    return file.read_text() if file.exists() else ""


def newer_on_hosts(
    site: Site, directory: Path, staged: Iterable[Issued], placed: Placed
) -> set[tuple[str, str]]:
    """Return the leaves of which the host has a younger one, which it issued itself."""
    specs = {(spec.host, spec.name): spec for spec in desired(site)}
    found = set()
    for leaf in staged:
        key = (leaf.host, leaf.name)
        if leaf.host in placed and key in specs:
            pem, _ = of_host(site, placed[leaf.host], specs[key])
            has = judge(directory, specs[key], pem, None)
            if has is not None and has.not_before > leaf.not_before:
                found.add(key)
    return found


def issue(directory: Path, spec: CertificateSpec, log: IssueLog, start: dt.datetime) -> None:
    """Make a key and issue a leaf in the tree, with the issuing CA's key. start: not before."""
    authority, signer = _load(directory / f"{spec.issuer}.crt"), directory / f"{spec.issuer}.key"
    issuer = certificates.Pair(authority, certificates.load_key(signer.read_bytes(), str(signer)))
    certificate_file, key_file = files(directory, spec)
    key = certificates.new_key()
    certificate = certificates.sign(spec.profile, key, issuer, start)
    log.add(certificate)
    # An interruption between the two leaves key and certificate that do not match: the leaf is not
    # sound, so the next run issues it again.
    write_whole(key_file, certificates.key_pem(key), 0o600)
    write_whole(certificate_file, certificates.certificate_pem(certificate, authority), 0o644)


def problems(spec: CertificateSpec, leaf: Issued | None, now: dt.datetime) -> list[str]:
    """Return why a leaf is not valid, [] if it is."""
    label = f"{spec.host}/{spec.name}"
    if leaf is None:
        return [f"{label}: missing"]
    if not leaf.sound:
        return [f"{label}: certificate, key and {spec.issuer} CA do not match, or it was revoked"]
    if not leaf.as_wanted:
        return [f"{label}: does not match the site file"]
    if not leaf.not_before <= now < leaf.not_after:
        span = f"from {leaf.not_before:%Y-%m-%d %H:%M} to {leaf.not_after:%Y-%m-%d %H:%M} UTC"
        return [f"{label}: not valid now ({span})"]
    return []


def files(directory: Path, spec: CertificateSpec) -> tuple[Path, Path]:
    """Return the tree's files of a leaf: certificate with its issuer, and key."""
    stem = directory / "leaves" / spec.host / spec.name
    return stem.with_suffix(".crt"), stem.with_suffix(".key")


def _load(file: Path) -> x509.Certificate:
    return certificates.load_certificate(file.read_bytes(), str(file))
