"""The closed set of changes that an installation is made of. Deciding is in phases.py."""

from __future__ import annotations

import json
import re
import time
from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import log
from keystone.ansible import playbook as ansible
from keystone.cluster.facts import KUBECTL_ADMIN, observe_cluster, observe_etcd
from keystone.cluster.kubeadm import POOL_LABEL
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
SILENT = "the API does not answer"


@dataclass
class World:
    """What actions act through. `state` is the newest observation, kept by `observe`."""

    bundle: Bundle
    hosts: Mapping[str, Host]
    passphrase: Callable[[], str]
    observe: Callable[[], State]
    state: State | None = None

    @property
    def seen(self) -> State:
        """The newest observation."""
        assert self.state is not None, "actions run after the first observation"
        return self.state


def each(hosts: tuple[str, ...], work: Callable[[str], None]) -> None:
    """Do the same on several hosts side by side; the first failure is raised when all ended."""
    with ThreadPoolExecutor(max_workers=max(len(hosts), 1)) as pool:
        for future in [pool.submit(work, host) for host in hosts]:
            future.result()


@dataclass(frozen=True)
class InitTrust(Action[World]):
    """Make or complete the site's authorities and certificates, on the first Primer.

    root_key_file: empty where the authorities are there, and only what they issue is due.
    """

    root_key_file: str

    def describe(self) -> str:
        if not self.root_key_file:
            return "make what is due in the trust tree: certificates, the key of secrets in etcd"
        return f"make the site's certificate authorities; offline root key to {self.root_key_file}"

    def apply(self, world: World) -> None:
        from keystone.pki import tree as pki  # noqa: PLC0415 cryptography is slow to import

        site = world.seen.site
        pki.init(site, pki.DIRECTORY, Path(self.root_key_file), world.passphrase)
        world.state = replace(world.seen, trust=pki.observe(site, pki.DIRECTORY))


@dataclass(frozen=True)
class EncryptSecrets(Action[World]):
    """Take the key of secrets in etcd to its next stage, in the tree; `Converge` places it."""

    stage: str

    def describe(self) -> str:
        if self.stage == encryption.REQUIRED:
            return "let the API servers read no plain text where secrets are"
        return "let the API servers encrypt secrets before they write them to etcd"

    def apply(self, world: World) -> None:
        from keystone.pki import tree as pki  # noqa: PLC0415 cryptography is slow to import

        encryption.advance(pki.DIRECTORY, self.stage)
        pki.issue(world.seen.site, pki.DIRECTORY)
        world.state = replace(world.seen, trust=pki.observe(world.seen.site, pki.DIRECTORY))


@dataclass(frozen=True)
class PushInstaller(Action[World]):
    """Put the bundle's own installer on hosts, under its final name only when whole."""

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
    """The few packages that cannot wait for the store: clock and ZFS."""

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
    """Read the bundle once into the stores on hosts' pools, hashing while it is written."""

    hosts: tuple[str, ...]

    def describe(self) -> str:
        return f"{' '.join(self.hosts)}: bring the bundle into /var/lib/keystone/store"

    def apply(self, world: World) -> None:
        argv = [
            INSTALLER, "store", "ingest", "--root-fingerprint", world.bundle.fingerprint, "-",
        ]  # fmt: skip

        def ingest(name: str) -> None:
            with world.bundle.path.open("rb") as source:
                world.hosts[name].run(argv, stdin=source, timeout=4 * 3600)

        each(self.hosts, ingest)


@dataclass(frozen=True)
class Converge(Action[World]):
    """Run one playbook on the hosts that need it. warning: what it would destroy, by serial."""

    playbook: str
    hosts: tuple[str, ...]
    roles: tuple[str, ...]
    warning: str = ""

    @property
    def destructive(self) -> bool:  # type: ignore[override]
        """It makes a pool."""
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


def _identify(world: World, name: str) -> None:
    """A Primer's identity as a node, signed by the first control plane; once."""
    from keystone.join import cluster  # noqa: PLC0415 only this playbook needs it

    if world.seen.facts[name].roles.get("node") is None:
        control_plane = world.hosts[world.seen.site.control_planes[0].name]
        cluster.give(world.hosts[name], name, control_plane, INSTALLER)


@dataclass(frozen=True)
class _Wait(Action[World]):
    """Look again until a named condition holds, or its deadline (seconds) has passed."""

    @abstractmethod
    def missing(self, world: World) -> str:
        """Look what the condition still wants, in words; empty when it holds."""

    def apply(self, world: World) -> None:
        start = time.monotonic()
        deadline = start + self.patience(world.seen)
        while True:
            began = time.monotonic()
            if not (why := self.missing(world)):
                return
            now = time.monotonic()
            if now > deadline:
                raise HostError(f"no end of waiting: {self.describe()}: {why}", hint=self.hint)
            # What is waited for needs the processors that looking takes: a quarter at most. And
            # it is seen late by an eighth of the time that it took, not by a fixed time.
            time.sleep(max(0.5, min((now - start) / 8, 15), 3 * (now - began)))

    def patience(self, state: State) -> float:
        return 1800 if state.site.patience.profile == "emulated" else 300

    hint = "look at `journalctl -xe` on the hosts, then run the same command again"


