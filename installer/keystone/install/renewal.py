"""The certificates of this Primer, renewed by the timer, without a person.

Each Primer holds the trust tree and renews its own: leaves of the tree, and what kubeadm made. One
Primer at a time, behind a lock in etcd; never while the Primers' clocks disagree, because a wrong
clock makes certificates that nobody accepts.
"""

from __future__ import annotations

import base64
import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import log
from keystone.ansible import playbook, roles
from keystone.ansible.roles.mirror import PORT
from keystone.bundle.model import Manifest
from keystone.cluster import etcdctl, known, kubeadm, kubeadm_leaves, lock, readers
from keystone.cluster.context import Context
from keystone.errors import HostError, RefusedError
from keystone.hosts import clocks, observe
from keystone.pki import certificates, host_files, revocation, tree
from keystone.site import model as site_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.site.model import Node, Site

LOCK = "certificates"
WAIT_SECONDS = 600.0
AUTHORITY = Path("/etc/keystone/pki/site-ca.crt")
CLOCK_SKEW = dt.timedelta(seconds=60)
URGENT = 6
"""A certificate with less than a sixth of its life left is renewed without the lock, if etcd does
not answer: it may not answer because of expired certificates."""


@dataclass(frozen=True)
class Due:
    """What must be renewed on this host: names of leaves, paths of kubeadm's certificates."""

    leaves: tuple[str, ...] = ()
    kubeadm: tuple[str, ...] = ()
    kubelet: bool = False

    def __bool__(self) -> bool:
        return bool(self.leaves or self.kubeadm or self.kubelet)

    def __str__(self) -> str:
        names = [*self.leaves, *(Path(path).name for path in self.kubeadm)]
        return ", ".join([*names, *(["kubelet"] if self.kubelet else [])])


def renew(now: dt.datetime) -> str:
    """Renew what is due on this Primer; return its names, "" for nothing.

    Raises RefusedError when the clocks of the Primers disagree, or another Primer holds the lock;
    HostError when this host is no Primer, or a program is not healthy afterwards.
    """
    site = site_file.load(site_file.installed())
    node = this_primer(site)
    found = files(node)
    wanted = due(site, node, found, now)
    if not wanted:
        return ""
    require_same_clocks(site, node)
    with _turn(found, now):
        # A rotation that held the lock until now may have replaced everything.
        wanted = due(site, node, files(node), now)
        if not wanted:
            return ""
        _renew(site, node, wanted)
    return f"renewed: {wanted}"


def note(node: Node, files: Mapping[str, str], now: dt.datetime) -> str:
    """Write into etcd which of its certificates a Primer has: others revoke them if it is lost.

    files: its certificates (PEM) by path. Return what was done, "" for nothing. Raises HostError
    when etcd does not answer.
    """
    has = revocation.noted(files, host_files.leaf_places(node))
    key = f"{known.LEAVES}{node.name}"
    found = etcdctl.ask("get", key).get("kvs", [])
    texts = [base64.b64decode(pair["value"]).decode(errors="replace") for pair in found]
    before = known.leaves(dict.fromkeys([key], *texts) if texts else {}, node.name)
    wanted = revocation.lasting({**before, **has}, now)
    if wanted == before:
        return ""
    etcdctl.tell("put", key, known.dump(wanted))
    return f"certificates of {node.name} noted in etcd: {len(wanted)}"


def due(site: Site, node: Node, found: Mapping[str, str], now: dt.datetime) -> Due:
    """Return what must be renewed. found: certificates and keys (PEM) on this host, by path."""
    observed = tree.observe(site, tree.DIRECTORY, now, {node.name: found})
    names = tuple(
        spec.name for spec in tree.plan_trust(site, observed, now).leaves if spec.host == node.name
    )
    if not node.control_plane or not kubeadm_leaves.DONE.exists():
        return Due(names)
    lifetime = site.trust.certificate_lifetime
    return Due(
        names,
        tuple(kubeadm_leaves.due(found, lifetime, now, observed.rotations.since)),
        kubelet=kubeadm_leaves.kubelet_expired(found, now),
    )


def this_primer(site: Site) -> Node:
    """Return the Primer that is this machine, by its addresses. Raises HostError if none is."""
    here = observe.local_addresses()
    for node in site.primers:
        if str(node.address) in here:
            return node
    raise HostError(
        f"none of the site's Primers is this machine, which has {', '.join(sorted(here))}",
        hint=f"look at primers in {site_file.INSTALLED}",
    )


def files(node: Node) -> dict[str, str]:
    """Return this host's certificates and the keys of its leaves (PEM), by path."""
    found = observe.certificates()
    for path in host_files.leaf_places(node).values():
        key = Path(path).with_suffix(".key")
        if key.exists():
            found[str(key)] = key.read_text()
    return found


def require_same_clocks(site: Site, node: Node) -> None:
    """Raise RefusedError if another Primer that answers has another time than this host."""
    others = [other for other in site.primers if other != node]

    def ask(other: Node) -> dt.timedelta | None:
        return clocks.ahead(str(other.address), PORT, AUTHORITY)

    with ThreadPoolExecutor(max(len(others), 1)) as pool:
        seen = zip(others, pool.map(ask, others), strict=True)
        judge_clocks(node, {other.name: ahead for other, ahead in seen})


def judge_clocks(node: Node, ahead: Mapping[str, dt.timedelta | None]) -> None:
    """Raise RefusedError if a clock differs. ahead: of this host's, None for who does not tell."""
    wrong = {name: one for name, one in ahead.items() if one and abs(one) > CLOCK_SKEW}
    if wrong:
        said = ", ".join(f"{name} by {one.total_seconds():+.0f} s" for name, one in wrong.items())
        raise RefusedError(
            f"the Primers' clocks disagree: {said} from {node.name}; no certificate is renewed",
            hint="compare them with a watch and set the wrong one: date --set, then "
            "hwclock --systohc",
        )


def _turn(found: Mapping[str, str], now: dt.datetime) -> AbstractContextManager[object]:
    """Return the lock of all Primers; none if etcd does not answer and a certificate is urgent."""
    if etcdctl.serves():
        return lock.held(LOCK, wait=WAIT_SECONDS)
    if any(_is_urgent(pem, path, now) for path, pem in found.items() if path.endswith(".crt")):
        log.warn("etcd does not answer: certificates are renewed without waiting for it")
        return nullcontext()
    raise HostError(
        "etcd does not answer, so no certificate is renewed yet",
        hint="look at it: keystone-install etcd status",
    )


def _is_urgent(pem: str, path: str, now: dt.datetime) -> bool:
    one = certificates.load_certificate(pem.encode(), path)
    life = one.not_valid_after_utc - one.not_valid_before_utc
    return one.not_valid_after_utc - now < life / URGENT


def _renew(site: Site, node: Node, wanted: Due) -> None:
    seconds = kubeadm.patience_of(site).wait
    if wanted.leaves:
        here = {node.name: observe.certificates()}
        tree.issue(site, tree.DIRECTORY, placed=here)
        digest = host_files.wanted(tree.DIRECTORY, site, node)
        context = Context(site, node, Manifest(site.name, 1, ()), digest)
        values = roles.variables("trust", context)
        playbook.converge_here("trust", node.name, {"trust": values}, title="trust")
    if wanted.kubeadm:
        kubeadm_leaves.renew(seconds)
        readers.note(kubeadm_leaves.ALL)
    if wanted.kubelet:
        kubeadm_leaves.restore_kubelet(seconds)
