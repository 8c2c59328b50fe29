"""The changes that a rotation makes on the site. install/rotation.py decides which are needed."""

from __future__ import annotations

import datetime as dt
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone import log
from keystone.ansible import playbook, roles
from keystone.bundle.model import Manifest
from keystone.cluster import kubeadm, pods
from keystone.cluster.context import Context
from keystone.cluster.facts import KUBECTL_ADMIN, observe_etcd
from keystone.errors import HostError, RefusedError
from keystone.install.actions import INSTALLER, each
from keystone.install.engine import Action
from keystone.join import follow
from keystone.pki import certificates, host_files, revocation, rotate, tree
from keystone.pki.rotation import REISSUED, SERVICE_ACCOUNTS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keystone.install.rotation import State
    from keystone.pki.brought import Given
    from keystone.pki.plan import TrustFacts
    from keystone.pki.rotation import Revoked
    from keystone.run import Host
    from keystone.site.model import Node, Site

TOKENS = dt.timedelta(minutes=70)
"""kubelet replaces a pod's token after at most an hour (80 % of its life, which is one hour)."""


@dataclass
class World:
    """What actions use.

    root: opens the root's key. new_root: makes a new one in the tree. given: returns the root (PEM)
    in the operator's file, for a new root. leave_behind: go on although nodes or workloads have not
    followed. now: do not wait for tokens.
    """

    hosts: Mapping[str, Host]
    root: Callable[[], certificates.Pair]
    new_root: Callable[[], None]
    given: Callable[[], str]
    observe: Callable[[], State]
    state: State
    leave_behind: bool = False
    now: bool = False
    brought: Given | None = None
    """The new CA, if the operator brings it."""

    @property
    def api(self) -> Host:
        """The control plane on which kubectl runs."""
        return self.hosts[self.state.site.control_planes[0].name]


def variables(site: Site, node: Node, trust: TrustFacts) -> dict[str, object]:
    """Return the variables of role `trust` for a Primer, with the digest of its inputs."""
    context = Context(site, node, Manifest(site.name, 1, ()), trust.wanted.get(node.name, ""))
    values = roles.variables("trust", context)
    return {**values, "trust_inputs": playbook.inputs("trust", values)}


@dataclass(frozen=True)
class Advance(Action[World]):
    """Take the tree on this Primer to a stage. signs: it needs the root's key."""

    name: str
    stage: str
    signs: bool

    def describe(self) -> str:
        signed = ", signed by the site's root" if self.signs else ""
        return f"trust tree: {self.name} becomes {self.stage}{signed}"

    def apply(self, world: World) -> None:
        start = dt.datetime.now(dt.UTC).replace(microsecond=0) - certificates.BACKDATE
        site = world.state.site
        rotate.advance(
            site, tree.DIRECTORY, self.name, self.stage, world.root, start, world.brought
        )


@dataclass(frozen=True)
class NewRoot(Action[World]):
    """Make a new root, which signs the CAs again; their keys stay."""

    def describe(self) -> str:
        return "trust tree: a new offline root signs the same CAs"

    def apply(self, world: World) -> None:
        world.new_root()


@dataclass(frozen=True)
class ExpireLeaves(Action[World]):
    """Let all leaves count as due: hosts get others now, or renew them by their timers."""

    def describe(self) -> str:
        return "trust tree: every certificate that was issued before now is due"

    def apply(self, world: World) -> None:
        rotate.expire_leaves(tree.DIRECTORY, dt.datetime.now(dt.UTC))


@dataclass(frozen=True)
class Revoke(Action[World]):
    """Put certificates of etcd on the lists of those that it refuses."""

    found: tuple[Revoked, ...]

    def describe(self) -> str:
        said = ", ".join(f"{one.what} ({one.serial})" for one in self.found)
        return f"trust tree: revoke {said}"

    def apply(self, world: World) -> None:
        revocation.revoke(tree.DIRECTORY, self.found, dt.datetime.now(dt.UTC))


@dataclass(frozen=True)
class Place(Action[World]):
    """Issue what is due for a Primer, and place the tree's files there."""

    host: str

    def describe(self) -> str:
        return f"{self.host}: place the trust tree and its certificates"

    def where(self) -> tuple[str, ...]:
        return (self.host,)

    def apply(self, world: World) -> None:
        site = world.state.site
        node = next(node for node in site.primers if node.name == self.host)
        there = {self.host: world.state.facts[self.host].certificates}
        tree.issue(site, tree.DIRECTORY, placed=there)
        trust = tree.observe(site, tree.DIRECTORY)
        values = variables(site, node, trust)
        entry = playbook.HostVars(world.hosts[self.host], values)
        playbook.converge("trust", {self.host: entry}, title="trust")


@dataclass(frozen=True)
class CatchUp(Action[World]):
    """Let the programs of a Primer read the files, once all other Primers are healthy."""

    host: str
    name: str
    interrupts: str

    def describe(self) -> str:
        what = f" ({self.interrupts})" if self.interrupts else ""
        return f"{self.host}: let its programs read them{what}"

    def where(self) -> tuple[str, ...]:
        return (self.host,)

    def apply(self, world: World) -> None:
        seconds = kubeadm.patience_of(world.state.site).wait
        until(lambda: unhealthy(world), seconds, "no program of a Primer stops while another is "
              "not healthy; repair it, then run the same command again")  # fmt: skip
        argv = [INSTALLER, "readers", "restart", self.name]
        world.hosts[self.host].run(argv, timeout=seconds * 5)


