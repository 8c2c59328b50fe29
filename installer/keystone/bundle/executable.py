"""Which executable a bundle carries: the one that runs, or the one built from this checkout."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import keystone
from keystone.bundle import cache, installer
from keystone.errors import ConfigurationError


def executable() -> Path:
    """The file. Raises ConfigurationError when this code is neither a checkout nor packed."""
    own = Path(sys.argv[0])
    if own.is_file() and zipfile.is_zipfile(own):
        return own.resolve()
    checkout = Path(keystone.__file__).resolve().parents[2]
    if not (checkout / "requirements.lock").is_file():
        raise ConfigurationError(
            f"{checkout}: not a checkout of Keystone, so its executable cannot be built",
            hint="run keystone-install from a checkout, or the packed executable itself",
        )
    return installer.build(checkout, cache.root())
