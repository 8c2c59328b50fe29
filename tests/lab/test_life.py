"""The life of a site: snapshots by the timer, and a quorum that is lost and restored.

The tests run in the order of this file and share one lab: each looks at what the one before left.
"""

from __future__ import annotations

import json
import random
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.life import figures, machine_load

from keystone import log, run
from keystone.lab import demo, nodes
from keystone.lab.machines.machine import becomes

from . import kills
from . import rig as rigs
from .rig import Rig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.life.machine_load import MachineLoad

    from keystone.lab.carry import Carried

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

PRIMERS = ("p1", "p2", "p3")
INSTALLER = "keystone-install"
RESTORE = f"{INSTALLER} etcd restore"
API_SERVER = "/etc/kubernetes/manifests/kube-apiserver.yaml"
LOSE = "systemctl kill --signal KILL etcd; systemctl stop etcd; rm -rf /var/lib/etcd/data"
"""A member whose disk is gone: nothing of it is left."""
CHANCE = random.Random(kills.SEED)
KILLS_IN_A_ROW = 5
"""Kills of one restore before it may come to its end."""


@pytest.fixture(scope="module")
def rig(bundle: Carried) -> Iterator[Rig]:
    with rigs.started("life", bundle, PRIMERS) as ready:
        yield ready


def test_site_of_one_primer_is_installed(rig: Rig) -> None:
    document = demo.site_document(rig.lab, ["p1"])
    host = rig.machine("p1").host()
    host.run(["sh", "-c", f"cat > {demo.WORK}/one.yaml"], data=json.dumps(document))
    done = rig.install("--yes", site=f"{demo.WORK}/one.yaml")
    assert done.returncode == 0, done.stderr
    write(rig, "on-one-primer")


def test_one_primer_becomes_three_under_load_and_kills(rig: Rig) -> None:
    """Who writes to etcd and to the API notices nothing, also when the installer is killed."""
    loads = {"etcd": start_etcd_load(rig), "api": machine_load.api(rig.machine("p1").host())}
    argv = demo.install_argv(rig.bundle, "--yes")
    ended = kills.killed(rig.machine("p1").host(), argv, CHANCE, kills.KILLS, 25)
    assert ended.result.returncode == 0, ended.result.stderr
    assert_serves(rig)
    verdicts = {name: load.end() for name, load in loads.items()}
    log.info(f"one becomes three, {ended.kills} kills: {machine_load.shown(verdicts)}")
    how = f"{ended.kills} kills, seed {kills.SEED}"
    etcd, api = verdicts["etcd"], verdicts["api"]
    figures.record("growth-lost", len(etcd.lost) + len(api.lost), how)
    figures.record("growth-stall", etcd.longest(), f"{etcd.writes} writes, {how}")
    figures.record("growth-failed", api.failed, f"{api.requests} requests, {how}")
    figures.record("growth-api-stall", api.longest(), how)
    assert (etcd.lost, etcd.wrong, api.lost, api.wrong) == ((), (), (), ())
    assert "on-one-primer" in written(rig)
    assert_members(rig, 3)
    assert_nothing_to_do(rig)
    figures.record("growth-kills", 0, how, times=ended.kills)


def test_timer_runs_on_every_primer(rig: Rig) -> None:
    for name in PRIMERS:
        assert rig.sh(name, "systemctl is-active keystone-maintain.timer").strip() == "active"


def test_maintenance_takes_a_snapshot_on_every_primer(rig: Rig) -> None:
    maintain(rig)
    for name in PRIMERS:
        assert snapshots(rig, name)


def test_status_shows_a_site_where_all_is_well(rig: Rig) -> None:
    shows(rig, "p1", 0, "3 of 3 members healthy", "3 of 3 Ready", "bundle platform")
    # Without the ssh key of p1: the others do not answer, but etcd and the API do.
    shows(rig, "p2", 8, "3 of 3 members healthy", "3 of 3 Ready", "copy the private ssh key here")


def test_status_while_the_api_is_away_shows_the_rest(rig: Rig) -> None:
    for name in PRIMERS:
        rig.sh(name, f"mv {API_SERVER} /var/tmp/")
    try:
        shows(rig, "p1", 8, "the API does not answer", "3 of 3 members healthy")
    finally:
        for name in PRIMERS:
            rig.sh(name, f"mv /var/tmp/kube-apiserver.yaml {API_SERVER}")
    assert_serves(rig)


def test_status_while_a_primer_is_cut_off_says_so(rig: Rig) -> None:
    rig.machine("p3").disconnect()
    try:
        shows(rig, "p1", 8, "! p3 does not answer", "2 of 3 members healthy", "not Ready: p3")
        seen = json.loads(status(rig, "p1", "--json").stdout)
        assert seen["hosts"]["p3"].keys() == {"error"}
        assert seen["due"][0]["urgent"] is True
    finally:
        rig.machine("p3").connect()
    assert_serves(rig)


