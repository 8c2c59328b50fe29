"""All changes that an installation can make. phases.py decides which are needed."""

from __future__ import annotations

import json
import re
import time
from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from keystone import log
from keystone.ansible import playbook as ansible
from keystone.cluster.facts import KUBECTL_ADMIN, observe_cluster
from keystone.cluster.kubeadm import POOL_LABEL, init_documents, patience_of
from keystone.errors import HostError
from keystone.install.engine import Action
from keystone.pki import encryption

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keystone.bundle.read.bundle import Bundle
    from keystone.install.state import State
    from keystone.run import Host, Result

INSTALLER = "/usr/local/bin/keystone-install"
MARKERS = "/var/lib/keystone/state"
SEED = "/var/lib/keystone/seed"
NO_ANSWER = "the API does not answer"


@dataclass
class World:
    """What actions use. state: the newest observation, which `observe` keeps up to date."""

    bundle: Bundle
    hosts: Mapping[str, Host]
    passphrase: Callable[[], str]
    observe: Callable[[], State]
    state: State | None = None
    leaving: Mapping[str, Host] = field(default_factory=dict)
    """Primers that the site file does not name any more."""
    said: str = ""
    """Why etcd refused the last change."""

    @property
    def seen(self) -> State:
        """The newest observation."""
        assert self.state is not None, "actions run after the first observation"
        return self.state


def each(hosts: tuple[str, ...], work: Callable[[str], None]) -> None:
    """Run work on all hosts in parallel; when all have ended, raise the first failure."""
    with ThreadPoolExecutor(max_workers=max(len(hosts), 1)) as pool:
        for future in [pool.submit(work, host) for host in hosts]:
            future.result()


@dataclass(frozen=True)
class PushInstaller(Action[World]):
    """Copy the bundle's own installer to hosts; it gets its final name only once verified."""

    hosts: tuple[str, ...]

    def describe(self) -> str:
        return f"{' '.join(self.hosts)}: install {INSTALLER}"

    def apply(self, world: World) -> None:
        item = world.bundle.manifest.of_kind("installer")[0]
        marker = {"inputs": str(item.digest), "files": {INSTALLER: item.digest.hex}, "units": []}
        script = (
            f"set -e; echo '{item.digest.hex}  {INSTALLER}.part' | sha256sum -c --quiet; "
            f"chmod 0755 {INSTALLER}.part; sync {INSTALLER}.part; "
            f"mv {INSTALLER}.part {INSTALLER}; mkdir -p {MARKERS}; "
            f"cat > {MARKERS}/installer.json.part; sync {MARKERS}/installer.json.part; "
            f"mv {MARKERS}/installer.json.part {MARKERS}/installer.json"
        )

        def push(name: str) -> None:
            host = world.hosts[name]
            with world.bundle.open(item.digest) as source:
                host.run(
                    ["sh", "-c", f"umask 022; cat > {INSTALLER}.part"], stdin=source, timeout=1800
                )
            host.run(["sh", "-c", script], data=json.dumps(marker))

        each(self.hosts, push)


@dataclass(frozen=True)
class PushSeed(Action[World]):
    """Copy the few packages that are needed before the store exists: clock and ZFS."""

    hosts: tuple[str, ...]

    def describe(self) -> str:
        return f"{' '.join(self.hosts)}: copy the packages for clock and ZFS to {SEED}"

    def apply(self, world: World) -> None:
        def push(name: str) -> None:
            host = world.hosts[name]
            kernel = world.seen.facts[name].kernel
            host.run(["mkdir", "-p", SEED])
            with world.bundle.seed_archive(kernel) as archive:
                host.run(["tar", "-xf", "-", "-C", SEED], stdin=archive, timeout=1800)

        each(self.hosts, push)


@dataclass(frozen=True)
class IngestStore(Action[World]):
    """Stream the bundle once into the store on each host, which hashes while it writes."""

    hosts: tuple[str, ...]

    def describe(self) -> str:
        return f"{' '.join(self.hosts)}: bring the bundle into /var/lib/keystone/store"

    def apply(self, world: World) -> None:
        argv = [
            INSTALLER, "store", "ingest", "--root-fingerprint", world.bundle.fingerprint, "-",
        ]  # fmt: skip

        def ingest(name: str) -> None:
            with world.bundle.archive() as source:
                world.hosts[name].run(argv, stdin=source, timeout=4 * 3600)

        each(self.hosts, ingest)


