"""What a medium refuses before it looks at any disk."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from keystone.errors import RefusedError
from keystone.image import installing
from keystone.image.root import System
from keystone.image.write import Running
from keystone.site import Networks, Node, Site

NODE = Node("p1", IPv4Address("10.77.0.11"), ())
SITE = Site("plant", (NODE,), Networks(IPv4Network("10.77.0.0/24")), system_floor=3)


def test_a_medium_older_than_the_site_takes_is_refused() -> None:
    now = Running(System(Path("/dev/sr0"), 4096, "ab" * 32), 2, medium=True)
    with pytest.raises(RefusedError, match="version 2, site plant takes 3 or newer"):
        installing.plan(now, SITE, NODE)
