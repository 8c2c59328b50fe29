"""What may ride on a medium or a stick, by name: site, introductions, join.yaml, bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone import log
from keystone.bundle.read.bundle import open_metadata
from keystone.join import join_yaml
from keystone.site import introduction
from keystone.site import model as site

if TYPE_CHECKING:
    from pathlib import Path

LABEL = "KEYSTONE"
"""Of the stick that a person fills."""
SITE, JOIN, BUNDLE = "site.yaml", join_yaml.NAME, "offline.tar"
FREIGHT = frozenset({SITE, JOIN, BUNDLE, introduction.FOLDER})
"""Names below /keystone: what appliance/discover.py looks for there."""
SECRETS = frozenset({JOIN, introduction.FOLDER})


def require_sound(freight: Path) -> None:
    """What rides on it is read here, not at the rack first.

    Raises ConfigurationError, and for a bundle that the introductions do not vouch for
    UntrustedBundleError or DamagedBundleError.
    """
    if (freight / SITE).is_file():
        wanted = site.load(freight / SITE)
        given = introduction.read(freight / SITE, wanted.primers[0])
        fingerprint = given.get(introduction.FINGERPRINT, "").strip()
        if fingerprint and (freight / BUNDLE).is_file():
            with log.step(f"check who signed {freight / BUNDLE}"):
                open_metadata(freight / BUNDLE, fingerprint=fingerprint)
    if (freight / JOIN).is_file():
        join_yaml.load(freight / JOIN)
