"""The issuing CAs of a site, and the content of their certificates. Pure."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from keystone.pki import certificates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.site.model import Site

LIFETIME = dt.timedelta(days=3 * 365)

ISSUING: Mapping[str, tuple[str, ...]] = {
    "etcd-peer": ("server", "client"),
    "etcd-client": ("client",),
    "kubernetes": ("server", "client"),
    "front-proxy": ("client",),
    "site": ("server",),
}
"""Issuing CAs, with the purposes that each may sign for. etcd's peers and clients have separate
ones, so that nobody can join as a peer with a leaked client certificate."""


def profile(site: Site, name: str) -> certificates.Profile:
    """Return the content of an issuing CA's certificates."""
    return certificates.Profile(
        f"Keystone {name}", site.name, ISSUING[name], LIFETIME, path_length=0
    )
