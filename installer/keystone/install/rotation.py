"""Lead the site through a rotation of trust: what each stage needs, from what is observed. Pure.

Every stage has the same shape: the tree on this Primer takes the stage, then one Primer after
another gets the files and its programs read them, then nodes and pods follow. The stages are those
of keystone.pki.rotation; the actions are in rotation_actions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from keystone.cluster.readers import KUBEADM, READERS
from keystone.install import rotation_actions as act
from keystone.install.engine import Action, Phase
from keystone.pki.rotation import DROPPED, LEAVES, REISSUED, ROOT, SERVICE_ACCOUNTS, STAGES, TRUSTED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keystone.hosts.facts import HostFacts
    from keystone.install.rotation_actions import World
    from keystone.pki.plan import TrustFacts
    from keystone.pki.rotation import Revoked
    from keystone.site.model import Node, Site

REVOKED = "revocation"
FOLLOWED = ("kubernetes", "site", LEAVES)
"""CAs that nodes have in files of their own."""
IN_PODS = "kubernetes"
SENTENCES = {
    TRUSTED: "make the new one; let everyone trust both",
    REISSUED: "let the new one sign; replace what the old one signed",
    DROPPED: "let nobody trust the old one",
}
INTERRUPTS = {
    "etcd": "etcd: the member is away for seconds, the others serve",
    "kube-apiserver": "API server: up to a minute, the others serve",
}
"""What people notice, by program; other programs restart unnoticed."""


@dataclass(frozen=True)
class State:
    """One observation. behind: what does not follow the placed files, by host. leader: etcd's.

    nodes, workloads: those that have not followed what the tree on this Primer holds. first: the
    number of the tree's writes when this run began. given: the root (PEM) in the operator's file,
    "" for none.
    """

    site: Site
    name: str
    facts: Mapping[str, HostFacts]
    trust: TrustFacts
    first: int
    behind: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    leader: str = ""
    nodes: tuple[str, ...] = ()
    workloads: tuple[str, ...] = ()
    given: str = ""
    wanted: tuple[Revoked, ...] = ()
    """Certificates that shall be revoked."""

    @property
    def stage(self) -> str:
        """The stage of this rotation; "" before it, and where an earlier one was finished."""
        found = self.trust.rotations.stage(self.name)
        again = found == DROPPED and self.trust.rotations.number == self.first
        return "" if again and not self.left else found

    @property
    def left(self) -> bool:
        """Whether some host, node or pod does not follow the tree yet."""
        late = [name for name in self.facts if not self.follows(name)]
        return bool(late or self.nodes or self.workloads)

    def follows(self, host: str) -> bool:
        """Return whether a Primer has the tree's files, and its programs have read them."""
        return not self.behind.get(host) and self.placed(host)

    def placed(self, host: str) -> bool:
        """Return whether a Primer has the files that the tree has for it."""
        node = next(node for node in self.site.primers if node.name == host)
        has = self.facts[host].roles.get("trust")
        wanted = act.variables(self.site, node, self.trust)["trust_inputs"]
        return (
            has is not None
            and has.inputs == wanted
            and not has.drift
            and host not in self.trust.due
        )

    @property
    def order(self) -> list[Node]:
        """The Primers, etcd's leader last: its member restarts once no other has to."""
        return sorted(self.site.primers, key=lambda node: node.name == self.leader)


def phases(state: State) -> tuple[Phase[World, State], ...]:
    """Return the phases that are left, the first one being the stage that was begun, if any."""
    if state.name == ROOT:
        return (Phase("new root", "let a new root sign the same CAs", plan_root),)
    if state.name == REVOKED:
        return (Phase("revocation", "let etcd refuse certificates", plan_revocation),)
    if state.name == LEAVES:
        return (Phase("leaves", "issue every certificate again", plan_leaves),)
    begun = STAGES.index(state.stage) if state.stage else 0
    return tuple(
        Phase(stage, SENTENCES[stage], lambda seen, stage=stage: plan(seen, stage))  # type: ignore[misc]
        for stage in STAGES[begun:]
    )


