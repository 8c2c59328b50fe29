"""What a person must do: one change of a healthy site, the sentences that it leads to.

And the screen: every case fits 80 columns and 24 lines.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.install.test_phases import state

from keystone import log
from keystone.cluster.etcd import MemberStatus
from keystone.cluster.facts import ClusterFacts, NodeFacts, WorkloadFacts
from keystone.errors import HostError
from keystone.hosts.facts import RoleFacts, SealFacts, StandingFacts, StoreFacts
from keystone.install import attention, report, screen
from keystone.install.maintain import Record
from keystone.install.overview import Overview
from keystone.install.report import Carried, HostReport, Kept
from keystone.pki import authorities, certificates
from keystone.pki.lives import Life
from keystone.site.backup import Backup, Destination
from keystone.storage.zfs import PoolUse

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = dt.datetime(2026, 11, 30, 12, tzinfo=dt.UTC)
GIB = 1 << 30
NAMES = ("p1", "p2", "p3")


def ago(**span: float) -> dt.datetime:
    return NOW - dt.timedelta(**span)


def record(**changes: str) -> Record:
    made = Record(looked=ago(minutes=2).isoformat(), done_at=ago(hours=5).isoformat())
    return replace(made, **changes)


def life(*, left: float = 80, of: float = 90, authority: bool = False) -> Life:
    end = NOW + dt.timedelta(days=left)
    path = "/etc/etcd/pki/peer-ca.crt" if authority else "/etc/etcd/pki/peer.crt"
    return Life(path, authority, end - dt.timedelta(days=of), end)


def member(number: int, **changes: Any) -> MemberStatus:
    made = MemberStatus(
        f"p{number}", f"https://10.77.0.1{number}:2379", "leader" if number == 1 else "follower",
        "3.6.16", 23 << 20, 100, id=number, used_bytes=20 << 20, quota_bytes=4 * GIB, leader=1,
        revision=5000, applied_index=100,
    )  # fmt: skip
    return replace(made, **changes)


MEMBERS = tuple(member(number) for number in (1, 2, 3))
SILENT = member(3, state="silent", version="", leader=0, database_bytes=0)
CLUSTER = ClusterFacts(
    tuple(NodeFacts(name, ready=True, version="v1.37.2") for name in (*NAMES, "w1", "w2"))
)
REPORT = HostReport(
    certificates=(life(), life(left=1000, of=1095, authority=True)),
    members=MEMBERS, serves=True, cluster=CLUSTER,
    pools=(PoolUse("keystone", "ONLINE", 900 * GIB, 90 * GIB, 0, ago(days=9)),),
    free=800 * GIB, size=900 * GIB,
    snapshots=Kept(43, ago(minutes=4), 4990),
    maintenance={"snapshot": record(), "trial restore": record()},
    since=ago(days=40), carried=Carried("platform", 7, "1.37.2", "3.6.16"),
)  # fmt: skip


def healthy() -> Overview:
    there = state()
    standing = StandingFacts(member=True, kubernetes="v1.37.2", etcd="3.6.16")
    roles = {name: RoleFacts("x") for name in ("etcd", "control_plane", "maintain")}
    facts = {
        name: replace(
            host, standing=standing, roles=roles, store=StoreFacts("sha256:1", complete=True)
        )
        for name, host in there.facts.items()
    }
    site = replace(there.site, backup=Backup(("age1",), (Destination(stick=True),)))
    return Overview(site, facts, {}, dict.fromkeys(NAMES, REPORT))


def reported(seen: Overview, name: str = "", **parts: Any) -> Overview:
    """Change parts of one Primer's report, or of all."""
    names = [name] if name else [*seen.reports]
    changed = {one: replace(seen.reports[one], **parts) for one in names}
    return replace(seen, reports={**seen.reports, **changed})


def without(seen: Overview, name: str, why: str = "") -> Overview:
    """A Primer that lost its power: the others see its member as silent, its node as not Ready."""
    error = HostError(why or f"{name} (10.77.0.13): cannot be reached: ssh: connect to host "
                      "10.77.0.13 port 22: Connection timed out")  # fmt: skip
    nodes = tuple(replace(node, ready=node.name != name) for node in CLUSTER.nodes)
    members = tuple(SILENT if one.name == name else one for one in MEMBERS)
    rest = {key: one for key, one in seen.reports.items() if key != name}
    facts = {key: one for key, one in seen.seen.items() if key != name}
    left = replace(seen, seen=facts, silent={name: error}, reports=rest)
    return reported(left, members=members, cluster=ClusterFacts(nodes))


def facts(seen: Overview, name: str, **parts: Any) -> Overview:
    return replace(seen, seen={**seen.seen, name: replace(seen.seen[name], **parts)})


