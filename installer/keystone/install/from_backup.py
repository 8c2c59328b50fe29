"""The phases' part when a site comes back from a backup on blank machines.

`backup open` has placed trust tree and site file, so the phases make no authorities. etcd starts as
a new, empty quorum; then, before any API server exists, the snapshot is restored into it with the
steps of `etcd restore`. Nodes of Primers that the snapshot knows are released, so that the machines
may take their names again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone.backup import opened
from keystone.backup.manifest import SNAPSHOT
from keystone.cluster import etcdctl
from keystone.cluster.facts import KUBECTL_ADMIN
from keystone.errors import HostError, RefusedError
from keystone.files import write_whole
from keystone.install import members, reach, restore
from keystone.install.actions import World
from keystone.install.engine import Action
from keystone.join.cluster import request_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keystone.cluster.recovery import MemberState
    from keystone.install.state import State
    from keystone.run import Host
    from keystone.site.model import Node

RECORD = opened.FOLDER / "restore"
"""The id of the restore that was begun."""
LOST = json.dumps({
    "status": {"conditions": [{
        "type": "Ready", "status": "Unknown", "reason": "BroughtBack",
        "message": "the site comes back from a backup",
    }]}
})  # fmt: skip


def etcd(state: State) -> list[Action[World]]:
    """Plan to restore etcd from the opened backup; nothing without one. Raises RefusedError."""
    found = state.opened
    if found is None or not found.pending:
        return []
    require_placed(state)
    running = [name for name, seen in state.facts.items() if "control_plane" in seen.roles]
    if running:
        raise RefusedError(
            f"a backup is opened here, but the site lives: {', '.join(running)}",
            hint=f"to keep the site as it is, remove {opened.FOLDER}; to bring lost data of etcd "
            f"back: keystone-install etcd restore --snapshot {opened.FOLDER}/etcd/snapshot.db",
        )
    taken = f"{found.manifest.taken:%Y-%m-%d %H:%M:%S} UTC"
    return [RestoreBackup(taken, found.manifest.revision, older=found.older)]


def require_placed(state: State) -> None:
    """Raise RefusedError when the opening of the backup was interrupted."""
    if state.opened is not None and not state.opened.placed:
        raise RefusedError(
            "a backup was not opened completely on this machine",
            hint="run the same `keystone-install backup open` again",
        )


def nodes(state: State, joining: Sequence[Node]) -> list[Action[World]]:
    """Plan to release the names of Primers that will join: the snapshot has their nodes."""
    role = {node.name: "control_plane" if node.control_plane else "node" for node in joining}
    blank = [node for node in joining if role[node.name] not in state.facts[node.name].roles]
    return [ReleaseNames(tuple(blank))] if state.opened and blank else []


def end(state: State) -> list[Action[World]]:
    """Plan to remove the opened backup, once everything else is done."""
    return [ForgetBackup()] if state.opened else []


@dataclass(frozen=True)
class RestoreBackup(Action[World]):
    """Restore the new, empty quorum from the opened backup's snapshot."""

    taken: str
    revision: int
    older: bool

    def describe(self) -> str:
        return f"restore etcd from the backup of {self.taken} (revision {self.revision})"

    def apply(self, world: World) -> None:
        wanted = world.seen.site
        states, silent = restore.states_of(
            world.hosts, reach.CONNECT_SECONDS[wanted.patience.profile]
        )
        if silent:
            raise HostError(
                f"these Primers do not answer: {', '.join(silent)}",
                hint="; ".join(silent.values()),
            )
        if not self._is_done(states):
            if not any(state.order for state in states.values()):
                self._require_safe(world.hosts[wanted.primers[0].name], states)
            made, hosts = restore.plan(wanted, opened.FOLDER / SNAPSHOT, roll_back=True)
            write_whole(RECORD, made.order.id.encode(), 0o600)
            restore.apply(made, hosts, wanted)
        opened.restored()
        members.refresh(world)

    def _is_done(self, states: dict[str, MemberState]) -> bool:
        """Whether an interrupted run restored all members and only did not note it."""
        begun = RECORD.read_text() if RECORD.exists() else ""
        return bool(begun) and all(state.last == begun for state in states.values())

    def _require_safe(self, first: Host, states: dict[str, MemberState]) -> None:
        """Refuse to overwrite data: the new quorum is empty, and nobody has newer snapshots."""
        argv = etcdctl.words("get", "", "--prefix", "--keys-only", "--limit", "1")
        keys = json.loads(first.run(argv).stdout).get("count", 0)
        if keys:
            raise RefusedError(
                f"etcd has {keys} keys: it is not the new quorum of a site that was lost",
                hint=f"to keep it, remove {opened.FOLDER} and run the same command again",
            )
        highest = {name: state.highest for name, state in states.items()}
        newest = max(highest, key=lambda name: highest[name])
        if highest[newest] > self.revision and not self.older:
            raise RefusedError(
                f"{newest} has a snapshot of revision {highest[newest]}, newer than the backup's "
                f"{self.revision}",
                hint="take it from there: keystone-install etcd snapshot list; or, to lose what "
                "was written since, open the backup again with --older",
            )


@dataclass(frozen=True)
class ReleaseNames(Action[World]):
    """Let Primers take their names again: kubeadm refuses the name of a Ready node.

    The node of a control plane stays, with its labels, and counts as not Ready. The name of a
    Primer without an API server belongs to its lost key, so its node is deleted.
    """

    nodes: tuple[Node, ...]

    def describe(self) -> str:
        names = " ".join(node.name for node in self.nodes)
        return f"release the names of nodes that were lost: {names}"

    def apply(self, world: World) -> None:
        api = world.hosts[world.seen.site.control_planes[0].name]
        for node in self.nodes:
            name = f"node/{node.name}"
            if not node.control_plane:
                gone = [name, f"csr/{request_name(node.name)}"]
                api.run([*KUBECTL_ADMIN, "delete", "--ignore-not-found", *gone])
                continue
            found = api.run([*KUBECTL_ADMIN, "get", name, "--ignore-not-found", "-o", "name"])
            if found.stdout.strip():
                patch = ["patch", name, "--subresource=status", "--patch", LOST]
                api.run([*KUBECTL_ADMIN, *patch])


@dataclass(frozen=True)
class ForgetBackup(Action[World]):
    """Bring the join tokens back and remove the opened backup from this machine."""

    def describe(self) -> str:
        return f"bring the join tokens back; remove the opened backup from {opened.FOLDER}"

    def apply(self, world: World) -> None:
        opened.forget()
