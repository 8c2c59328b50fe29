"""The quorum as the site file wants it: from what is observed to members added and removed.

Which step is safe is decided in keystone.cluster.etcd; here it becomes actions of the installation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from keystone.cluster import etcd
from keystone.cluster.timing import worst
from keystone.errors import HostError, RefusedError
from keystone.install import identity, members
from keystone.install.actions import Converge, World

if TYPE_CHECKING:
    from keystone.install.engine import Action
    from keystone.install.state import State

ROLE = ("etcd",)


def plan(state: State) -> list[Action[World]]:
    """Return the actions that lead to the members that the site file names.

    Live members that it does not name leave at the end, when no API server uses them any more.
    """
    actions: list[Action[World]] = []
    for step in _now(state):
        actions += _actions(step, state)
    reached = {name for action in actions for name in action.where()}
    wanting = [node.name for node in state.site.primers if not state.converged(node, "etcd")]
    if rest := tuple(name for name in wanting if name not in reached):
        actions.append(members.ConvergeMembers("etcd", rest, ROLE, note=_timing(state)))
    names = members.target(state)
    if members.sick(state, names) or actions:
        actions.append(members.WaitEtcd(names))
    return [*actions, *_records(state)]


def _records(state: State) -> list[members.Record]:
    if state.opened and state.opened.pending:
        return []  # the records of the backup come back with it; etcd must stay empty until then
    # A site that comes back from a backup has other machines: the person said so by opening it.
    others = () if state.opened else identity.strangers(state).items()
    changes = tuple(f"{name} is another machine: {'; '.join(how)}" for name, how in others)
    return [members.Record(changes)] if identity.missing(state) else []


def _now(state: State) -> tuple[etcd.Step, ...]:
    """Return the steps but those at the end that only remove live members."""
    found = list(steps(state))
    while found and (
        isinstance(found[-1], etcd.Await | etcd.MoveLeader) or _leaves(found[-1], state)
    ):
        found.pop()
    return tuple(found)


def _leaves(step: etcd.Step, state: State) -> bool:
    if not isinstance(step, etcd.Remove):
        return False
    member = members.find(state, step.name)
    return step.name not in members.target(state) and member is not None and member.answers


def removals(state: State) -> list[members.RemoveMember]:
    """Return the removals of live members that the site file does not name, in a safe order."""
    found = [step for step in steps(state) if isinstance(step, etcd.Remove)]
    return [_remove(step.name, state) for step in found if _leaves(step, state)]


def steps(state: State) -> tuple[etcd.Step, ...]:
    """Return the steps of etcd's own reconfiguration, in order; the last may be a Refuse."""
    return etcd.steps(*members.observed(state), members.target(state))


def _actions(step: etcd.Step, state: State) -> list[Action[World]]:
    match step:
        case etcd.Bootstrap(names) | etcd.Start(names):
            return [Converge("etcd", names, ROLE)]
        case etcd.AddLearner(name) if _has_data(name, state):
            raise RefusedError(
                f"{name}: has data of etcd, and the quorum does not list it as a member",
                hint=f"if nobody needs that data: systemctl stop etcd on {name}, and move "
                "/var/lib/etcd/data away; then run the same command again",
            )
        case etcd.AddLearner(name):
            url = next(etcd.peer_url(node) for node in state.site.primers if node.name == name)
            return [members.AddMember(name, url), Converge("etcd", (name,), ROLE)]
        case etcd.Promote(name):
            return [members.PromoteMember(name)]
        case etcd.Await(names):
            return [members.CatchUp(names)]
        case etcd.Remove(name) if name in members.target(state) and name not in state.replacing:
            raise RefusedError(
                f"{name}: etcd lists it as a member, and its machine has no data of etcd",
                hint="bring the old machine or its disks back; if they are lost for good: "
                f"keystone-install node replace {name}",
            )
        case etcd.Remove(name):
            return [_remove(name, state)]
        case etcd.Refuse(reason, hint):
            lost = not any(one.healthy for one in state.members)
            raise (HostError if lost else RefusedError)(reason, hint=hint)
        case etcd.Await() | etcd.MoveLeader() | etcd.Nothing():
            return []  # RemoveMember does both itself
        case _:
            assert_never(step)


def _has_data(name: str, state: State) -> bool:
    """Return whether the host has data of a member that the cluster does not list."""
    return state.facts[name].standing.member and members.find(state, name) is None


def _timing(state: State) -> str:
    """Say how the timing of the members changes; "" if it stays, or none runs yet."""
    old, new = state.timing_now(), state.timing()
    if old == new or not any(seen.standing.timing for seen in state.facts.values()):
        return ""
    return (
        f"heartbeat {old.heartbeat} -> {new.heartbeat} ms, election {old.election} -> "
        f"{new.election} ms ({worst(state.measured()).describe()}); members restart one by one, "
        "the leader last"
    )


def _remove(name: str, state: State) -> members.RemoveMember:
    member = members.find(state, name)
    gone = name in members.target(state)
    why = "its machine was replaced" if gone else "the site file does not name it"
    return members.RemoveMember(name, member.id if member else "", why)