def nothing(seen: Overview) -> Overview:
    return seen


CASES: dict[str, tuple[Callable[[Overview], Overview], list[str]]] = {
    "all is well": (nothing, []),
    "a Primer without power": (
        lambda s: without(s, "p3"),
        ["! p3 does not answer: connect to host 10.77.0.13 port 22: Connection timed out"],
    ),
    "a member that does not run": (
        lambda s: reported(s, members=(*MEMBERS[:2], SILENT)),
        ["! etcd member p3 does not run"],
    ),
    "no majority": (
        lambda s: reported(
            without(s, "p3"), members=(replace(MEMBERS[0], leader=0, state="follower"),
            replace(SILENT, name="p2", id=2), SILENT), serves=False, cluster=None,
        ),
        ["! p3 does not answer: connect to host 10.77.0.13 port 22: Connection timed out",
         ("! etcd has no majority: 0 of 3 members answer; nothing can be written, and the API "
         "does not work"), "! etcd member p2 does not run",
         "! the Kubernetes API does not answer on any Primer that answers"],
    ),
    "a Primer that etcd does not list": (
        lambda s: reported(s, members=MEMBERS[:2]),
        ["! etcd does not list p3, which the site file names"],
    ),
    "a corrupt member": (
        lambda s: reported(s, members=(replace(MEMBERS[0], errors=("memberID:1 alarm:CORRUPT",)),
                                       *MEMBERS[1:])),
        ["! etcd reports: memberID:1 alarm:CORRUPT"],
    ),
    "a quota that is filled": (
        lambda s: reported(s, members=tuple(
            replace(one, database_bytes=4 * GIB, errors=("memberID:1 alarm:NOSPACE",))
            for one in MEMBERS)),
        [("! etcd refuses writes: its database filled its quota (p1: 4.0 GiB of 4.0 GiB, 20.0 MiB "
         "in use)")],
    ),
    "a quota that is nearly filled": (
        lambda s: reported(s, members=(member(1, database_bytes=int(3.5 * GIB)), *MEMBERS[1:])),
        ["! etcd's database is near its quota (p1: 3.5 GiB of 4.0 GiB, 20.0 MiB in use)"],
    ),
    "no API": (
        lambda s: reported(s, cluster=None),
        ["! the Kubernetes API does not answer on any Primer that answers"],
    ),
    "an API on one of them": (
        lambda s: reported(reported(s, cluster=None), "p2", cluster=CLUSTER), [],
    ),
    "a worker that is off": (
        lambda s: reported(s, cluster=ClusterFacts((*CLUSTER.nodes[:4],
                                                    NodeFacts("w2", ready=False)))),
        ["! node w2 is not Ready"],
    ),
    "replicas that are missing": (
        lambda s: reported(s, cluster=replace(CLUSTER, workloads=(
            WorkloadFacts("Deployment", "kube-system", "coredns", 2, 1),))),
        ["! workloads miss replicas: kube-system/coredns (1 of 2)"],
    ),
    "a certificate at two thirds of its life": (
        lambda s: reported(s, certificates=(life(left=29.5),)), [],  # the maintenance renews it
    ),
    "a certificate that was not renewed": (
        lambda s: reported(s, "p2", certificates=(life(left=29),)),
        ["! certificate /etc/etcd/pki/peer.crt on p2 ends in 29 d"],
    ),
    "certificates that have ended": (
        lambda s: reported(s, certificates=(life(left=-1),)),
        ["! certificate /etc/etcd/pki/peer.crt on p1 has ended, and 2 more"],
    ),
    "an authority near its end": (
        lambda s: reported(s, "p1", certificates=(life(left=300, of=1095, authority=True),)),
        ["! authority /etc/etcd/pki/peer-ca.crt on p1 ends in 300 d"],
    ),
    "another root": (
        lambda s: facts(facts(s, "p1", standing=StandingFacts(root=ROOT)), "p2",
                        standing=StandingFacts(root="other")),
        ["! the Primers have different roots of trust"],
    ),
    "a pool that lost a disk": (
        lambda s: reported(s, "p2", pools=(replace(REPORT.pools[0], health="DEGRADED", errors=2),)),
        ["! p2: pool keystone is DEGRADED, 2 damaged files"],
    ),
    "a full pool": (
        lambda s: reported(s, "p2", pools=(replace(REPORT.pools[0], allocated=810 * GIB),)),
        ["! p2: pool keystone is 90 % full"],
    ),
    "a pool that was not scrubbed": (
        lambda s: reported(s, "p2", pools=(replace(REPORT.pools[0], scrubbed=ago(days=50)),)),
        ["- p2: pool keystone was scrubbed 50 d ago"],
    ),
    "no snapshot": (
        lambda s: reported(s, "p2", snapshots=Kept()), ["! p2 has no snapshot of etcd"],
    ),
    "no snapshot after the installation": (
        lambda s: reported(s, snapshots=Kept(), maintenance={}, since=ago(minutes=3)), [],
    ),
    "an old snapshot": (
        lambda s: reported(s, "p2", snapshots=Kept(9, ago(hours=3), 4000)),
        ["! the newest snapshot on p2 is 3 h old"],
    ),
    "an old snapshot of the same data": (
        lambda s: reported(s, "p2", snapshots=Kept(9, ago(hours=3), 5000)), [],
    ),
    "no trial restore": (
        lambda s: reported(s, "p2", maintenance={
            "trial restore": record(done_at=ago(days=3).isoformat())}),
        ["! no snapshot on p2 was restored for trial for 3 d"],
    ),
    "a chore that fails": (
        lambda s: reported(s, "p2", maintenance={"snapshot": record(
            error="no room\nat all", failing_since=ago(hours=6).isoformat())}),
        ["! p2: snapshot fails for 6 h: no room at all"],
    ),
    "chores that fail for one reason": (
        lambda s: reported(s, "p2", maintenance={name: record(
            error="etcd is off", failing_since=ago(hours=6).isoformat())
            for name in ("snapshot", "room")}),
        ["! p2: snapshot, room fail for 6 h: etcd is off"],
    ),
    "a timer that stopped": (
        lambda s: reported(s, "p2", maintenance={"snapshot": record(
            looked=ago(minutes=20).isoformat())}),
        ["! p2: the maintenance has not run for the last 15 min"],
    ),
    "a machine that has just started": (
        lambda s: reported(s, "p2", since=ago(minutes=3), maintenance={"snapshot": record(
            looked=ago(days=20).isoformat())}), [],
    ),
    "another bundle": (
        lambda s: facts(s, "p2", store=StoreFacts("sha256:2", complete=True)),
        ["! the Primers have different bundles in their stores"],
    ),
    "an incomplete store": (
        lambda s: facts(s, "p2", store=StoreFacts()), ["! the store is incomplete on p2"],
    ),
    "an older API server": (
        lambda s: facts(s, "p2", standing=StandingFacts(kubernetes="v1.36.9", etcd="3.6.16")),
        ["! p2 runs Kubernetes 1.36.9, its bundle has 1.37.2"],
    ),
    "drift": (
        lambda s: facts(s, "p2", roles={"etcd": RoleFacts("x", ("/etc/a: changed", "b: failed"))}),
        ["! p2: /etc/a: changed, and 1 more"],
    ),
    "clocks apart": (
        lambda s: facts(s, "p2", clock_offset=s.seen["p1"].clock_offset + 90.0),
        ["! the Primers' clocks differ by 1 min 30 s"],
    ),
    "a part of a report that failed": (
        lambda s: reported(s, "p2", wrong={"pools": "zpool: no such device"}),
        ["! p2: its pools cannot be seen: zpool: no such device"],
    ),
    "the root's key left here": (
        lambda s: replace(s, root_key=(Path("/root/root.key"),)),
        [("- the offline root's key is on this Primer: anyone who takes the machine can make "
         "certificates of this site")],
    ),
}  # fmt: skip
ROOT = "one"