def unhealthy(world: World) -> str:
    """Say which etcd member or API server of the site does not serve; "" if all do."""
    site = world.state.site
    members = observe_etcd(world.hosts[site.primers[0].name])
    if members.healthy < len(site.primers):
        return f"etcd members healthy: {members.healthy}/{len(site.primers)}"
    for node in site.control_planes:
        server = f"--server=https://{node.address}:6443"
        argv = [*KUBECTL_ADMIN, server, "get", "--raw", "/readyz"]
        if world.api.run(argv, check=False, timeout=120).returncode != 0:
            return f"the API server of {node.name} is not ready"
    return ""


def until(missing: Callable[[], str], seconds: float, hint: str) -> None:
    """Wait until nothing is missing. Raises HostError with what is, after `seconds`."""
    deadline = time.monotonic() + seconds
    while why := missing():
        if time.monotonic() > deadline:
            raise HostError(f"timed out after {seconds:.0f} s: {why}", hint=hint)
        time.sleep(1)


@dataclass(frozen=True)
class FollowHere(Action[World]):
    """Let the Primers' own nodes take what they trust; the timer does it on workers."""

    hosts: tuple[str, ...]

    def describe(self) -> str:
        return f"{' '.join(self.hosts)}: let their nodes trust it, with certificates of the signer"

    def apply(self, world: World) -> None:
        argv = [INSTALLER, "readers", "node"]
        each(self.hosts, lambda name: _run(world.hosts[name], argv))


def _run(host: Host, argv: list[str]) -> None:
    host.run(argv, timeout=1800)


@dataclass(frozen=True)
class WaitNodes(Action[World]):
    """Wait until every node has said that it trusts what the tree holds."""

    name: str

    def describe(self) -> str:
        return "wait until every node trusts it, workers by their timer"

    def apply(self, world: World) -> None:
        seconds = kubeadm.patience_of(world.state.site).wait * 2
        why = _patiently(lambda: nodes_behind(world.api), seconds)
        _go_on(world, why, "nodes that do not follow lose the API in the next stage: look at "
               "`systemctl status keystone-follow` there")  # fmt: skip


@dataclass(frozen=True)
class Roll(Action[World]):
    """Restart every workload: programs in pods may read the CA of the API only at their start."""

    def describe(self) -> str:
        return (
            "restart the pods of every Deployment, DaemonSet and StatefulSet, as their update "
            "strategies say"
        )

    def apply(self, world: World) -> None:
        authority = host_files.content(tree.DIRECTORY, f"{host_files.TRUSTED}kubernetes")
        seconds = kubeadm.patience_of(world.state.site).wait
        hint = "look at the log of kube-controller-manager: kubectl -n kube-system get pods"
        until(lambda: pods.unpublished(world.api, authority), seconds, hint)
        digest = pods.digest(authority)
        for load in pods.behind(world.api, digest):
            pods.roll(world.api, load, digest)
        why = _patiently(lambda: pods.unrolled(world.api, digest), seconds * 2)
        _go_on(world, why, "their pods may not trust the API in the next stage")
        if alone := pods.alone(world.api):
            log.warn(f"pods without a controller still trust what they read: {', '.join(alone)}")


def _patiently(late: Callable[[], tuple[str, ...]], seconds: float) -> tuple[str, ...]:
    deadline = time.monotonic() + seconds
    while (names := late()) and time.monotonic() < deadline:
        time.sleep(2)
    return names


def _go_on(world: World, late: tuple[str, ...], why: str) -> None:
    if late and not world.leave_behind:
        raise RefusedError(
            f"these have not followed: {', '.join(late)}",
            hint=f"{why}; then run the same command again, or give them up with --leave-behind",
        )
    if late:
        log.warn(f"left behind: {', '.join(late)}")


@dataclass(frozen=True)
class WaitTokens(Action[World]):
    """Wait until pods have tokens that the new key signed."""

    def describe(self) -> str:
        return f"wait until {TOKENS.seconds // 60} minutes have passed: pods then have new tokens"

    def apply(self, world: World) -> None:
        one = world.state.trust.rotations.running[SERVICE_ACCOUNTS]
        if one.stage != REISSUED or world.now:
            return
        ready = dt.datetime.fromisoformat(one.began) + TOKENS
        if dt.datetime.now(dt.UTC) < ready:
            raise RefusedError(
                f"pods may hold tokens of the old key until {ready:%Y-%m-%d %H:%M} UTC",
                hint="run the same command again after that, or with --now: then pods whose token "
                "is older are refused by the API until kubelet replaces it",
            )


def nodes_behind(api: Host) -> tuple[str, ...]:
    """Return the nodes that have not said that they trust what the tree here holds."""
    wanted = follow.parse(host_files.anchors(tree.DIRECTORY), str(tree.DIRECTORY)).digest
    answer = api.run([*KUBECTL_ADMIN, "get", "nodes", "-o", "json"], timeout=120).stdout
    return tuple(
        item["metadata"]["name"]
        for item in json.loads(answer)["items"]
        if (item["metadata"].get("annotations") or {}).get(follow.ANNOTATION) != wanted
    )
