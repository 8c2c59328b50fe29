"""What the role `mirror` is told: packages, files and the join script, and where to serve them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone.bundle.model import STORE

if TYPE_CHECKING:
    from keystone.inventory import Context

PORT = 8443
SUITE = "trixie"


def variables(context: Context) -> dict[str, object]:
    """Every variable of the role but `mirror_inputs`."""
    del context
    return {
        "mirror_packages": ["nginx"],
        "mirror_package_source": f"directory:{STORE}/apt/{SUITE}",
        "mirror_sources_line": f"deb [trusted=yes] file:{STORE}/apt/{SUITE} ./",
        "mirror_port": PORT,
        "mirror_mount": STORE,
        "mirror_apt_dir": f"{STORE}/apt",
        "mirror_files_dir": f"{STORE}/files",
        "mirror_join_script": "/var/lib/keystone/join/join.py",
        "mirror_ca_file": "/etc/keystone/pki/site-ca.crt",
        "mirror_certificate": "/etc/keystone/pki/site.crt",
        "mirror_key": "/etc/keystone/pki/site.key",
    }