@dataclass(frozen=True)
class Converge(Action[World]):
    """Run one playbook on the hosts that need it. warning: the disks it would erase, by serial."""

    playbook: str
    hosts: tuple[str, ...]
    roles: tuple[str, ...]
    warning: str = ""

    @property
    def destructive(self) -> bool:  # type: ignore[override]
        """True if it creates a pool."""
        return bool(self.warning)

    def describe(self) -> str:
        what = f"{' '.join(self.hosts)}: converge {', '.join(self.roles)}"
        return f"{what}: {self.warning}" if self.warning else what

    def apply(self, world: World) -> None:
        state = world.seen
        nodes = {node.name: node for node in state.site.primers}
        entries = {}
        for name in self.hosts:
            variables: dict[str, object] = {}
            for role in self.roles:
                variables.update(state.variables(nodes[name], role))
            if "node" in self.roles:
                _identify(world, name)
            entries[name] = ansible.HostVars(world.hosts[name], variables)
        ansible.converge(self.playbook, entries, title=", ".join(self.roles))


@dataclass(frozen=True)
class PublishConfiguration(Action[World]):
    """Publish kubeadm's configuration, which joining control planes read, and restart nothing."""

    host: str

    def describe(self) -> str:
        return f"{self.host}: publish kubeadm's configuration for those that join"

    def apply(self, world: World) -> None:
        state = world.seen
        (node,) = (one for one in state.site.primers if one.name == self.host)
        # The lock is the role's: a killed run may have left its kubeadm running.
        wait = patience_of(state.site).wait * 2
        lock = ["flock", f"--timeout={wait}", "/run/keystone-kubeadm.lock"]
        # kubeadm reads its configuration from a file only.
        argv = ["kubeadm", "init", "phase", "upload-config", "kubeadm", "--config", "/dev/stdin"]
        documents = init_documents(state.context(node))
        world.hosts[self.host].run([*lock, *argv], data=documents, timeout=2 * wait)


def _identify(world: World, name: str) -> None:
    """Give a Primer its identity as a node, signed by the cluster; once."""
    from keystone.join import cluster  # noqa: PLC0415 only this playbook needs it

    if world.seen.facts[name].roles.get("node") is None:
        cluster.give(world.hosts[name], name, api(world), INSTALLER)


@dataclass(frozen=True)
class _Wait(Action[World]):
    """Check again until a named condition holds, or the deadline (seconds) has passed."""

    @abstractmethod
    def missing(self, world: World) -> str:
        """Observe, and say what is still missing, as a sentence; empty if the condition holds."""

    def apply(self, world: World) -> None:
        start = time.monotonic()
        patience = self.patience(world.seen)
        while True:
            began = time.monotonic()
            if not (why := self.missing(world)):
                return
            now = time.monotonic()
            if now > start + patience:
                raise HostError(f"timed out after {patience:.0f} s: {why}", hint=self.hint)
            # Each check costs processor time that the awaited work needs: use a quarter at most.
            # A pause that grows notices success late by at most an eighth of the time waited.
            time.sleep(max(0.5, min((now - start) / 8, 15), 3 * (now - began)))

    def patience(self, state: State) -> float:
        return 1800 if state.site.patience.profile == "emulated" else 300

    hint = "read `journalctl -xe` on the hosts, then run the same command again"


def api(world: World) -> Host:
    """Return a control plane on which the API is asked."""
    return world.hosts[world.seen.api.name]


@dataclass(frozen=True)
class WaitState(_Wait):
    """A wait that one kind of facts decides."""

    @abstractmethod
    def refresh(self, world: World) -> State:
        """Return the last state, with the facts that the condition needs observed again."""

    @abstractmethod
    def wants(self, state: State) -> str:
        """Say what is still missing in this state; empty if the condition holds."""

    def missing(self, world: World) -> str:
        world.state = self.refresh(world)
        return self.wants(world.state)


def _reason(result: Result, otherwise: str) -> str:
    """Return the last lines of a program's standard error; `otherwise` if it wrote none."""
    return "; ".join(result.stderr.strip().splitlines()[-3:]) or otherwise


