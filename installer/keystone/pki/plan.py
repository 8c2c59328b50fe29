"""Which certificates a site shall have, and which are due: pure, from the site file and a clock."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from keystone.pki import certificates
from keystone.pki.encryption import REQUIRED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.site.model import Node, Site

ROOT_LIFETIME = dt.timedelta(days=20 * 365)
ISSUING_LIFETIME = dt.timedelta(days=3 * 365)
LEAF_LIFETIME = dt.timedelta(days=90)

ISSUING: Mapping[str, tuple[str, ...]] = {
    "etcd-peer": ("server", "client"),
    "etcd-client": ("client",),
    "kubernetes": ("server", "client"),
    "front-proxy": ("client",),
    "site": ("server",),
}
"""Issuing CAs and the only purposes each may sign for. Separate ones for etcd's peers and clients:
a leaked client certificate can never join as a peer."""


@dataclass(frozen=True)
class CertificateSpec:
    """A leaf that a host shall have."""

    host: str
    name: str
    issuer: str
    profile: certificates.Profile


@dataclass(frozen=True)
class Issued:
    """A leaf that exists, as far as planning needs to know it.

    sound: certificate and key belong together and its issuing CA signed it.
    """

    host: str
    name: str
    not_before: dt.datetime
    not_after: dt.datetime
    fingerprint: str
    sound: bool = True
    as_asked: bool = True


@dataclass(frozen=True)
class TrustFacts:
    """What the tree's directory holds.

    incomplete: names of what init has still to make. deployed: SHA-256 of each host's deployment
    file, of those that hold what the leaves are now. complete: nothing was due when it was looked
    at. root: certificate of the root (PEM), "" when there is none yet.
    """

    incomplete: tuple[str, ...] = ()
    leaves: tuple[Issued, ...] = ()
    deployed: Mapping[str, str] = field(default_factory=dict)
    complete: bool = False
    root: str = ""
    encryption: str = REQUIRED
    """The stage of the file that encrypts secrets, or that it will be made with."""
    keys: tuple[str, ...] = ()
    """SHA-256 of each key in that file; empty when there is no file."""
    outside: tuple[str, ...] = ()
    """Authorities that are not valid by this machine's clock, each with its time."""

    @property
    def outside_said(self) -> str:
        """The first of them, and how many more there are."""
        first, *more = self.outside
        return f"{first} and {len(more)} more" if more else first


@dataclass(frozen=True)
class Missing:
    """What a run would do: `authorities` need the root key, `leaves` only the issuing CAs.

    deployments: hosts whose deployment file has to be written again.
    """

    authorities: tuple[str, ...] = ()
    leaves: tuple[CertificateSpec, ...] = ()
    deployments: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.authorities or self.leaves or self.deployments)


JOIN_USER = "keystone:join"
"""The join service to the API server; what it may do: roles/addons, join.yaml.j2."""
_LOOPBACK = IPv4Address("127.0.0.1")


def desired(site: Site) -> tuple[CertificateSpec, ...]:
    """Every leaf of the site. Names and addresses come from the site file, never from a request."""
    return tuple(spec for node in site.primers for spec in _leaves(site, node))


def _leaves(site: Site, node: Node) -> list[CertificateSpec]:
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
                LEAF_LIFETIME,
                addresses=(node.address, *loopback) if serves else (),
                dns_names=(node.name, *(("localhost",) if local else ())) if serves else (),
            ),
        )

    found = [
        # etcd checks a dialling peer's address against the IP SANs: no loopback here.
        spec("etcd-peer", "etcd-peer", ("server", "client"), node.name),
        spec("etcd-server", "etcd-peer", ("server", "client"), node.name, local=True),
        spec("etcd-client", "etcd-client", ("client",), f"{node.name} health check"),
        spec("site", "site", ("server",), node.name, local=True),
    ]
    if node.control_plane:
        found.append(spec("apiserver-etcd-client", "etcd-client", ("client",), "kube-apiserver"))
        # To the API server an organization is a group: a site's name must not be one.
        found.append(spec("join", "kubernetes", ("client",), JOIN_USER, organization=JOIN_USER))
    return found


def plan_trust(site: Site, observed: TrustFacts, now: dt.datetime) -> Missing:
    """What has to be made: pure.

    A leaf is due when absent, unsound, changed, not valid yet, or past 2/3 of its life.
    """
    existing = {(leaf.host, leaf.name): leaf for leaf in observed.leaves}
    due = tuple(
        spec for spec in desired(site) if _is_due(existing.get((spec.host, spec.name)), now)
    )
    stale = {spec.host for spec in due} | {node.name for node in site.primers}.difference(
        observed.deployed
    )
    hosts = tuple(node.name for node in site.primers if node.name in stale)
    return Missing(observed.incomplete, due, hosts)


def _is_due(leaf: Issued | None, now: dt.datetime) -> bool:
    if leaf is None or not leaf.sound or not leaf.as_asked:
        return True
    if now < leaf.not_before:  # made while the clock was ahead: nobody believes it yet
        return True
    return leaf.not_after - now < (leaf.not_after - leaf.not_before) / 3
