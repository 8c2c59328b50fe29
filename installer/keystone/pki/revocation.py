"""Certificates of etcd that are refused before their end: a key leaked, or a Primer left.

etcd reads a list (RFC 5280, section 5) at each handshake, and compares serial numbers; it looks
neither at the signature nor at `nextUpdate` (client/pkg/transport/listener_tls.go, 3.6.16). What is
revoked is in the tree's rotation.json; the lists follow from it, the same bytes on every Primer.
Other programs of a site read no lists (docs/adr/0082-revoke-certificates-of-etcd.md).
"""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import TYPE_CHECKING

from cryptography import x509

from keystone.errors import RefusedError
from keystone.pki import certificates, rotation
from keystone.pki.rotate import locked
from keystone.pki.rotation import Revoked

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

LEAVES: Mapping[str, str] = {
    "etcd-peer": "etcd-peer",
    "etcd-server": "etcd-peer",
    "etcd-client": "etcd-client",
    "apiserver-etcd-client": "etcd-client",
}
"""The leaves that can be revoked, each with its CA."""
AUTHORITIES = tuple(dict.fromkeys(LEAVES.values()))


def list_of(directory: Path, authority: str) -> bytes:
    """Return the list that a CA signs, DER. It ends with the CA: a site left alone goes on.

    While the CA is rotated, the new one lists what the old one issued, too: serial numbers are
    random numbers of 128 bits, and etcd compares nothing else.
    """
    found = rotation.read(directory)
    where, key_file = directory / f"{authority}.crt", directory / f"{authority}.key"
    issuer = certificates.load_certificate(where.read_bytes(), str(where))
    key = certificates.load_key(key_file.read_bytes(), str(key_file))
    ours = [one for one in found.revoked if one.issuer == authority]
    last = max([issuer.not_valid_before_utc, *(_moment(one.when) for one in ours)])
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(last)
        .next_update(max(issuer.not_valid_after_utc, last + dt.timedelta(days=1)))
        .add_extension(x509.CRLNumber(found.number), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
        )
    )
    for one in ours:
        entry = x509.RevokedCertificateBuilder().serial_number(int(one.serial, 16))
        builder = builder.add_revoked_certificate(entry.revocation_date(_moment(one.when)).build())
    return certificates.list_der(builder, key)


def revoke(directory: Path, found: Iterable[Revoked], now: dt.datetime) -> None:
    """Write these into the tree here, and forget those that have ended. Repeating it is safe."""
    with locked(directory):
        rotation.settle(directory)
        before = rotation.read(directory)
        moment = now.replace(microsecond=0).isoformat()
        new = [replace(one, when=moment) for one in found if one.serial not in before.serials]
        if new:
            kept = [one for one in before.revoked if _moment(one.until) > now]
            wanted = replace(before, number=before.number + 1, revoked=(*kept, *new))
            rotation.write(directory, wanted)


def of_host(
    host: str, found: Mapping[str, str], names: Iterable[str] = LEAVES
) -> tuple[Revoked, ...]:
    """Return a Primer's certificates as they are revoked, by default of all names.

    found: "<name> <end>" by serial number, see keystone.cluster.known.
    """
    wanted, ours = set(names), []
    for serial, text in sorted(found.items()):
        name, _, until = text.partition(" ")
        if name in wanted:
            ours.append(Revoked(serial, LEAVES[name], f"{host}/{name}", until))
    return tuple(ours)


def of_file(pem: bytes, where: str, directory: Path) -> Revoked:
    """Return the certificate in a file as it is revoked. where: the file, for messages.

    Raises RefusedError unless a CA of etcd in this tree issued it, now or before its rotation.
    """
    one = certificates.load_certificate(pem, where)
    for authority in AUTHORITIES:
        anchors = rotation.trusted(directory, authority).encode()
        for anchor in certificates.load_all(anchors, authority):
            if certificates.issued_by(one, anchor):
                return Revoked(
                    f"{one.serial_number:032x}", authority, one.subject.rfc4514_string(),
                    one.not_valid_after_utc.isoformat(),
                )  # fmt: skip
    raise RefusedError(
        f"{where}: not issued by etcd's CAs that this site trusts, but by "
        f"{one.issuer.rfc4514_string()}",
        hint="only etcd reads lists of revoked certificates; replace the CA of any other: "
        "keystone-install trust rotate ca NAME; of a worker: keystone-install token revoke",
    )


def noted(files: Mapping[str, str], paths: Mapping[str, str]) -> dict[str, str]:
    """Return what a Primer has, "<name> <end>" by serial number.

    files: certificates (PEM) by path. paths: of leaves by name.
    """
    found = {}
    for name in LEAVES:
        if pem := files.get(paths.get(name, "")):
            one = certificates.load_certificate(pem.encode(), paths[name])
            found[f"{one.serial_number:032x}"] = f"{name} {one.not_valid_after_utc.isoformat()}"
    return found


def lasting(found: Mapping[str, str], now: dt.datetime) -> dict[str, str]:
    """Return those that have not ended."""
    return {serial: text for serial, text in found.items() if _moment(text.split()[-1]) > now}


def _moment(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)