@dataclass(frozen=True)
class WaitKey(_Wait):
    """Wait until all API servers have loaded the tree's key file; they read it once a minute."""

    def describe(self) -> str:
        return "wait until all API servers have read the new key file"

    def missing(self, world: World) -> str:
        from keystone.pki import tree as pki  # noqa: PLC0415 cryptography is slow to import

        loaded = f'last_config_info{{.*"{encryption.digest(pki.DIRECTORY)}"'
        for node in world.seen.site.control_planes:
            server = f"--server=https://{node.address}:6443"
            asked = [*KUBECTL_ADMIN, server, "get", "--raw", "/metrics"]
            answer = api(world).run(asked, check=False)
            if not re.search(loaded, answer.stdout):
                waiting = "its API server has not read the new key file yet"
                return f"{node.name}: {_reason(answer, waiting)}"
        return ""


@dataclass(frozen=True)
class RewriteSecrets(_Wait):
    """Rewrite every secret, so that the API servers encrypt it.

    Kubernetes documents this procedure ("Encrypting Confidential Data at Rest"). The API refuses a
    secret that changed meanwhile; then all are rewritten once more. Two calls, not one pipe: a
    shell returns only the last exit code, and `kubectl replace` succeeds on empty input.
    """

    def describe(self) -> str:
        return "rewrite every secret of the cluster"

    def missing(self, world: World) -> str:
        server = api(world)
        asked = [*KUBECTL_ADMIN, "get", "secrets", "--all-namespaces", "-o", "json"]
        read = server.run(asked, check=False)
        if read.returncode != 0 or (names := _names(read.stdout)) is None:
            return _reason(read, "the API does not list the secrets")
        if not names:
            return ""
        argv = [*KUBECTL_ADMIN, "replace", "-o", "name", "-f", "-"]
        written = server.run(argv, data=read.stdout, check=False)
        done = sorted(written.stdout.split())
        if written.returncode == 0 and done == names:
            return ""
        return _reason(written, f"secrets rewritten: {len(done)} of {len(names)}")


def _names(listed: str) -> list[str] | None:
    """Turn a list of `kubectl get -o json` into sorted `-o name` form; None if it is no list."""
    try:
        items = json.loads(listed)["items"]
        return sorted(f"secret/{item['metadata']['name']}" for item in items)
    except (ValueError, LookupError, TypeError):
        return None


@dataclass(frozen=True)
class _WaitCluster(WaitState):
    """A wait for something that the Kubernetes API reports."""

    def refresh(self, world: World) -> State:
        return replace(world.seen, cluster=observe_cluster(api(world)))


@dataclass(frozen=True)
class WaitNodes(_WaitCluster):
    """Wait until the nodes are Ready."""

    nodes: tuple[str, ...]

    def describe(self) -> str:
        return f"wait until Ready: {' '.join(self.nodes)}"

    def wants(self, state: State) -> str:
        if state.cluster is None:
            return NO_ANSWER
        left = [name for name in self.nodes if name not in state.cluster.ready_nodes]
        return f"not Ready yet: {' '.join(left)}" if left else ""


@dataclass(frozen=True)
class LabelNodes(Action[World]):
    """Label the nodes that have the pool: volumes are made only there."""

    nodes: tuple[str, ...]
    pool: str

    def describe(self) -> str:
        return f"label the nodes that have pool {self.pool}: {' '.join(self.nodes)}"

    def apply(self, world: World) -> None:
        label = f"{POOL_LABEL}={self.pool}"
        api(world).run([*KUBECTL_ADMIN, "label", "--overwrite", "node", *self.nodes, label])


@dataclass(frozen=True)
class WaitWorkloads(_WaitCluster):
    """Wait until every Deployment and DaemonSet of the platform has all its replicas."""

    def describe(self) -> str:
        return "wait until every workload of the platform is available"

    def wants(self, state: State) -> str:
        if state.cluster is None:
            return NO_ANSWER
        for name in state.cluster.unavailable:
            log.debug(f"not available yet: {name}")
        left = ", ".join(state.cluster.unavailable)
        return f"not available yet: {left}" if left else ""
