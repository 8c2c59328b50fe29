"""Lead etcd to the members of a site file, with Keystone's own planner and actions.

    python -m tests.life.drive FOLDER/machines.json p1,p2,p3

It is the engine of an installation for this one phase: observe, plan, apply, observe again, until
nothing is to do. The role etcd is replaced by `Machines.converge`. It may be killed at
any moment and run again.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tests.life import machines

from keystone import log
from keystone.cluster import etcd
from keystone.cluster.facts import EtcdFacts, observe_etcd
from keystone.errors import HostError, KeystoneError
from keystone.install import members, quorum
from keystone.install.actions import World

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.life.machines import Machines

    from keystone.install.state import State

ROUNDS = 20
"""More rounds of plan and apply than any change needs; a refusal of etcd ends one."""
SETTLE = ("unhealthy cluster", "leader changed", "timed out", "no leader")
"""etcd refuses a change while a member is younger than 5 s: the same command, a moment later."""


def main(file: Path, target: tuple[str, ...]) -> None:
    """Take steps until the members are the target. Raises KeystoneError where none is safe."""
    made = machines.load(file)
    for _ in range(ROUNDS):
        state = observe(made, target)
        steps = quorum.steps(state)
        if not steps:
            log.info("Nothing to do")
            return
        try:
            for step in steps:
                log.info(str(step))
                state = take(made, state, step)
        except HostError as error:
            if not any(reason in error.message for reason in SETTLE):
                raise
            log.info(error.message)
            time.sleep(1)  # etcd has no event for it
    raise HostError(f"{ROUNDS} rounds did not lead to {', '.join(target)}")


def observe(made: Machines, target: Iterable[str]) -> State:
    """Return the state of all machines; etcd is asked through one whose member answers."""
    found = EtcdFacts()
    for host in made.hosts.values():
        if host.member():
            found = observe_etcd(host)
        if found.healthy:
            break
    return replace(made.state(tuple(target)), etcd=found)


def take(made: Machines, state: State, step: etcd.Step) -> State:
    """Take one step with the actions of the installation; return what was observed last.

    Each observation of etcd takes 20 s while a member is dead, so facts about hosts alone are new.
    """
    target = [node.name for node in state.site.primers]
    state = replace(made.state(target), etcd=state.etcd)
    world = World(
        cast("Any", None), made.hosts, lambda: "", lambda: observe(made, target), state
    )  # fmt: skip
    match step:
        case etcd.Bootstrap(names) | etcd.Start(names):
            made.converge(names, state)
        case etcd.AddLearner(name):
            # The machine comes as a new one: what a removed member left is not on it.
            made.hosts[name].wipe()
            members.AddMember(name, f"https://{made.hosts[name].address}:2380").apply(world)
            made.converge((name,), replace(made.state(target), etcd=world.seen.etcd))
        case etcd.Promote(name):
            members.PromoteMember(name).apply(world)
        case etcd.Await(names):
            members.CatchUp(names).apply(world)
        case etcd.Remove(name):
            gone = members.find(world.seen, name)
            members.RemoveMember(name, gone.id if gone else "", "it goes").apply(world)
            made.hosts[name].wipe()
        case etcd.Refuse(reason, hint):
            raise HostError(reason, hint=hint)
        case _:  # RemoveMember moves the leader itself
            pass
    return world.seen


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), tuple(sys.argv[2].split(",")))
    except KeystoneError as error:
        sys.exit(f"{error.message}\n{error.hint}")
