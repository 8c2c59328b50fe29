"""A site at a glance: every Primer, the quorum and the nodes, as far as they answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone.cluster.facts import observe_cluster, observe_etcd
from keystone.errors import HostError
from keystone.hosts import observe
from keystone.install.reach import hosts_of
from keystone.pki import root_key
from keystone.pki import tree as pki

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import TypeVar

    from keystone.cluster.facts import ClusterFacts, EtcdFacts
    from keystone.hosts.facts import HostFacts
    from keystone.run import Host
    from keystone.site.model import Site

    Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Overview:
    """What was seen, in one look.

    silent: why the other Primers did not answer. etcd, cluster: None where none of those that
    answered has it, or where it says nothing.
    """

    site: Site
    seen: Mapping[str, HostFacts]
    silent: Mapping[str, HostError]
    etcd: EtcdFacts | None = None
    cluster: ClusterFacts | None = None

    def rows(self) -> list[tuple[str, ...]]:
        """Name, kernel, pools, store and drift of each Primer, in the site's order."""
        return [
            _row(node.name, self.seen[node.name])
            if node.name in self.seen
            else (node.name, "cannot be reached", "", "", "")
            for node in self.site.primers
        ]

    def document(self) -> dict[str, object]:
        """The same and more for machines; {"error": why} for a Primer that did not answer."""
        errors = {name: {"error": failure.message} for name, failure in self.silent.items()}
        return {
            "site": self.site.name, "trial": self.site.trial,
            "hosts": {**self.seen, **errors}, "etcd": self.etcd, "cluster": self.cluster,
            "rootKeyOnPrimer": [str(path) for path in root_key.left(self.site, pki.DIRECTORY)],
        }  # fmt: skip

    def require_all(self) -> None:
        """Raise one HostError that names every Primer that did not answer."""
        if self.silent:
            raise HostError(
                "\n".join(failure.message for failure in self.silent.values()),
                hint=next(iter(self.silent.values())).hint or "make it answer",
            )


def look(wanted: Site) -> Overview:
    """Look at every Primer; changes nothing. Raises as `reach.look` does."""
    hosts = hosts_of(wanted)
    seen, silent = observe.probe_each(hosts)
    members, planes = (
        [hosts[name] for name, facts in seen.items() if role in facts.roles]
        for role in ("etcd", "control_plane")
    )
    etcd = _first(members, observe_etcd, lambda facts: bool(facts.members))
    return Overview(wanted, seen, silent, etcd, _first(planes, observe_cluster, bool))


def _first(
    hosts: Iterable[Host],
    ask: Callable[[Host], Answer | None],
    answered: Callable[[Answer], bool],
) -> Answer | None:
    """The first answer that says something, else the last one."""
    answer = None
    for host in hosts:
        answer = ask(host)
        if answer is not None and answered(answer):
            break
    return answer


def _row(name: str, seen: HostFacts) -> tuple[str, ...]:
    pools = ", ".join(f"{pool.name} {pool.health}" for pool in seen.pools)
    drift = [f"{role}: {path}" for role, state in seen.roles.items() for path in state.drift]
    store = "complete" if seen.store.complete else "missing"
    return (name, seen.kernel, pools or "none", store, ", ".join(drift) or "none")