def said(seen: Overview) -> list[str]:
    return [f"{'!' if one.urgent else '-'} {one.text}" for one in attention.items(seen, NOW)]


@pytest.mark.parametrize("name", CASES)
def test_items(name: str) -> None:
    change, expected = CASES[name]
    assert said(change(healthy())) == expected


@pytest.mark.parametrize("name", [name for name in CASES if name != "another root"])
def test_screen_has_80_columns_and_24_lines(name: str) -> None:
    seen = CASES[name][0](healthy())
    lines = screen.lines(seen, attention.items(seen, NOW), NOW)
    assert len(lines) <= 24
    assert [line for line in lines if len(line) > 80] == []


def test_every_item_has_a_command() -> None:
    for change, _ in CASES.values():
        for item in attention.items(change(healthy()), NOW):
            assert item.command


def test_screen_of_a_site_where_all_is_well() -> None:
    lines = screen.lines(healthy(), (), NOW)
    assert (
        "\n".join(lines)
        == """\
Site lab
Trust     no certificates yet
Quorum    3 of 3 members healthy, leader p1, etcd 3.6.16, 23.0 MiB of 4.0 GiB,
          no alarm
Nodes     5 of 5 Ready, 2 workers among them: w1, w2, Kubernetes 1.37.2
Versions  bundle platform 7: Kubernetes 1.37.2, etcd 3.6.16, on p1, p2, p3
Backup    trial restore 5 h ago (p1)

Primer   etcd      data                       snapshot          maintenance
p1       leader    ONLINE 10 %, scrub 9 d     4 min, r4990      2 min ago
p2       follower  ONLINE 10 %, scrub 9 d     4 min, r4990      2 min ago
p3       follower  ONLINE 10 %, scrub 9 d     4 min, r4990      2 min ago

Nothing is due."""
    )


