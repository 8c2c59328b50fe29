"""The input of an installation's decisions: site, the bundle's contents, observed facts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from keystone import host_keys
from keystone.ansible import playbook, roles
from keystone.cluster import known, timing
from keystone.cluster.context import Context
from keystone.cluster.etcd import TIMINGS, Timing, peer_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.backup.opened import Opened
    from keystone.bundle.model import Manifest
    from keystone.cluster.facts import ClusterFacts, EtcdFacts, MemberFacts
    from keystone.cluster.timing import Measured
    from keystone.hosts.facts import HostFacts
    from keystone.pki.plan import TrustFacts
    from keystone.site.model import Node, Site


def placed(facts: Mapping[str, HostFacts]) -> dict[str, Mapping[str, str]]:
    """Return the certificates of each host, by path, as the trust tree is compared with them."""
    return {name: seen.certificates for name, seen in facts.items()}


@dataclass(frozen=True)
class State:
    """One observation of everything. etcd, cluster: None if they do not exist or answer yet."""

    site: Site
    manifest: Manifest
    bundle_digest: str
    installer_digest: str
    facts: Mapping[str, HostFacts]
    trust: TrustFacts
    etcd: EtcdFacts | None = None
    cluster: ClusterFacts | None = None
    document: str = ""
    """The site file as Primers keep it."""
    opened: Opened | None = None
    """The backup that the site comes back from, on the machine that runs the command."""
    here: str = ""
    """The Primer on which the installer runs."""
    replacing: tuple[str, ...] = ()
    """The Primer whose machine was replaced by another one, as a person said."""

    @property
    def members(self) -> tuple[MemberFacts, ...]:
        """The members that etcd lists; none if it does not answer."""
        return self.etcd.members if self.etcd else ()

    @property
    def known(self) -> Mapping[str, known.Known]:
        """The records of all Primers, also of those that the site file does not name any more."""
        return known.primers(self.etcd.kept) if self.etcd else {}

    @property
    def running(self) -> tuple[Node, ...]:
        """The control planes whose API server was set up, in the order of the site file."""
        return tuple(
            node
            for node in self.site.control_planes
            if (seen := self.facts.get(node.name))
            and ("control_plane" in seen.roles or seen.standing.kubernetes)
        )

    @property
    def api(self) -> Node:
        """The control plane on which the API is asked: a sound one, this machine if it is one."""
        running = self.running or self.site.control_planes
        return min(running, key=lambda node: (bool(self._drift(node)), node.name != self.here))

    def _drift(self, node: Node) -> tuple[str, ...]:
        seen = self.facts.get(node.name)
        role = seen.roles.get("control_plane") if seen else None
        return role.drift if role else ()

    def context(self, node: Node) -> Context:
        """Return what the roles' variables for a host are made from."""
        return Context(
            self.site, node, self.manifest, self.trust.wanted.get(node.name, ""),
            self.initial(node), self.document, self.known_hosts(), self.timing(),
            thumbprints=self.thumbprints(),
        )  # fmt: skip

    def variables(self, node: Node, role: str) -> dict[str, object]:
        """Return the role's variables for the host, with the digest of all its inputs."""
        context = self.context(node)
        # Which host starts the cluster is no input: one that did is converged as one that joined.
        inputs = playbook.inputs(role, roles.variables(role, context))
        values = roles.variables(role, replace(context, starts_cluster=self.starts(node)))
        return {**values, f"{role}_inputs": inputs}

    def starts(self, node: Node) -> bool:
        """True if the host starts the cluster: no control plane of the site was set up yet."""
        return not self.running and node == self.site.control_planes[0]

    def thumbprints(self) -> Mapping[str, str]:
        """Return the thumbprint of each Primer's tang, as ssh to a verified host gave it."""
        return {name: seen.seal.thumbprint for name, seen in self.facts.items()}

    def timing(self) -> Timing:
        """Return Raft's timing for all members: that of today unless measurements demand more."""
        return timing.choose(self.timing_now(), self.measured(), self._least_timing())

    def timing_now(self) -> Timing:
        """Return the timing that the members have; the slowest while they differ."""
        seen = (host.standing.timing for host in self.facts.values())
        there = [Timing(*one) for one in seen if len(one) == 2]  # noqa: PLR2004 both of its parts
        return max([*there, self._least_timing()], key=lambda one: one.heartbeat)

    def measured(self) -> tuple[Measured, ...]:
        """Return what the members measured."""
        found = (timing.load(host.upkeep.get("timing", "")) for host in self.facts.values())
        return tuple(one for one in found if one)

    def _least_timing(self) -> Timing:
        return TIMINGS[self.site.patience.profile]

    def known_hosts(self) -> str:
        """Return the ssh host keys of all Primers, as known_hosts has them (sshd(8))."""
        port = self.site.ssh.port
        return "".join(
            f"{host_keys.place(str(node.address), port)} {host_keys.key(seen.host_key)}\n"
            for node in self.site.primers
            if (seen := self.facts[node.name]).host_key
        )

    def initial(self, node: Node) -> tuple[str, ...]:
        """Return members and state with which etcd starts on the host while it has no data.

        What a member with data was started with stays, so that its configuration does not change.
        """
        if self.facts[node.name].standing.initial:
            return self.facts[node.name].standing.initial
        if self.etcd is None or not self.etcd.members:
            return ()
        listed = {url: one.name for one in self.etcd.members for url in one.peers}
        listed[peer_url(node)] = node.name
        return ",".join(f"{name}={url}" for url, name in listed.items() if name), "existing"

    def converged(self, node: Node, role: str) -> bool:
        """True if the role was applied with today's inputs, and no file has drifted since."""
        seen = self.facts[node.name].roles.get(role)
        wanted = self.variables(node, role)[f"{role}_inputs"]
        return seen is not None and seen.inputs == wanted and not seen.drift