def test_restore_is_refused_while_the_quorum_serves(rig: Rig) -> None:
    done = restore(rig, "p1", "--yes")
    assert done.returncode == 7, done.stderr
    assert "the etcd quorum serves" in done.stderr


def test_damaged_snapshot_is_refused(rig: Rig) -> None:
    file = snapshots(rig, "p1")[0]["file"]
    rig.sh("p1", f"head -c -4096 {file} > /var/tmp/short.db")
    done = restore(rig, "p1", "--roll-back --yes --snapshot /var/tmp/short.db")
    assert done.returncode == 5, done.stderr
    assert "/var/tmp/short.db" in done.stderr


def test_snapshot_of_another_site_is_refused(rig: Rig) -> None:
    rig.sh("p1", "set -a; . /etc/etcd/etcdctl.env; etcdctl put /keystone/site other; "
                 "etcdctl snapshot save /var/tmp/other.db")  # fmt: skip
    said = rig.sh("p1", f"set -a; . /etc/etcd/etcdctl.env; etcdctl put /keystone/site {site(rig)}")
    assert "OK" in said
    done = restore(rig, "p1", "--roll-back --yes --snapshot /var/tmp/other.db")
    assert done.returncode == 7, done.stderr
    assert "another site" in done.stderr


def test_two_of_three_lost_come_back_with_the_last_write(rig: Rig) -> None:
    write(rig, "before-two-lost")
    load = start_etcd_load(rig)
    for name in ("p2", "p3"):
        rig.sh(name, LOSE)
    oldest = snapshots(rig, "p1")[-1]["file"]
    done = restore(rig, "p1", f"--yes --snapshot {oldest}")
    assert done.returncode == 7, done.stderr
    assert "older (revision" in done.stderr
    before = load.writes()
    began = time.monotonic()
    done = restore(rig, "p1", "--yes")
    assert done.returncode == 0, done.stderr
    assert_serves(rig)
    seconds = time.monotonic() - began
    load.goes_on()
    verdict = load.end()
    log.info(f"two of three lost: back after {seconds:.0f} s; {verdict.line()}")
    figures.record("two-lost-seconds", seconds, "from the command to a write and all nodes Ready")
    figures.record("two-lost-writes", len(verdict.lost), f"{before} writes before the loss")
    assert (verdict.lost, verdict.wrong) == ((), ())
    assert "before-two-lost" in written(rig)
    assert_members(rig, 3)


def test_any_primer_knows_the_site(rig: Rig) -> None:
    """A restore is led from another Primer when the first is gone; its owner brings the ssh key."""
    p1 = rig.machine("p1").host()
    key = json.loads(p1.run(["cat", "/var/lib/keystone/site.yaml"]).stdout)["spec"]["ssh"][
        "keyFile"
    ]
    secret = p1.run(["cat", key]).stdout
    p2 = rig.machine("p2").host()
    p2.run(["sh", "-c", f"umask 077; mkdir -p $(dirname {key}); cat > {key}"], data=secret)
    done = restore(rig, "p2", "--plan --roll-back")
    assert done.returncode == 0, done.stderr


def test_all_lost_come_back_from_the_newest_snapshot(rig: Rig) -> None:
    write(rig, "before-snapshot")
    load = start_etcd_load(rig)
    for name in PRIMERS:  # which would take a snapshot of what is to be lost
        rig.sh(name, "systemctl stop keystone-maintain.timer")
    maintain(rig)
    write(rig, "after-snapshot")
    load.goes_on()
    for name in PRIMERS:
        rig.sh(name, LOSE)
        assert_starts_no_empty_member(rig, name)
    planned = [restore(rig, "p2", "--plan --json").stdout for _ in range(2)]
    assert planned[0] == planned[1]
    identity = json.loads(planned[0])["order"]["id"]
    assert restore(rig, "p2", "").returncode == 7
    assert restore(rig, "p2", "--approve other").returncode == 7
    began = time.monotonic()
    done = restore(rig, "p2", f"--approve {identity}")
    assert done.returncode == 0, done.stderr
    assert_serves(rig)
    seconds = time.monotonic() - began
    load.goes_on()
    verdict = load.end()
    log.info(f"all lost: back after {seconds:.0f} s; {verdict.line()}")
    figures.record("all-lost-seconds", seconds, "from the command to a write and all nodes Ready")
    how = f"{len(verdict.lost)} of {verdict.writes} writes, from the newest snapshot"
    figures.record("all-lost-minutes", verdict.lost_seconds, how)
    assert verdict.lost, "what was written after the snapshot is lost, and the check sees it"
    assert verdict.wrong == ()
    assert "before-snapshot" in written(rig)
    assert "after-snapshot" not in written(rig)
    assert_members(rig, 3)
    for name in PRIMERS:
        rig.sh(name, "systemctl start keystone-maintain.timer")


