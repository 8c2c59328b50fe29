"""Variables of the role `mirror`: the content it serves to the site's machines, its ports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone.bundle.model import STORE
from keystone.pki.host_files import ANCHORS_FILE

if TYPE_CHECKING:
    from keystone.cluster.context import Context

PORT = 8443
BOOT_PORT = 8080
BOOT = "/var/lib/keystone/boot/served"
"""Files for network boot, served over plain HTTP; `image serve` writes them."""
CERTIFICATE = "/etc/keystone/pki/site.crt"
SUITE = "trixie"


def variables(context: Context) -> dict[str, object]:
    """Return the role's variables, without `mirror_inputs`."""
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
        "mirror_anchors_file": ANCHORS_FILE,
        "mirror_network_boot": context.site.network_boot,
        "mirror_boot_port": BOOT_PORT,
        "mirror_boot_dir": BOOT,
        "mirror_certificate": CERTIFICATE,
        "mirror_key": "/etc/keystone/pki/site.key",
    }
