"""The quorum of a living site: smaller and larger, and the first Primer lost with its disk.

The tests run in the order of this file and share one lab: each looks at what the one before left.
"""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import pytest
from tests.life import figures, machine_load

from keystone import log, run
from keystone.lab import demo
from keystone.lab.machines.machine import MEDIA, becomes

from . import rig as rigs
from .rig import Rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keystone.lab.carry import Carried

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

PRIMERS = ("p1", "p2", "p3")
SMALL = f"{demo.WORK}/small.yaml"
WHOLE = f"{demo.WORK}/site.yaml"
INSTALLED = "/var/lib/keystone/site.yaml"
KEYS = "/etc/etcd/pki/server.key /etc/kubernetes/pki/ca.key /var/lib/keystone/pki"


@pytest.fixture(scope="module")
def rig(bundle: Carried) -> Iterator[Rig]:
    with rigs.started("quorum", bundle, PRIMERS) as ready:
        yield ready


def test_three_primers_are_installed(rig: Rig) -> None:
    done = rig.install("--yes")
    assert done.returncode == 0, done.stderr
    assert_members(rig, "p1", 3)
    rig.kubectl("create configmap from-the-beginning")
    known = machines(rig, "p1")
    assert [one["part"] for one in known] == ["control plane"] * 3
    assert all(one["machine_id"] and one["host_key"].startswith("SHA256:") for one in known)


def test_two_of_three_primers_do_not_leave_without_the_id_of_the_plan(rig: Rig) -> None:
    write_site(rig, SMALL, lambda spec: spec["primers"].__delitem__(slice(1, None)))
    done = install(rig, "p1", "--yes", site=SMALL)
    assert done.returncode == 7, done.stderr
    assert "--approve" in done.stderr
    assert_members(rig, "p1", 3)


def test_three_primers_become_one(rig: Rig) -> None:
    note(rig)
    done = install(rig, "p1", "--approve", plan_id(rig, "p1", site=SMALL), site=SMALL)
    assert done.returncode == 0, done.stderr
    assert_members(rig, "p1", 1)
    assert [one["name"] for one in machines(rig, "p1")] == ["p1"]
    assert "from-the-beginning" in rig.kubectl("get configmaps -o name")
    assert rig.kubectl("get nodes -o name").split() == ["node/p1"]
    for name in ("p2", "p3"):
        states = rig.sh(name, "systemctl is-active etcd kubelet containerd || true").split()
        assert "active" not in states, states
        assert rig.sh(name, f"ls -d {KEYS} 2>/dev/null || true") == ""
    assert "10.77.0.12" not in rig.sh("p1", "cat /etc/haproxy/haproxy.cfg")
    assert endpoints(rig, "p1") == ["https://10.77.0.11:2379"]
    assert revoked(rig, "p1") == {"p2", "p3"}
    assert_converged(rig, "p1", site=SMALL)


def test_one_primer_becomes_two_and_one_that_only_votes(rig: Rig) -> None:
    vote = {"controlPlane": False, "kubelet": False}
    write_site(rig, SMALL, lambda spec: spec["primers"][2].update(vote))
    done = install(rig, "p1", "--yes", site=SMALL)
    assert done.returncode == 0, done.stderr
    assert_members(rig, "p3", 3)
    assert [one["part"] for one in machines(rig, "p3")] == ["control plane"] * 2 + ["vote only"]
    assert rig.kubectl("get nodes -o name").split() == ["node/p1", "node/p2"]
    assert_converged(rig, "p1", site=SMALL)