def test_screen_says_whose_keys_are_not_sealed() -> None:
    seen = healthy()
    profile = authorities.profile(seen.site, "site")
    root = certificates.sign(profile, certificates.new_key(), None, NOW)
    standing = StandingFacts(root=certificates.certificate_pem(root).decode())
    for name in NAMES:
        seen = facts(seen, name, standing=standing)

    def said() -> str:
        return " ".join(" ".join(screen.lines(seen, (), NOW)).split())

    assert "keys not sealed: p1, p2, p3" in said()
    for name in NAMES:
        seen = facts(seen, name, seal=SealFacts("key", ("other",)))
    assert "keys sealed" in said()


def test_site_without_a_backup_is_told_so_except_for_trial() -> None:
    seen = healthy()
    (item,) = attention.items(replace(seen, site=replace(seen.site, backup=None)), NOW)
    assert not item.urgent
    assert item.text.startswith("no backup leaves this site")
    trial = replace(seen.site, backup=None, trial=True)
    assert attention.items(replace(seen, site=trial), NOW) == ()


def test_keys_that_nobody_opened_need_a_person_and_plain_ones_the_timer() -> None:
    shut = SealFacts("key", ("p2",), plain=("/a.key",), shut=("/b.key",))
    (item,) = attention.items(facts(healthy(), "p1", seal=shut), NOW)
    assert item.urgent
    assert item.text == "p1: its keys are sealed, and no other Primer has opened them"
    (item,) = attention.items(facts(healthy(), "p1", seal=replace(shut, shut=())), NOW)
    assert not item.urgent
    assert item.text == "p1: /a.key is in plain text on its disk"
    (item,) = attention.items(facts(healthy(), "p1", seal=SealFacts("key", ("p2",))), NOW)
    assert not item.urgent
    assert item.text == "p1: its sealed keys wait for p3: after a start only p2 opens them"


def test_screen_says_how_many_of_how_many_members_are_healthy() -> None:
    seen = without(healthy(), "p3")
    text = "\n".join(screen.lines(seen, attention.items(seen, NOW), NOW))
    assert "2 of 3 members healthy, leader p1" in text
    assert "p3       silent    does not answer" in text
    assert "not Ready: p3" in " ".join(text.split())


def test_screen_with_much_to_do_counts_the_rest() -> None:
    seen = reported(without(healthy(), "p3"), maintenance={
        f"chore {n}": record(error="x " * 90, failing_since=ago(days=n).isoformat())
        for n in range(1, 9)})  # fmt: skip
    lines = screen.lines(seen, attention.items(seen, NOW), NOW)
    assert len(lines) == len([line for line in lines if len(line) <= 80]) <= 24
    assert lines[-1].startswith("and ")
    assert lines[-1].endswith("more: keystone-install status --json")


def test_report_survives_json() -> None:
    text = json.dumps(REPORT, default=log._plain)
    assert report.parse(json.loads(text)) == REPORT
    empty = json.dumps(HostReport(), default=log._plain)
    assert report.parse(json.loads(empty)) == HostReport()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("p3 (10.0.0.3): cannot be reached: ssh: connect to host x: No route",
         "connect to host x: No route"),
        ("p3 (10.0.0.3): timed out after 8 s: setpriv ssh a: b", "timed out after 8 s"),
        ("p3: exit code 2: keystone-install\nUsage: x", "exit code 2: keystone-install"),
        ("p3 (10.0.0.3): cannot be reached: ", "cannot be reached: "),
    ],
)  # fmt: skip
def test_reason(text: str, expected: str) -> None:
    assert attention.reason(text) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(-5, "0 s"), (0, "0 s"), (89, "89 s"), (90, "1 min"), (5399, "89 min"), (5400, "1 h"),
     (47 * 3600, "47 h"), (48 * 3600, "2 d"), (400 * 86400, "400 d")],
)  # fmt: skip
def test_age(seconds: int, expected: str) -> None:
    assert attention.age(dt.timedelta(seconds=seconds)) == expected


def test_primer_that_refuses_the_key_is_no_dead_machine() -> None:
    refused = "p3 (10.77.0.13): cannot be reached: root@10.77.0.13: Permission denied (publickey)."
    seen = without(healthy(), "p3", refused)
    (item,) = attention.items(seen, NOW)
    assert item.command.startswith("run it on p1, or copy the private ssh key here: ")
