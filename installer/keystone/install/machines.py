"""The machines of a site: its Primers as etcd and the site file know them, and the workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone import host_keys
from keystone.cluster import known
from keystone.cluster.facts import observe_cluster, observe_etcd
from keystone.errors import HostError
from keystone.install import reach
from keystone.install.members import name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    from keystone.cluster.facts import ClusterFacts, EtcdFacts, MemberFacts
    from keystone.run import Host
    from keystone.site.model import Site

    Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Machine:
    """One machine.

    part: "control plane", "pods", "vote only" or "worker"; "leaving" if the site file does not name
    it. member: "leader", "voter", "learner", "silent" or "" for none. node: "Ready", "not Ready" or
    "" for none. machine_id, host_key (a fingerprint), disks: as recorded.
    """

    name: str
    address: str
    part: str
    member: str = ""
    node: str = ""
    machine_id: str = ""
    host_key: str = ""
    disks: tuple[str, ...] = ()

    def row(self) -> tuple[str, ...]:
        """Return its line in a table."""
        return (
            self.name, self.address, self.part, self.member or "none", self.node or "none",
            self.machine_id, self.host_key, " ".join(self.disks),
        )  # fmt: skip


def survey(wanted: Site) -> tuple[Machine, ...]:
    """Ask the Primers that answer, this machine first. Raises HostError if none knows anything."""
    hosts = sorted(reach.known(wanted).values(), key=lambda host: not host.local)
    members = reach.first_answer(hosts, _patient(observe_etcd), lambda facts: bool(facts.members))
    cluster = reach.first_answer(hosts, _patient(observe_cluster), bool)
    if not (members and members.members) and cluster is None:
        raise HostError(
            "no Primer that answers has a running etcd member or API server",
            hint="run this on a Primer; look at `keystone-install etcd status` there",
        )
    return machines(wanted, members, cluster)


def _patient(ask: Callable[[Host], Answer | None]) -> Callable[[Host], Answer | None]:
    """Return a question that a host which cannot be reached answers with None."""

    def asked(host: Host) -> Answer | None:
        try:
            return ask(host)
        except HostError:
            return None

    return asked


def machines(
    wanted: Site, members: EtcdFacts | None, cluster: ClusterFacts | None
) -> tuple[Machine, ...]:
    """Return the Primers in the order of the site file, those that leave, then the workers."""
    records = known.primers(members.kept) if members else {}
    votes = _votes(wanted, members)
    nodes = {node.name: node for node in cluster.nodes} if cluster else {}
    parts = {node.name: _part(node.control_plane, node.kubelet) for node in wanted.primers}
    addresses = {node.name: str(node.address) for node in wanted.primers}
    gone = [name for name in (*records, *votes) if name not in parts]
    workers = [name for name in sorted(nodes) if name not in parts and name not in gone]
    found = []
    for name in (*parts, *dict.fromkeys(gone), *workers):
        node, record = nodes.get(name), records.get(name)
        address = addresses.get(name) or (record.address if record else "")
        found.append(
            Machine(
                name,
                address or (node.addresses[0] if node and node.addresses else ""),
                parts.get(name, "leaving" if name in gone else "worker"),
                votes.get(name, ""),
                ("Ready" if node.ready else "not Ready") if node else "",
                record.machine_id if record else "",
                host_keys.fingerprint(record.host_key) if record and record.host_key else "",
                record.disks if record else (),
            )
        )
    return tuple(found)


def _part(control_plane: bool, kubelet: bool) -> str:
    return "control plane" if control_plane else "pods" if kubelet else "vote only"


def _votes(wanted: Site, members: EtcdFacts | None) -> Mapping[str, str]:
    return {name_of(one, wanted): _state(one) for one in (members.members if members else ())}


def _state(one: MemberFacts) -> str:
    if one.learner:
        return "learner"
    return "leader" if one.leads else "voter" if one.healthy else "silent"
