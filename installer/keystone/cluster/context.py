"""The input from which roles' variables and the cluster's configuration are computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.bundle.model import Manifest
    from keystone.cluster.etcd import Timing
    from keystone.site.model import Node, Site


@dataclass(frozen=True)
class Context:
    """The input of a role's variables: the site, one of its hosts, the bundle's manifest.

    trust: digest of what the trust tree has for the host; "" if another machine has it. initial:
    members and state ("new", "existing") with which an empty etcd member starts here; empty for the
    site's own list and a new quorum.
    document: the site file as Primers keep it; known_hosts: the ssh host keys of all Primers; ""
    where no site is installed. timing: Raft's, the same for every member; None for that of the
    site's patience. starts_cluster: no other control plane runs, so this one does init.
    thumbprints: of the tang of each Primer, by name (keystone.pki.seal).
    """

    site: Site
    host: Node
    bundle: Manifest
    trust: str = ""
    initial: tuple[str, ...] = ()
    document: str = ""
    known_hosts: str = ""
    timing: Timing | None = None
    starts_cluster: bool = False
    thumbprints: Mapping[str, str] = field(default_factory=dict)
