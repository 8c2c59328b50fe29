"""What each role is told: one file a role, one pure function `variables(context)`.

Python decides topology, names and paths; a role only converges the host it runs on. Every value
here is complete: roles look up nothing on other hosts. tests/unit/test_contracts.py compares the
result with each role's argument_specs, both ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keystone.bundle.model import Manifest
    from keystone.site.model import Node, Site


@dataclass(frozen=True)
class Context:
    """What a role's variables may depend on: the site, one of its hosts, the bundle's contents."""

    site: Site
    host: Node
    bundle: Manifest
