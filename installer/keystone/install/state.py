"""What an installation decides from: the site, the bundle's contents and what was observed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone.ansible import playbook, roles
from keystone.cluster.context import Context

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.bundle.model import Manifest
    from keystone.cluster.facts import ClusterFacts, EtcdFacts
    from keystone.hosts.facts import HostFacts
    from keystone.pki.plan import TrustFacts
    from keystone.site.model import Node, Site


@dataclass(frozen=True)
class State:
    """One look at everything. etcd, cluster: None where they cannot be asked yet."""

    site: Site
    manifest: Manifest
    bundle_digest: str
    installer_digest: str
    facts: Mapping[str, HostFacts]
    trust: TrustFacts
    etcd: EtcdFacts | None = None
    cluster: ClusterFacts | None = None

    def variables(self, node: Node, role: str) -> dict[str, object]:
        """Everything the role is told about the host, with the name of its inputs."""
        deployed = self.trust.deployed.get(node.name, "")
        values = roles.variables(role, Context(self.site, node, self.manifest, deployed))
        return {**values, f"{role}_inputs": playbook.inputs(role, values)}

    def converged(self, node: Node, role: str) -> bool:
        """The role was applied to the host as it is now, and nothing has drifted since."""
        seen = self.facts[node.name].roles.get(role)
        wanted = self.variables(node, role)[f"{role}_inputs"]
        return seen is not None and seen.inputs == wanted and not seen.drift
