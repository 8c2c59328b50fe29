"""Files that a medium or stick may carry: site file, introductions, join.yaml, bundle."""

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
"""File system label of the stick that a person fills."""
SITE, JOIN, BUNDLE = "site.yaml", join_yaml.NAME, "offline.tar"
FREIGHT = frozenset({SITE, JOIN, BUNDLE, introduction.FOLDER})
"""Names below /keystone that appliance/discover.py searches for."""
SECRETS = frozenset({JOIN, introduction.FOLDER})


def require_valid(freight: Path) -> None:
    """Check the files in a folder before an ISO with them is built, not only at the machine.

    Raises ConfigurationError, and UntrustedBundleError or DamagedBundleError for a bundle whose
    trust root does not have the fingerprint in the introductions.
    """
    if (freight / SITE).is_file():
        wanted = site.load(freight / SITE)
        given = introduction.read(freight / SITE, wanted.primers[0])
        fingerprint = given.get(introduction.FINGERPRINT, "").strip()
        if fingerprint and (freight / BUNDLE).is_file():
            with log.step(f"verify the signatures of {freight / BUNDLE}"):
                open_metadata(freight / BUNDLE, fingerprint=fingerprint)
    if (freight / JOIN).is_file():
        join_yaml.load(freight / JOIN)
