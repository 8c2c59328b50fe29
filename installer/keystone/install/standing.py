"""What stands on the site's hosts already, and forbids what a run would do. Pure.

Authorities are made once in the life of a site: a second set would lock out every machine that
trusts the first. So is the key of secrets in etcd: with a second one none of them could be read.
And a bundle with another Kubernetes or etcd is an upgrade, which has an order of
its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone.cluster import kubeadm
from keystone.install.findings import Finding
from keystone.pki.encryption import FILE, PLACE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from keystone.bundle.model import Manifest
    from keystone.cluster.facts import ClusterFacts
    from keystone.hosts.facts import HostFacts
    from keystone.pki.plan import TrustFacts
    from keystone.site.model import Site

TREE = "/var/lib/keystone/pki"
GIVE_UP = (
    "to give that site up, stop etcd and kubelet on each of its Primers and remove "
    "/etc/keystone/pki, /etc/kubernetes and /var/lib/etcd there"
)


def authorities(trust: TrustFacts, facts: Mapping[str, HostFacts]) -> Iterator[Finding]:
    """Hosts that belong to a site whose authorities are not those of the tree here."""
    for name, seen in facts.items():
        has = seen.standing
        root, member, keys = has.root.strip(), has.member, has.keys
        if trust.incomplete and (root or member or keys):
            what = _first_of(
                (root, "the root of a site"),
                (member, "data of an etcd quorum that once formed"),
                (keys, "a key of secrets in etcd"),
            )
            yield Finding(
                "refused", name,
                f"has {what}, and {TREE} on the first Primer is not complete "
                f"({len(trust.incomplete)} files are missing): new authorities would lock out "
                "every machine that trusts the old ones",
                f"bring that folder back, from the first Primer's disk or a copy; {GIVE_UP}",
            )  # fmt: skip
        elif root and root != trust.root.strip():
            yield Finding(
                "refused", name,
                f"has another root than {TREE} on the first Primer: its certificates would be "
                "replaced by those of another site",
                f"bring back the folder that was made with that root; {GIVE_UP}",
            )  # fmt: skip


def lives(trust: TrustFacts, first: str) -> Iterator[Finding]:
    """Authorities that the first Primer's clock says are not valid: what they signed is refused."""
    if trust.outside:
        yield Finding(
            "failed", first,
            f"by its clock authorities in {TREE} are not valid: {trust.outside_said}",
            "compare its clock with a watch: date --set, then hwclock --systohc; where it is right "
            f"nothing can be done with them any more: {GIVE_UP}",
        )  # fmt: skip


def _first_of(*said: tuple[object, str]) -> str:
    return next(text for there, text in said if there)


def secrets(trust: TrustFacts, facts: Mapping[str, HostFacts], first: str) -> Iterator[Finding]:
    """Hosts whose API servers would lose the key that secrets in etcd were written with.

    first: the first Primer, from whose API server the tree takes the key that it does not have. One
    key in common is enough: by hand a second is added, and then the first is removed.
    """
    if trust.incomplete:
        return  # whoever has a key is refused by `authorities`
    own = facts[first].standing.keys if first in facts else ()
    known = set(trust.keys or own) - {""}
    for name, seen in facts.items():
        keys = set(seen.standing.keys)
        if keys and (not known or (keys - {""} and not keys & known)):
            yield Finding(
                "refused", name,
                f"its API server has, or had, a key of secrets in etcd that {TREE} on the first "
                "Primer does not have: with another one no secret of the cluster could be read",
                f"copy {PLACE} of a control plane where it has a key ({name}, say), or the copy "
                f"that you keep, to {TREE}/{FILE} on the first Primer; {GIVE_UP}",
            )  # fmt: skip


def names(
    site: Site, cluster: ClusterFacts | None, facts: Mapping[str, HostFacts]
) -> Iterator[Finding]:
    """Control planes to be whose names are a node's that they are not: it holds that identity.

    A host that was cut while it joined has a kubeconfig before its node is there, and keeps the
    administrator's when it begins anew. cluster: None where it does not answer, or never was.
    """
    own = {kubeadm.KUBELET_CONF, kubeadm.ADMIN_CONF}
    there = {node.name: facts[node.name] for node in site.control_planes if node.name in facts}
    was = any("control_plane" in seen.roles for seen in there.values())
    taken = {node.name for node in cluster.nodes} if cluster else set()
    for name, seen in there.items():
        if own & set(seen.kubernetes):
            continue
        if was and cluster is None:
            yield Finding(
                "failed", name,
                f"the API does not say whose the name {name} is: the cluster is there, and does "
                "not answer",
                "make its API answer (kubectl get nodes, on a control plane), then run again",
            )  # fmt: skip
        elif name in taken:
            yield Finding(
                "refused", name,
                f"a node {name} is in the cluster already, and this host is not it: whoever "
                "joined by that name would share its identity",
                "give this host another name; or, where that node was this host before it was "
                f"installed anew: kubectl delete node/{name}",
            )  # fmt: skip


def versions(manifest: Manifest, facts: Mapping[str, HostFacts]) -> Iterator[Finding]:
    """Hosts on which another Kubernetes or etcd runs than the bundle has."""
    for name, seen in facts.items():
        runs = (("Kubernetes", seen.standing.kubernetes), ("etcd", seen.standing.etcd))
        for what, now in runs:
            if now and now.removeprefix("v") != (then := _carried(manifest, what)):
                yield Finding(
                    "failed", name,
                    f"runs {what} {now.removeprefix('v')}, and the bundle has {then}",
                    f"take a bundle with {what} {now.removeprefix('v')}: this Keystone cannot "
                    "upgrade it yet, and a mixture of both is not tried by anybody",
                )  # fmt: skip


def _carried(manifest: Manifest, what: str) -> str:
    version = (
        kubeadm.version(manifest)
        if what == "Kubernetes"
        else manifest.item("binary", "etcd").version
    )
    return version.removeprefix("v")
