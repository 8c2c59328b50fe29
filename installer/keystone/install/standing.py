"""Checks of what exists on the site's hosts and forbids what a run would do. Pure.

Authorities are made once in the life of a site: a second set would lock out every machine that
trusts the first. The key of secrets in etcd is made once too: the API servers could read no secret
with a second key. And a bundle with another Kubernetes or etcd means an upgrade, which needs an
order of its own.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from keystone.cluster import kubeadm
from keystone.install import maintain
from keystone.install.findings import Finding
from keystone.pki import host_files
from keystone.pki.encryption import FILE, PLACE
from keystone.pki.lives import Life
from keystone.pki.lives import of as lives_of

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping

    from keystone.bundle.model import Manifest
    from keystone.cluster.facts import ClusterFacts
    from keystone.hosts.facts import HostFacts
    from keystone.pki.plan import TrustFacts
    from keystone.site.model import Site

FAILS_LONG = dt.timedelta(days=1)
KUBELET = "/var/lib/kubelet/"
TREE = host_files.TREE
GIVE_UP = (
    "to abandon that site, stop etcd and kubelet on each of its Primers and remove "
    "/etc/keystone/pki, /etc/kubernetes and /var/lib/etcd there"
)


def authorities(trust: TrustFacts, facts: Mapping[str, HostFacts]) -> Iterator[Finding]:
    """Find hosts of a site whose authorities are not those of the trust tree here."""
    for name, seen in facts.items():
        has = seen.standing
        root, member, keys = has.root.strip(), has.member, has.keys
        if trust.incomplete and (root or member or keys):
            what = _first_of(
                (root, "the root of a site"),
                (member, "data of an etcd member"),
                (keys, "a key of secrets in etcd"),
            )
            yield Finding(
                "refused", name,
                f"has {what}, but {TREE} on this Primer is incomplete "
                f"(files missing: {len(trust.incomplete)}): new authorities would lock out every "
                "machine that trusts the old ones",
                f"run this on a Primer that has that folder, as all have; {GIVE_UP}",
            )  # fmt: skip
        elif root and root not in {pem.strip() for pem in (trust.root, *trust.rotations.roots)}:
            yield Finding(
                "refused", name,
                f"has another root than {TREE} on this Primer: certificates of another site "
                "would replace its own",
                f"restore the folder that was made with that root; {GIVE_UP}",
            )  # fmt: skip


def rotations(
    trust: TrustFacts, facts: Mapping[str, HostFacts], here: Container[str]
) -> Iterator[Finding]:
    """Find hosts whose tree was rotated further than this Primer's, which would undo that.

    here: the names of this Primer.
    """
    for name, seen in facts.items():
        if name not in here and seen.standing.rotation > trust.rotations.number:
            yield Finding(
                "refused", name,
                f"has a newer trust tree in {TREE} than this Primer: a rotation went on there",
                f"run this command on {name}",
            )  # fmt: skip


def lives(trust: TrustFacts, first: str) -> Iterator[Finding]:
    """Find authorities not valid by the first Primer's clock: hosts refuse what they signed."""
    if trust.outside_validity:
        yield Finding(
            "failed", first,
            f"has authorities in {TREE} that are not valid by its clock: "
            f"{trust.outside_validity_line}",
            "compare its clock with a watch and correct it: date --set, then hwclock --systohc; "
            f"if the clock is right, these authorities cannot be used any more: {GIVE_UP}",
        )  # fmt: skip


def tree(trust: TrustFacts, facts: Mapping[str, HostFacts], here: str) -> Iterator[Finding]:
    """Find why this Primer's tree must not be placed on the hosts. here: its name."""
    yield from authorities(trust, facts)
    yield from rotations(trust, facts, (here,))
    yield from lives(trust, here)


def _first_of(*candidates: tuple[object, str]) -> str:
    return next(text for present, text in candidates if present)


def secrets(trust: TrustFacts, facts: Mapping[str, HostFacts], first: str) -> Iterator[Finding]:
    """Find hosts whose API servers would lose the key that encrypts the secrets in etcd.

    first: the first Primer; a tree without a key takes the key from its API server. One common key
    is enough: to change a key by hand, one adds a second, then removes the first.
    """
    if trust.incomplete:
        return  # `authorities` refuses every host that has a key
    own = facts[first].standing.keys if first in facts else ()
    known = set(trust.keys or own) - {""}
    for name, seen in facts.items():
        keys = set(seen.standing.keys)
        if keys and (not known or (keys - {""} and not keys & known)):
            yield Finding(
                "refused", name,
                f"has, or had, a key of secrets in etcd that {TREE} on the first Primer does not "
                "have: the API servers could read no secret of the cluster with another key",
                f"copy {PLACE} from a control plane where it has a key (such as {name}), or your "
                f"own copy of it, to {TREE}/{FILE} on the first Primer; {GIVE_UP}",
            )  # fmt: skip


