"""The members of etcd, as an installation sees them, and the changes that it can make to them.

Which one is safe is decided in keystone.cluster.etcd, and again right before each change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from keystone.ansible.roles.etcd import MARKER
from keystone.cluster import etcd, etcdctl, known, upkeep
from keystone.cluster.facts import observe_etcd
from keystone.errors import HostError, RefusedError
from keystone.install import identity
from keystone.install.actions import Converge, WaitState, World
from keystone.install.engine import Action

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.cluster.facts import MemberFacts
    from keystone.install.state import State
    from keystone.run import Host
    from keystone.site.model import Site


def target(state: State) -> tuple[str, ...]:
    """Return the Primers that shall vote."""
    return tuple(node.name for node in state.site.primers)


def observed(state: State) -> tuple[tuple[etcd.Member, ...], etcd.Health]:
    """Return the members that etcd lists, by the site's names, and their health."""
    named = [(name_of(member, state.site), member) for member in state.members]
    health = etcd.Health(
        serving=frozenset(
            name for name, one in named if one.healthy or (one.learner and one.answers)
        ),
        with_data=frozenset(n for n, seen in state.facts.items() if seen.standing.member),
        formed=any("etcd" in seen.roles for seen in state.facts.values()),
        lagging=frozenset(name for name, one in named if one.behind > upkeep.LAG),
        unknown=frozenset(name for name, _ in named if name not in state.facts),
        leader=next((name for name, one in named if one.leads), ""),
    )
    members = tuple(etcd.Member(name, one.learner, bool(one.name)) for name, one in named)
    return members, health


def name_of(member: MemberFacts, site: Site) -> str:
    """Return a member's Primer. It has no name until it has started: then its peer URL says it."""
    by_url = {etcd.peer_url(node): node.name for node in site.primers}
    known = (by_url[url] for url in member.peers if url in by_url)
    return member.name or next(known, member.id)