def test_primer_that_only_voted_becomes_a_control_plane(rig: Rig) -> None:
    done = rig.install("--yes")
    assert done.returncode == 0, done.stderr
    assert_members(rig, "p1", 3)
    for name in PRIMERS:
        assert len(endpoints(rig, name)) == 3
    assert "from-the-beginning" in rig.kubectl("get configmaps -o name")
    assert_converged(rig, "p1")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda spec: spec["primers"][2].update(name="p9"), "renames"),
        (lambda spec: spec["primers"][2].update(address="10.77.0.99"), "10.77.0.99"),
        (lambda spec: spec["networks"].update(pods="10.128.0.0/16"), "spec.networks.pods"),
    ],
)
def test_renamed_primers_and_other_networks_are_refused(
    rig: Rig, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    write_site(rig, SMALL, change)
    done = install(rig, "p1", "--yes", site=SMALL)
    assert done.returncode == 7, done.stderr
    assert said in done.stderr
    assert_members(rig, "p1", 3)


def test_second_operator_is_told_who_changes_the_site(rig: Rig) -> None:
    bring_key(rig, "p2")
    rig.sh("p3", "rm /etc/etcd/etcdctl.env")
    lock = "etcdctl lock /keystone/lock/operator --ttl 30 sleep 120"
    known = "etcdctl put /keystone/holder/operator 'p3 (process 1, since today)'"
    environment = "set -a; . /var/tmp/etcdctl.env"
    rig.sh("p1", "cp /etc/etcd/etcdctl.env /var/tmp/")
    rig.sh("p1", f"{environment}; {known}; systemd-run --quiet --unit other-operator "
                 f"--property EnvironmentFile=/var/tmp/etcdctl.env {lock}")  # fmt: skip
    done = install(rig, "p2", "--yes")
    assert done.returncode == 7, done.stderr
    assert "p3 (process 1, since today)" in done.stderr
    rig.sh("p1", "systemctl stop other-operator")
    done = install(rig, "p2", "--yes")
    assert done.returncode == 0, done.stderr


def test_blank_machine_under_a_known_name_is_refused(rig: Rig) -> None:
    """p1, on which everything began, is lost with its disk."""
    note(rig)
    before = next(one for one in machines(rig, "p2") if one["name"] == "p1")
    rig.lab.up(["p1"], fresh=True)
    other = "0123456789abcdef0123456789abcdef"  # a container gets the id of the one before
    rig.sh("p1", f"echo {other} > /etc/machine-id")
    wrote = "annotate --overwrite namespace default written-without=p1"
    assert becomes(lambda: "annotated" in kubectl(rig, "p2", wrote), 120)
    done = install(rig, "p2", "--yes")
    assert done.returncode == 7, done.stderr
    assert f"machine id {other} (known: {before['machine_id']})" in done.stderr
    assert "is a member of etcd, and its machine has no data of etcd" in done.stderr
    assert "node replace p1" in done.stderr
    assert rig.sh("p1", "ls /etc/etcd 2>/dev/null || true") == ""


def test_blank_machine_takes_the_place_of_the_first_primer(rig: Rig) -> None:
    """Two runs are killed on the way, and the same command goes on."""
    verb = ("node", "replace", "p1")
    identity = plan_id(rig, "p2", verb=verb)
    load = machine_load.api(rig.machine("p2").host())
    for seconds in (40, 80):
        install(rig, "p2", "--approve", identity, verb=verb, kill_after=seconds)
    done = install(rig, "p2", "--approve", identity, verb=verb)
    assert done.returncode == 0, done.stderr
    load.goes_on()
    verdict = load.end()
    log.info(f"p1 replaced: {verdict.line()}")
    figures.record("replace-failed", verdict.failed, f"{verdict.requests} requests, two kills")
    figures.record("replace-kills", 0, "after 40 and 80 s", times=2)
    assert (verdict.lost, verdict.wrong, verdict.failed) == ((), (), 0)
    assert_members(rig, "p2", 3)
    assert_members(rig, "p1", 3)
    assert "written-without" in kubectl(rig, "p1", "get namespace default -o yaml")
    assert "from-the-beginning" in kubectl(rig, "p1", "get configmaps -o name")
    for name in PRIMERS:
        assert len(endpoints(rig, name)) == 3
        assert revoked(rig, name) == set(PRIMERS)
    assert_converged(rig, "p2")


def bring_key(rig: Rig, name: str) -> None:
    """Bring to a Primer the one thing that its operator needs there: the ssh key of the site."""
    key = "/root/.ssh/id_ed25519"
    script = f"umask 077; mkdir -p /root/.ssh; cat > {key}"
    secret = rig.machine("p1").host().run(["cat", key]).stdout
    rig.machine(name).host().run(["sh", "-c", script], data=secret)


def note(rig: Rig) -> None:
    """Let the Primers note in etcd which certificates they have, as their timers do."""
    for name in PRIMERS:
        rig.sh(name, "systemctl start keystone-maintain || journalctl -u keystone-maintain -n 20")


def revoked(rig: Rig, name: str) -> set[str]:
    """Return the Primers whose certificates a Primer's etcd refuses."""
    found = json.loads(rig.sh(name, "cat /var/lib/keystone/pki/rotation.json"))["revoked"]
    return {one["what"].partition("/")[0] for one in found}


def write_site(rig: Rig, path: str, change: Callable[[dict[str, Any]], None]) -> None:
    document: dict[str, Any] = demo.site_document(rig.lab, list(PRIMERS))
    change(document["spec"])
    rig.machine("p1").host().run(["sh", "-c", f"cat > {path}"], data=json.dumps(document))


def install(
    rig: Rig,
    name: str,
    *extra: str,
    site: str = WHOLE,
    verb: tuple[str, ...] = (),
    kill_after: int = 0,
) -> run.Result:
    """Run the installer: on p1 with the stick's bundle, elsewhere with the one in the store."""
    p1 = name == "p1"
    stick = ("--bundle", f"{MEDIA}/offline.tar", "--root-fingerprint", rig.bundle.fingerprint)
    argv = [
        f"{demo.WORK}/keystone-install" if p1 else "keystone-install", *verb,
        *(stick if p1 else ()), "--site", site if p1 else INSTALLED, *extra,
    ]  # fmt: skip
    if kill_after:  # a shell around it: ssh takes a killed program for a lost connection
        argv = ["sh", "-c", f"timeout --signal KILL {kill_after} {shlex.join(argv)}; true"]
    return rig.machine(name).host().run(argv, check=False, timeout=3500)


def plan_id(rig: Rig, name: str, *, site: str = WHOLE, verb: tuple[str, ...] = ()) -> str:
    done = install(rig, name, "--plan", "--json", site=site, verb=verb)
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["id"])


def assert_converged(rig: Rig, name: str, site: str = WHOLE) -> None:
    done = install(rig, name, "--plan", site=site)
    assert "Nothing to do" in done.stdout + done.stderr, done.stdout + done.stderr


def machines(rig: Rig, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(rig.sh(name, "keystone-install node list --json"))
    return found


def kubectl(rig: Rig, name: str, words: str) -> str:
    return rig.sh(name, f"{rigs.KUBECTL} {words}", check=False)


def endpoints(rig: Rig, name: str) -> list[str]:
    """Return the members that a Primer's API server uses."""
    manifest = "/etc/kubernetes/manifests/kube-apiserver.yaml"
    found = shlex.split(rig.sh(name, f"grep -o -e '--etcd-servers=.*' {manifest}"))[0]
    return found.partition("=")[2].split(",")


def assert_members(rig: Rig, name: str, count: int) -> None:
    argv = "keystone-install etcd status --json"
    states = [one["state"] for one in json.loads(rig.sh(name, argv))]
    assert sorted(states) == ["follower"] * (count - 1) + ["leader"]