def test_killed_restore_is_finished_by_the_same_command(rig: Rig) -> None:
    done = 0
    while done < kills.KILLS:
        name = f"before-kills-{done}"
        write(rig, name)
        maintain(rig)
        for machine in PRIMERS:
            rig.sh(machine, LOSE)
        host, left = rig.machine("p1").host(), min(kills.KILLS - done, KILLS_IN_A_ROW)
        ended = kills.killed(host, [*RESTORE.split(), "--yes"], CHANCE, left, 12)
        if ended.result.returncode == 7:  # a killed run had come to its end but for the last step
            assert "the etcd quorum serves" in ended.result.stderr
        else:
            assert ended.result.returncode == 0, ended.result.stderr
        assert_serves(rig)
        assert name in written(rig)
        assert_members(rig, 3)
        done += ended.kills
    assert_nothing_to_do(rig)
    figures.record("restore-kills", 0, f"{done} kills, seed {kills.SEED}", times=done)


def start_etcd_load(rig: Rig) -> MachineLoad:
    """Start writing on p1, to all members, now and later."""
    addresses = [str(rig.machine(name).settings.address) for name in PRIMERS]
    return machine_load.etcd(rig.machine("p1").host(), addresses)


def assert_nothing_to_do(rig: Rig) -> None:
    done = rig.install("--plan")
    assert "Nothing to do" in done.stdout + done.stderr


def assert_starts_no_empty_member(rig: Rig, name: str) -> None:
    """As after a power cut: three empty members would found a new cluster and lose the old."""
    host = rig.machine(name).host()
    assert host.run(["systemctl", "start", "etcd"], check=False).returncode != 0
    assert rig.sh(name, "ls /var/lib/etcd/data 2>/dev/null || true") == ""


def status(rig: Rig, name: str, more: str = "") -> run.Result:
    """Run `status` on a Primer, and print what it shows and how long it took."""
    began = time.monotonic()
    argv = ["sh", "-c", f"{INSTALLER} status {more}"]
    done = rig.machine(name).host().run(argv, check=False, timeout=120)
    log.info(f"{done.stdout}{done.stderr}status on {name}: {time.monotonic() - began:.1f} s")
    return done


def shows(rig: Rig, name: str, code: int, *words: str) -> None:
    """Wait until `status` ends with this code and shows all these words, however it breaks lines.

    On a loaded machine a host may answer too late for one run.
    """

    def shown() -> bool:
        done = status(rig, name)
        text = " ".join(done.stdout.split())
        return done.returncode == code and all(word in text for word in words)

    assert becomes(shown, 600), words


def restore(rig: Rig, name: str, words: str) -> run.Result:
    argv = ["sh", "-c", f"{RESTORE} {words}"]
    return rig.machine(name).host().run(argv, check=False, timeout=900)


def maintain(rig: Rig) -> None:
    for name in PRIMERS:
        rig.sh(name, "systemctl start keystone-maintain.service")


def site(rig: Rig) -> str:
    argv = "openssl x509 -in /etc/keystone/pki/root.crt -noout -fingerprint -sha256"
    return rig.sh("p1", argv).strip().partition("=")[2].replace(":", "").lower()


def snapshots(rig: Rig, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(rig.sh(name, f"{INSTALLER} etcd snapshot list --json"))
    return found


def write(rig: Rig, name: str) -> None:
    """Write an object. kubectl repeats a request whose answer was lost; then it exists already."""
    rig.kubectl(f"create configmap {name}", check=False)
    assert name in written(rig)


def written(rig: Rig) -> str:
    return rig.kubectl("get configmaps -o name")


def assert_serves(rig: Rig) -> None:
    """The API takes a write, and every kubelet has said since then that its node is Ready."""
    name = f"probe-{random.randrange(10**9)}"

    def wrote() -> bool:
        """An answer that is lost leaves the object; a second request says that it exists."""
        rig.kubectl(f"create configmap {name}", check=False)
        return name in rig.kubectl(f"get configmap {name} -o name", check=False)

    assert becomes(wrote, 900)
    now = time.time()
    nodes.wait_ready(rig.machine("p1").host(), frozenset(PRIMERS), since=now, seconds=900)


def assert_members(rig: Rig, count: int) -> None:
    argv = f"{INSTALLER} etcd status --json"
    states = [one["state"] for one in json.loads(rig.sh("p1", argv))]
    assert sorted(states) == ["follower"] * (count - 1) + ["leader"]