def joined(seen: HostFacts) -> bool:
    """Return whether the host has an identity as a node, or has begun to join."""
    return bool({kubeadm.KUBELET_CONF, kubeadm.ADMIN_CONF} & set(seen.kubernetes))


def names(
    site: Site,
    cluster: ClusterFacts | None,
    facts: Mapping[str, HostFacts],
    replacing: Container[str] = (),
) -> Iterator[Finding]:
    """Find future control planes with the name of another node, which holds that identity.

    A host that was interrupted while it joined has a kubeconfig before its node exists, and keeps
    the administrator's when it starts again. cluster: None if it does not answer, or never existed.
    replacing: Primers whose nodes will be deleted, because their machines were replaced.
    """
    there = {node.name: facts[node.name] for node in site.control_planes if node.name in facts}
    was = any("control_plane" in seen.roles for seen in there.values())
    taken = {node.name for node in cluster.nodes} if cluster else set()
    for name, seen in there.items():
        if joined(seen):
            continue
        if was and cluster is None:
            yield Finding(
                "failed", name,
                f"may have the name of another node ({name}): the site has a cluster, but its API "
                "does not answer",
                "make its API answer (kubectl get nodes, on a control plane), then run again",
            )  # fmt: skip
        elif name in taken and name not in replacing:
            yield Finding(
                "refused", name,
                f"is not the node {name} that the cluster already has: joining by that name would "
                "share its identity",
                "give this host another name; or, if that node was this host before its system was "
                f"reinstalled: keystone-install node replace {name}",
            )  # fmt: skip


def versions(manifest: Manifest, facts: Mapping[str, HostFacts]) -> Iterator[Finding]:
    """Find hosts that run another version of Kubernetes or etcd than the bundle has."""
    for name, seen in facts.items():
        runs = (("Kubernetes", seen.standing.kubernetes), ("etcd", seen.standing.etcd))
        for what, now in runs:
            if now and now.removeprefix("v") != (then := _carried(manifest, what)):
                yield Finding(
                    "failed", name,
                    f"runs {what} {now.removeprefix('v')}, but the bundle has {then}",
                    f"use a bundle with {what} {now.removeprefix('v')}: this Keystone cannot "
                    "upgrade it yet, and nobody has tested a mixture of both",
                )  # fmt: skip


def certificates(facts: Mapping[str, HostFacts], now: dt.datetime) -> Iterator[Finding]:
    """Find certificates with less than a third of their life left: renewal did not work."""
    due: dict[tuple[str, bool], list[Life]] = {}
    for host, seen in facts.items():
        # kubelet renews its own late in its life, by itself.
        found = {p: pem for p, pem in seen.certificates.items() if not p.startswith(KUBELET)}
        for life in lives_of(found):
            if life.short(now):
                due.setdefault((host, life.authority), []).append(life)
    for (host, authority), lives in due.items():
        one = min(lives, key=lambda life: life.not_after)
        more = f" and {len(lives) - 1} more" if len(lives) > 1 else ""
        yield Finding(
            "warning", host,
            f"has certificates that end soon: {one.path} on {one.not_after:%Y-%m-%d %H:%M} "
            f"UTC{more}",
            "plan to replace this authority: keystone-install trust show" if authority else
            "this run issues those that are due; why the maintenance did not: "
            "journalctl -u keystone-maintain",
        )  # fmt: skip


def maintenance(facts: Mapping[str, HostFacts], now: dt.datetime) -> Iterator[Finding]:
    """Find hosts whose maintenance fails since long; a report that is invalid counts as none."""
    for name, seen in facts.items():
        try:
            records = maintain.parse(seen.upkeep.get("maintain") or "{}")
        except ValueError:
            continue  # the next run of the maintenance replaces it
        for chore, record in records.items():
            since = maintain.moment(record.failing_since) if record.failing_since else now
            if now - since > FAILS_LONG:
                yield Finding(
                    "warning", name,
                    f"its maintenance fails since {since:%Y-%m-%d %H:%M} UTC: {chore}: "
                    f"{record.error}",
                    record.hint or "look at: journalctl -u keystone-maintain",
                )  # fmt: skip


def _carried(manifest: Manifest, what: str) -> str:
    version = (
        kubeadm.version(manifest)
        if what == "Kubernetes"
        else manifest.item("binary", "etcd").version
    )
    return version.removeprefix("v")
