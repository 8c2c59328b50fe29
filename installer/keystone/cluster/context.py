"""What is told of the cluster depends on this, and on nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keystone.bundle.model import Manifest
    from keystone.site.model import Node, Site


@dataclass(frozen=True)
class Context:
    """What a role's variables may depend on: the site, one of its hosts, the bundle's contents.

    deployed: digest of the host's files in the trust tree, so that a renewed certificate is a
    changed input; "" where the tree is another machine's.
    """

    site: Site
    host: Node
    bundle: Manifest
    deployed: str = ""
