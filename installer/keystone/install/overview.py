"""An overview of a site: every Primer, etcd and the nodes, as far as they answer, within seconds.

All hosts are asked side by side, each over a connection of its own: a Primer that has lost its
power costs what the connection's timeout is, once.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from keystone.errors import HostError
from keystone.hosts import observe
from keystone.install import reach
from keystone.install import report as reports
from keystone.pki import certificates, root_key
from keystone.pki import tree as pki

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.cluster.etcd import MemberStatus
    from keystone.cluster.facts import ClusterFacts
    from keystone.hosts.facts import HostFacts
    from keystone.install.report import HostReport
    from keystone.run import Host
    from keystone.site.model import Site

ANSWER_SECONDS = {"normal": 8.0, "emulated": 90.0}
"""By the site's patience. A host that answers later is shown as one that does not."""
RUNS = ("leader", "follower")


@dataclass(frozen=True)
class Overview:
    """What one observation showed.

    seen: facts of the Primers that answered; silent: for each other one, why. reports: what those
    said about themselves; unreported: why one that answered did not. root_key: files on this
    machine with the offline root's key.
    """

    site: Site
    seen: Mapping[str, HostFacts]
    silent: Mapping[str, HostError]
    reports: Mapping[str, HostReport] = field(default_factory=dict)
    unreported: Mapping[str, str] = field(default_factory=dict)
    root_key: tuple[Path, ...] = ()

    @cached_property
    def members(self) -> tuple[MemberStatus, ...]:
        """Every member that any host lists; for each the answer of whoever reached it."""
        best: dict[int, MemberStatus] = {}
        # The longest list first: a host that was cut off may know an older one.
        lists = sorted((one.members for one in self.reports.values()), key=len, reverse=True)
        for one in (member for members in lists for member in members):
            if one.id not in best or (one.answers and not best[one.id].answers):
                best[one.id] = one
        return tuple(sorted(best.values(), key=lambda one: one.name))

    @property
    def serves(self) -> bool:
        """True if a majority of etcd's members answers reads."""
        return any(report.serves for report in self.reports.values())

    @property
    def voters(self) -> int:
        """The number of members that vote, whether they answer or not."""
        return sum(member.state != "learner" for member in self.members)

    @property
    def healthy(self) -> int:
        """The number of voting members that answer and follow a leader."""
        return sum(member.state in RUNS and bool(member.leader) for member in self.members)

    @property
    def leader(self) -> str:
        """The name of the member that leads, "" if none does."""
        return next((one.name for one in self.members if one.state == "leader"), "")

    @property
    def revision(self) -> int:
        """The newest revision of etcd that any member has."""
        return max((member.revision for member in self.members), default=0)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the site's root certificate, hexadecimal; "" if no Primer has one."""
        roots = [facts.standing.root for facts in self.seen.values() if facts.standing.root]
        if not roots:
            return ""
        root = certificates.load_certificate(roots[0].encode(), "/etc/keystone/pki/root.crt")
        return certificates.fingerprint(root)

    @property
    def cluster(self) -> ClusterFacts | None:
        """What the API says; None if it does not answer, or does not exist yet."""
        found = (report.cluster for report in self.reports.values())
        return next((one for one in found if one is not None), None)

    def roles(self, name: str) -> Mapping[str, object]:
        """Return the roles that were applied to a Primer; none if its facts are unknown."""
        return self.seen[name].roles if name in self.seen else {}

    def login(self, name: str) -> str:
        """Return user and address of a Primer, for ssh."""
        address = next(node.address for node in self.site.primers if node.name == name)
        return f"{self.site.ssh.user}@{address}"

    def document(self) -> dict[str, object]:
        """Return all of it as JSON values; {"error": why} for a Primer that did not answer."""
        errors = {name: {"error": failure.message} for name, failure in self.silent.items()}
        members = [
            {**vars(member), "healthy": member.state in (*RUNS, "learner") and bool(member.leader)}
            for member in self.members
        ]
        return {
            "site": self.site.name, "trial": self.site.trial, "root": self.fingerprint,
            "hosts": {**self.seen, **errors}, "reports": self.reports,
            "unreported": self.unreported,
            "etcd": {"members": members, "healthy": self.healthy, "voters": self.voters,
                     "serves": self.serves, "leader": self.leader, "revision": self.revision},
            "cluster": self.cluster, "rootKeyOnPrimer": [str(path) for path in self.root_key],
        }  # fmt: skip


def survey(wanted: Site) -> Overview:
    """Observe every Primer; change nothing. Raises as `reach.find` does.

    This machine may be any Primer. With one that does not answer it takes as long as
    ANSWER_SECONDS, and two seconds more.
    """
    profile = wanted.patience.profile
    wait = ANSWER_SECONDS[profile]
    every = reach.hosts_of(wanted, keyless=True)
    hosts = {
        name: host.soon(reach.CONNECT_SECONDS[profile])
        for name, host in every.items()
        if host.local or not wanted.ssh.key_file or Path(wanted.ssh.key_file).is_file()
    }
    denied = f"Permission denied: {wanted.ssh.key_file} is not here"
    keyless = {name: HostError(f"{name}: {denied}") for name in every if name not in hosts}

    def ask(host: Host) -> HostReport | HostError:
        try:
            return reports.ask(host, wait)
        except HostError as error:
            return error

    with ThreadPoolExecutor(len(hosts) + 1) as pool:
        probing = pool.submit(lambda: observe.probe_each(hosts, seconds=wait))
        answers = dict(zip(hosts, pool.map(ask, hosts.values()), strict=True))
    seen, silent = probing.result()
    silent = {**silent, **keyless}
    # A host whose report came answers: only its facts are missing.
    said = {name: one for name, one in answers.items() if not isinstance(one, HostError)}
    failed = {name: one for name, one in answers.items() if isinstance(one, HostError)}
    return Overview(
        wanted,
        seen,
        {name: error for name, error in silent.items() if name not in said},
        said,
        {name: error.message for name, error in failed.items() if name in seen},
        root_key.left(wanted, pki.DIRECTORY),
    )
