"""Primers that leave the site: those of which etcd has a record, and the site file has none.

Everything else uses the remaining Primers when this begins: API servers have other etcd endpoints,
local proxies other API servers. Then each one that leaves is drained, loses its vote and its
programs, and at last its node and its record: a run that was cut finds it by the record again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone import log
from keystone.cluster import known
from keystone.cluster.facts import KUBECTL_ADMIN
from keystone.errors import HostError
from keystone.install import identity, members, quorum, trust
from keystone.install.actions import World, api
from keystone.install.engine import Action
from keystone.join.cluster import request_name

if TYPE_CHECKING:
    from keystone.install.state import State

DRAIN_SECONDS = 300
STOP = """
set -eu
# kubelet ends the static pods whose manifests are gone; an API server then tells its clients.
rm -f /etc/kubernetes/manifests/*.yaml
left=60
while [ "$left" -gt 0 ] && systemctl is-active --quiet kubelet && pgrep -x kube-apiserver >/dev/null
do sleep 1; left=$((left - 1)); done
stop() {
  for unit in "$@"; do
    if systemctl cat "$unit" >/dev/null 2>&1; then systemctl disable --now --quiet "$unit"; fi
  done
}
stop keystone-maintain.timer keystone-maintain.service kubelet.service keystone-join.service
stop keystone-unseal.service tangd.socket
if systemctl is-active --quiet containerd; then
  for task in $(ctr --namespace k8s.io tasks list --quiet); do
    ctr --namespace k8s.io tasks kill --signal KILL "$task" 2>/dev/null || echo "ended: $task"
  done
fi
stop containerd.service haproxy.service nginx.service keystone-registry.service etcd.service
# What the network of pods left would give the pods of another life wrong addresses.
for link in cni0 flannel.1; do
  if ip link show "$link" >/dev/null 2>&1; then ip link delete "$link"; fi
done
for family in ip ip6; do
  if nft list table "$family" kube-proxy >/dev/null 2>&1
  then nft delete table "$family" kube-proxy; fi
done
rm -rf /var/lib/cni /run/flannel
# The site's keys do not stay on a machine that is not the site's any more.
rm -rf {pki} /etc/keystone/pki /etc/etcd/pki /etc/kubernetes/pki /etc/kubernetes/*.conf \\
  /etc/kubernetes/keystone /var/lib/kubelet/pki /var/lib/kubelet/config.yaml /root/.kube/config \\
  /var/lib/keystone/join /var/lib/keystone/site.yaml /etc/keystone/seal.json /var/lib/tang/*.jwk \\
  /var/lib/keystone/sealed /run/keystone/sealed /run/keystone/deploy
if [ -e /var/lib/etcd/data ]; then
  mv /var/lib/etcd/data "/var/lib/etcd/data.left-$(date --utc +%Y%m%dT%H%M%SZ)"
fi
# Last: as long as a marker is there, the steps above were not all done.
for role in trust registry mirror endpoint containerd control_plane addons node join seal \\
  maintain etcd
do rm -f "/var/lib/keystone/state/$role.json"; done
"""
"""Ends everything of a Primer but what it is installed with, its disks and its store."""


def names(state: State) -> tuple[str, ...]:
    """Return the Primers that are still to leave: with a record, or a member of etcd that runs."""
    here = {node.name for node in state.site.primers}
    voting = {action.name for action in quorum.removals(state)}
    gone = set(identity.leaving(state.site, state.known))
    return tuple(sorted((gone | voting) - here))


def plan(state: State) -> list[Action[World]]:
    """Return the actions that end the life of these Primers in the site, one after another."""
    nodes = {node.name: node for node in state.cluster.nodes} if state.cluster else {}
    removals = quorum.removals(state)
    order = [action.name for action in removals]
    rest = [name for name in names(state) if name not in order]
    actions: list[Action[World]] = []
    for name in (*order, *rest):
        node = nodes.get(name)
        actions += [Drain(name)] if node and node.ready else []
        actions += [action for action in removals if action.name == name]
        record = state.known.get(name)
        actions += [Stop(name, record.address)] if record else []
        actions += [DeleteNode(name)] if node or state.cluster is None else []
        actions += trust.revoke(state, (name,))  # not before it was stopped: it was in use
        actions += [Forget(name)] if record else []
    return actions


@dataclass(frozen=True)
class Drain(Action[World]):
    """Move the pods of a node to others. Raises HostError that names what holds them."""

    name: str

    def describe(self) -> str:
        return f"{self.name}: move its pods to other nodes; volumes on its own disks stay behind"

    def apply(self, world: World) -> None:
        words = ["--ignore-daemonsets", "--delete-emptydir-data", "--force"]
        argv = [*_without_timeout(), "drain", self.name, *words, f"--timeout={DRAIN_SECONDS}s"]
        done = api(world).run(argv, check=False, timeout=DRAIN_SECONDS + 120)
        if done.returncode != 0:
            said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
            raise HostError(
                f"{self.name}: its pods did not leave within {DRAIN_SECONDS} s:\n{said}",
                hint="look at `kubectl get pdb --all-namespaces`: a budget that allows no "
                "disruption holds its pods for ever; then run the same command again",
            )


def _without_timeout() -> list[str]:
    return [word for word in KUBECTL_ADMIN if not word.startswith("--request-timeout")]


@dataclass(frozen=True)
class Stop(Action[World]):
    """Stop everything of the site on the machine, and remove the site's keys from it."""

    name: str
    address: str
    destructive = True
    by_id = True

    def describe(self) -> str:
        what = "stop Kubernetes, etcd and registry there, remove the site's keys from it"
        return f"{self.name} ({self.address}): {what}"

    def apply(self, world: World) -> None:
        from keystone.pki import tree as pki  # noqa: PLC0415 cryptography is slow to import

        script = STOP.replace("{pki}", str(pki.DIRECTORY))
        host = world.leaving[self.name]
        try:
            host.run(["true"], timeout=120)
        except HostError as error:
            log.warn(
                f"{self.name} was not stopped: {error.message}\n"
                "  next: it has no vote any more; erase its disks before anybody starts it: they "
                "hold keys of the site",
                event="left",
                host=self.name,
            )
        else:
            host.run(["sh", "-s"], data=script, timeout=600)


@dataclass(frozen=True)
class DeleteNode(Action[World]):
    """Delete a node of the cluster, whose machine is gone; the cluster deletes its pods."""

    name: str
    destructive = True
    by_id = True

    def describe(self) -> str:
        return f"delete the node {self.name} of the cluster"

    def apply(self, world: World) -> None:
        absent_ok = "--ignore-not-found"
        argv = [*KUBECTL_ADMIN, "delete", f"node/{self.name}", f"csr/{request_name(self.name)}"]
        api(world).run([*argv, absent_ok], timeout=300)


@dataclass(frozen=True)
class Forget(Action[World]):
    """Remove a Primer's record; this comes last, because a cut run finds it by the record."""

    name: str

    def describe(self) -> str:
        return f"forget the machine of {self.name}"

    def apply(self, world: World) -> None:
        members.tell(world, "del", f"{known.LEAVES}{self.name}")
        members.tell(world, "del", f"{known.PRIMERS}{self.name}")
        members.refresh(world)