def sick(state: State, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return which of these Primers are no healthy voters."""
    well = {name_of(one, state.site) for one in state.members if one.healthy and not one.learner}
    return tuple(name for name in names if name not in well)


@dataclass(frozen=True)
class ConvergeMembers(Converge):
    """Converge running members: one after another restarts, the leader last."""

    note: str = ""

    def describe(self) -> str:
        return f"{super().describe()}: {self.note}" if self.note else super().describe()

    def apply(self, world: World) -> None:
        leads = observed(refresh(world))[1].leader
        last = sorted(self.hosts, key=lambda name: name == leads)
        super(ConvergeMembers, replace(self, hosts=tuple(last))).apply(world)


@dataclass(frozen=True)
class WaitEtcd(WaitState):
    """Wait until all members that the site file names are healthy."""

    names: tuple[str, ...]

    def describe(self) -> str:
        return f"wait until {len(self.names)} etcd members are healthy"

    def refresh(self, world: World) -> State:
        return refresh(world)

    def wants(self, state: State) -> str:
        count, left = len(self.names), len(sick(state, self.names))
        return f"etcd members healthy: {count - left}/{count}" if left else ""


@dataclass(frozen=True)
class CatchUp(WaitState):
    """Wait until these members have what the leader has."""

    names: tuple[str, ...]

    def describe(self) -> str:
        return f"etcd: wait until {' '.join(self.names)} has what the leader has"

    def refresh(self, world: World) -> State:
        return refresh(world)

    def wants(self, state: State) -> str:
        late = [name for name in self.names if name in observed(state)[1].lagging]
        return f"{' '.join(late)} lags behind the leader" if late else ""


@dataclass(frozen=True)
class _Change(WaitState):
    """A change that etcd refuses for a while, such as right after another one."""

    def missing(self, world: World) -> str:
        world.said = ""
        why = super().missing(world)
        return f"{why}: {world.said}" if why and world.said else why


@dataclass(frozen=True)
class RemoveMember(_Change):
    """Remove a member, the leader after another one leads; each step is decided again.

    A member that is removed and still runs stops by itself.
    """

    name: str
    id: str
    why: str
    destructive = True
    by_id = True

    def describe(self) -> str:
        return f"etcd: remove the member {self.name} ({self.id}): {self.why}"

    def refresh(self, world: World) -> State:
        state = refresh(world)
        if self._member(state) is None:
            return state
        match etcd.removal(*observed(state), target(state), self.name):
            case etcd.Remove():
                if tell(world, "member", "remove", self.id, check=False):
                    _settle(world, self.name)
            case etcd.MoveLeader(name):
                _move_leader(world, name)
            case etcd.Refuse(reason, hint):
                raise RefusedError(reason, hint=hint)
            case _:
                return state
        return refresh(world)

    def wants(self, state: State) -> str:
        return "" if self._member(state) is None else f"{self.name} is still a member"

    def _member(self, state: State) -> MemberFacts | None:
        return next((one for one in state.members if one.id == self.id), None)


@dataclass(frozen=True)
class Record(Action[World]):
    """Record in etcd which machines the Primers are, and what of the site cannot change.

    changes: what is said of Primers that are other machines now.
    """

    changes: tuple[str, ...] = ()

    @property
    def destructive(self) -> bool:  # type: ignore[override]
        """True if another machine takes a Primer's place."""
        return bool(self.changes)

    @property
    def by_id(self) -> bool:  # type: ignore[override]
        """True if another machine takes a Primer's place."""
        return bool(self.changes)

    def describe(self) -> str:
        what = "record the Primers' machines in etcd"
        return f"{what}: {', '.join(self.changes)}" if self.changes else what

    def apply(self, world: World) -> None:
        for key, text in identity.wanted(world.seen).items():
            tell(world, "put", key, text)
        refresh(world)


@dataclass(frozen=True)
class AddMember(_Change):
    """Add a learner to the quorum; it does not run yet."""

    name: str
    url: str

    def describe(self) -> str:
        return f"etcd: add {self.name} ({self.url}) as a learner"

    def refresh(self, world: World) -> State:
        # Interrupted after this: the next run starts the learner that it finds in the list.
        if find(refresh(world), self.name) is None:
            # With the marker of an earlier member the unit would refuse to start an empty one.
            world.hosts[self.name].run(["rm", "-f", MARKER])
            words = ("member", "add", self.name, "--learner", f"--peer-urls={self.url}")
            tell(world, *words, check=False)
        return refresh(world)

    def wants(self, state: State) -> str:
        return "" if find(state, self.name) else f"etcd does not list {self.name}"


@dataclass(frozen=True)
class PromoteMember(_Change):
    """Make a learner a voter, once it has what the others have; etcd refuses before that."""

    name: str

    def describe(self) -> str:
        return f"etcd: make {self.name} a voter when it has caught up"

    def refresh(self, world: World) -> State:
        state = refresh(world)
        one = find(state, self.name)
        if one is not None and one.learner:
            tell(world, "member", "promote", one.id, check=False)
            state = refresh(world)
        return state

    def wants(self, state: State) -> str:
        one = find(state, self.name)
        if one is None:
            return f"etcd does not list {self.name}"
        if one.learner:
            return f"{self.name} is still a learner"
        return "" if one.healthy else f"{self.name} does not answer"


def find(state: State, name: str) -> MemberFacts | None:
    """Return the member that is this Primer, None if etcd does not list it."""
    return next((one for one in state.members if name_of(one, state.site) == name), None)


def refresh(world: World) -> State:
    """Observe the members anew, through a Primer whose member answers."""
    world.state = replace(world.seen, etcd=observe_etcd(_answering(world.hosts, world.seen)))
    return world.state


def _answering(hosts: Mapping[str, Host], state: State) -> Host:
    """Return a Primer whose member is healthy, else the first that has the role, else the first.

    A member that the installer is about to remove has no host here.
    """
    for node in state.site.primers:
        if (one := find(state, node.name)) and one.healthy:
            return hosts[node.name]
    with_role = [n.name for n in state.site.primers if "etcd" in state.facts[n.name].roles]
    return hosts[with_role[0] if with_role else state.site.primers[0].name]


def tell(world: World, *words: str, check: bool = True, endpoints: str = "") -> bool:
    """Run etcdctl on a Primer whose member answers; without check, return False if it failed.

    Why it failed is kept as `World.said`.
    """
    host = _answering(world.hosts, world.seen)
    argv = etcdctl.words(*words, endpoints=endpoints or etcdctl.LOCAL, timeout="60s")
    done = host.run(argv, check=False, timeout=120)
    if done.returncode == 0:
        return True
    world.said = f"etcdctl {' '.join(words[:3])}: {etcdctl.last_line(done.stderr)}"
    if check:
        raise HostError(
            f"{host.name}: {world.said}",
            hint="look at `keystone-install etcd status`, then run the same command again",
        )
    return False


def _settle(world: World, name: str) -> None:
    """Write a record, so that a removal stands on the disks of the members that remain.

    etcd writes down that a change is committed when it next writes an entry (raft, MustSync). A
    member that remains alone and is killed before that asks the removed one for its vote again.
    """
    tell(world, "put", known.REMOVED, name, check=False)  # any later write does it too


def _move_leader(world: World, name: str) -> None:
    """Ask the leader itself to hand over to another member; nobody else can."""
    leader = next((one for one in world.seen.members if one.leads), None)
    heir = find(world.seen, name)
    if leader and heir:  # else an election is under way: the next look decides again
        endpoints = ",".join(leader.clients)
        tell(world, "move-leader", heir.id, check=False, endpoints=endpoints)