def plan(state: State, stage: str) -> Sequence[Action[World]]:
    """Return what a stage needs. Nothing, once a later stage has begun."""
    rank = STAGES.index(state.stage) if state.stage else -1
    if rank > STAGES.index(stage):
        return []
    advances = state.stage != stage
    actions: list[Action[World]] = []
    if advances:
        actions.append(act.Advance(state.name, stage, _signs(state.name, stage)))
    if stage == DROPPED and state.name == SERVICE_ACCOUNTS and advances:
        actions.insert(0, act.WaitTokens())
    actions += _primers(state, advances=advances)
    return [*actions, *_followers(state, stage, advances=advances)]


def _primers(state: State, *, advances: bool) -> list[Action[World]]:
    """Return the actions on one Primer after another."""
    actions: list[Action[World]] = []
    for node in state.order:
        if advances or not state.follows(node.name):
            if advances or not state.placed(node.name):
                actions.append(act.Place(node.name))
            actions.append(act.CatchUp(node.name, state.name, interrupts(state.name, node)))
    return actions


def _signs(name: str, stage: str) -> bool:
    return stage == TRUSTED and name != SERVICE_ACCOUNTS


def _followers(state: State, stage: str, *, advances: bool) -> list[Action[World]]:
    """Return the actions for nodes and pods, which learn from the Primers what to trust."""
    actions: list[Action[World]] = []
    if state.name in FOLLOWED and (advances or state.nodes):
        own = tuple(n.name for n in state.site.primers if n.kubelet or n.control_plane)
        actions += [act.FollowHere(own), act.WaitNodes(state.name)]
    # Pods that trust both need no restart when the new CA signs.
    if state.name == IN_PODS and stage != REISSUED and (advances or state.workloads):
        actions.append(act.Roll())
    return actions


def interrupts(name: str, node: Node) -> str:
    """Say what stops for a moment on a Primer when its programs read the files."""
    programs = [reader.name for reader in READERS if name in reader.of]
    there = [p for p in programs if node.control_plane or not p.startswith("kube-")]
    return "; ".join(INTERRUPTS[program] for program in there if program in INTERRUPTS)


def plan_leaves(state: State) -> Sequence[Action[World]]:
    """Return the steps to new leaves everywhere; a run that was interrupted is finished first."""
    rotations = state.trust.rotations
    old = [name for name, late in state.behind.items() if KUBEADM in late]
    unfinished = bool(rotations.leaves) and bool(old or state.trust.due or state.nodes)
    changed = rotations.number != state.first or unfinished
    begin: list[Action[World]] = [] if changed else [act.ExpireLeaves()]
    return [
        *begin,
        *_primers(state, advances=not changed),
        *_followers(state, REISSUED, advances=not changed),
    ]


def plan_root(state: State) -> Sequence[Action[World]]:
    """Return the steps to a new root: nothing verifies by it, so that nothing restarts."""
    actions: list[Action[World]] = []
    late = [node.name for node in state.site.primers if not state.placed(node.name)]
    if not state.given or state.given.strip() != state.trust.root.strip():
        actions.append(act.NewRoot())
        late = [node.name for node in state.site.primers]
    return [*actions, *(act.Place(name) for name in late)]


def plan_revocation(state: State) -> Sequence[Action[World]]:
    """Return the steps until etcd refuses `wanted` on each Primer that was observed.

    A Primer whose certificates are revoked has its new ones before the others refuse the old ones.
    """
    new = tuple(one for one in state.wanted if one.serial not in state.trust.rotations.serials)
    owners = {one.what.partition("/")[0] for one in new}
    there = [node.name for node in state.site.primers if node.name in state.facts]
    late = [name for name in there if new or not state.placed(name)]
    late.sort(key=lambda name: name not in owners)
    revoke: list[Action[World]] = [act.Revoke(new)] if new else []
    return [*revoke, *(act.Place(name) for name in late)]
