"""Plan the certificates of a site: which it needs, and which are due. Pure."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from keystone.pki import certificates
from keystone.pki.encryption import REQUIRED
from keystone.pki.rotation import Rotations

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.site.model import Node, Site

ROOT_LIFETIME = dt.timedelta(days=20 * 365)


@dataclass(frozen=True)
class CertificateSpec:
    """A leaf certificate that a host needs."""

    host: str
    name: str
    issuer: str
    profile: certificates.Profile


@dataclass(frozen=True)
class Issued:
    """A leaf certificate that exists.

    sound: certificate and key match, and the issuing CA signed it. as_wanted: it has the name,
    usages and addresses of the site file.
    """

    host: str
    name: str
    not_before: dt.datetime
    not_after: dt.datetime
    fingerprint: str
    sound: bool = True
    as_wanted: bool = True


@dataclass(frozen=True)
class TrustFacts:
    """The content of the trust tree's folder.

    incomplete: names of files that init must still make. leaves: as they are on the hosts, if these
    were observed, else as the tree last issued them. wanted: digest of the files that each host
    should have (`host_files.wanted`); empty until the tree is complete. due: hosts with leaves to
    issue. root: certificate of the root (PEM), "" when there is none yet.
    """

    incomplete: tuple[str, ...] = ()
    leaves: tuple[Issued, ...] = ()
    wanted: Mapping[str, str] = field(default_factory=dict)
    due: frozenset[str] = frozenset()
    root: str = ""
    encryption: str = REQUIRED
    """The stage of the file that encrypts secrets, or the stage for a new file."""
    keys: tuple[str, ...] = ()
    """SHA-256 of each key in that file; empty when there is no file."""
    outside_validity: tuple[str, ...] = ()
    """Authorities that are not valid by this machine's clock, each with its validity."""
    rotations: Rotations = field(default_factory=Rotations)
    """What is being replaced, or was."""

    @property
    def complete(self) -> bool:
        """True if all authorities and the key of secrets exist: only leaves may be missing."""
        return not self.incomplete and bool(self.keys)

    @property
    def outside_validity_line(self) -> str:
        """The first authority of `outside_validity`, and the number of others."""
        first, *more = self.outside_validity
        return f"{first} and {len(more)} more" if more else first


@dataclass(frozen=True)
class Missing:
    """The missing parts of a tree: `authorities` need the root key, `leaves` only issuing CAs."""

    authorities: tuple[str, ...] = ()
    leaves: tuple[CertificateSpec, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.authorities or self.leaves)


JOIN_USER = "keystone:join"
"""User name of the join service for the API server; its rights: roles/addons, join.yaml.j2."""
_LOOPBACK = IPv4Address("127.0.0.1")


def desired(site: Site) -> tuple[CertificateSpec, ...]:
    """Return all leaves of the site, with names and addresses of the site file only."""
    return tuple(spec for node in site.primers for spec in leaves(site, node))


def leaves(site: Site, node: Node) -> list[CertificateSpec]:
    """Return the leaves of one host."""

    def spec(
        name: str,
        issuer: str,
        usages: tuple[str, ...],
        common_name: str,
        *,
        local: bool = False,
        organization: str = site.name,
    ) -> CertificateSpec:
        loopback = (_LOOPBACK,) if local else ()
        serves = "server" in usages
        return CertificateSpec(
            node.name,
            name,
            issuer,
            certificates.Profile(
                common_name,
                organization,
                usages,
                site.trust.certificate_lifetime,
                addresses=(node.address, *loopback) if serves else (),
                dns_names=(node.name, *(("localhost",) if local else ())) if serves else (),
            ),
        )

    found = [
        # etcd compares the address of a connecting peer with the IP SANs: no loopback here.
        spec("etcd-peer", "etcd-peer", ("server", "client"), node.name),
        spec("etcd-server", "etcd-peer", ("server", "client"), node.name, local=True),
        spec("etcd-client", "etcd-client", ("client",), f"{node.name} health check"),
        spec("site", "site", ("server",), node.name, local=True),
    ]
    if node.control_plane:
        found.append(spec("apiserver-etcd-client", "etcd-client", ("client",), "kube-apiserver"))
        # The API server takes an organization for a group, so it must not be the site's name.
        found.append(spec("join", "kubernetes", ("client",), JOIN_USER, organization=JOIN_USER))
    return found


def plan_trust(site: Site, observed: TrustFacts, now: dt.datetime) -> Missing:
    """Return what must be made. Pure.

    A leaf is due when it is missing, not sound, not as wanted, not valid yet, or past 2/3 of its
    lifetime.
    """
    existing = {(leaf.host, leaf.name): leaf for leaf in observed.leaves}
    due = (
        spec for spec in desired(site) if is_due(existing.get((spec.host, spec.name)), spec, now)
    )
    return Missing(observed.incomplete, tuple(due))


def is_due(leaf: Issued | None, spec: CertificateSpec, now: dt.datetime) -> bool:
    """Return whether a leaf must be issued (again), as `plan_trust` says."""
    if leaf is None or not leaf.sound or not leaf.as_wanted:
        return True
    if now < leaf.not_before:  # made while the clock was ahead: verifiers refuse it for now
        return True
    # A lifetime that was shortened in the site file counts for leaves of before, too.
    end = min(leaf.not_after, leaf.not_before + spec.profile.lifetime + certificates.BACKDATE)
    return end - now < (end - leaf.not_before) / 3