def _api(world: World) -> Host:
    """Where the API is asked. The first Primer may only vote: it has no API server then."""
    return world.hosts[world.seen.site.control_planes[0].name]


@dataclass(frozen=True)
class _WaitState(_Wait):
    """A condition that one of the facts decides."""

    @abstractmethod
    def look(self, world: World) -> State:
        """What was seen before, with what the condition is about looked at anew."""

    @abstractmethod
    def wants(self, state: State) -> str:
        """What the condition still wants of what was just seen; empty when it holds."""

    def missing(self, world: World) -> str:
        world.state = self.look(world)
        return self.wants(world.state)


def _said(result: Result, otherwise: str) -> str:
    """The last lines that a program wrote to its standard error: why it failed."""
    return "; ".join(result.stderr.strip().splitlines()[-3:]) or otherwise


@dataclass(frozen=True)
class WaitKey(_Wait):
    """All API servers have loaded the tree's key file; they look at it once a minute."""

    def describe(self) -> str:
        return "wait until all API servers have read the new key file"

    def missing(self, world: World) -> str:
        from keystone.pki import tree as pki  # noqa: PLC0415 cryptography is slow to import

        loaded = f'last_config_info{{.*"{encryption.digest(pki.DIRECTORY)}"'
        for node in world.seen.site.control_planes:
            server = f"--server=https://{node.address}:6443"
            asked = [*KUBECTL_ADMIN, server, "get", "--raw", "/metrics"]
            answer = _api(world).run(asked, check=False)
            if not re.search(loaded, answer.stdout):
                return f"{node.name}: {_said(answer, 'its API server has not read it yet')}"
        return ""


@dataclass(frozen=True)
class RewriteSecrets(_Wait):
    """Every secret is written anew, as API servers write now.

    Kubernetes' own way ("Encrypting Confidential Data at Rest"). One that was changed meanwhile is
    refused, and then all are written once more. Two calls and not one pipe: a shell says what the
    last of a pipe said, and `kubectl replace` takes nothing for success.
    """

    def describe(self) -> str:
        return "write every secret of the cluster anew"

    def missing(self, world: World) -> str:
        api = _api(world)
        asked = [*KUBECTL_ADMIN, "get", "secrets", "--all-namespaces", "-o", "json"]
        read = api.run(asked, check=False)
        if read.returncode != 0 or (names := _names(read.stdout)) is None:
            return _said(read, "the API does not list the secrets")
        if not names:
            return ""
        argv = [*KUBECTL_ADMIN, "replace", "-o", "name", "-f", "-"]
        written = api.run(argv, data=read.stdout, check=False)
        done = sorted(written.stdout.split())
        if written.returncode == 0 and done == names:
            return ""
        return _said(written, f"{len(done)} of {len(names)} were written")


def _names(listed: str) -> list[str] | None:
    """What `kubectl get -o json` lists, as `-o name` says it, sorted; None for what is no list."""
    try:
        items = json.loads(listed)["items"]
        return sorted(f"secret/{item['metadata']['name']}" for item in items)
    except (ValueError, LookupError, TypeError):
        return None


@dataclass(frozen=True)
class WaitEtcd(_WaitState):
    """All members answer."""

    members: int

    def describe(self) -> str:
        return f"wait until {self.members} etcd members are healthy"

    def look(self, world: World) -> State:
        first = world.hosts[world.seen.site.primers[0].name]
        return replace(world.seen, etcd=observe_etcd(first))

    def wants(self, state: State) -> str:
        healthy = state.etcd.healthy if state.etcd else 0
        return "" if healthy >= self.members else f"{healthy} are"


@dataclass(frozen=True)
class _WaitCluster(_WaitState):
    """A condition that the API knows."""

    def look(self, world: World) -> State:
        return replace(world.seen, cluster=observe_cluster(_api(world)))


@dataclass(frozen=True)
class WaitNodes(_WaitCluster):
    """Nodes are Ready."""

    nodes: tuple[str, ...]

    def describe(self) -> str:
        return f"wait until Ready: {' '.join(self.nodes)}"

    def wants(self, state: State) -> str:
        if state.cluster is None:
            return SILENT
        left = [name for name in self.nodes if name not in state.cluster.ready_nodes]
        return f"not yet: {' '.join(left)}" if left else ""


@dataclass(frozen=True)
class LabelNodes(Action[World]):
    """Say which nodes have the pool: volumes are made there, and nowhere else."""

    nodes: tuple[str, ...]
    pool: str

    def describe(self) -> str:
        return f"label the nodes that have pool {self.pool}: {' '.join(self.nodes)}"

    def apply(self, world: World) -> None:
        label = f"{POOL_LABEL}={self.pool}"
        _api(world).run([*KUBECTL_ADMIN, "label", "--overwrite", "node", *self.nodes, label])


@dataclass(frozen=True)
class WaitWorkloads(_WaitCluster):
    """Every Deployment and DaemonSet of ours has the replicas it wants."""

    def describe(self) -> str:
        return "wait until every workload of the platform is available"

    def wants(self, state: State) -> str:
        if state.cluster is None:
            return SILENT
        for name in state.cluster.unavailable:
            log.debug(f"not yet: {name}")
        left = ", ".join(state.cluster.unavailable)
        return f"not yet: {left}" if left else ""
