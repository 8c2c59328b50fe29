"""CAs, the key of service accounts and the root are replaced while the site works.

A client writes to the API all the time, over the endpoint that every node has; each request may be
retried once. The tests run in the order of this file and share one lab.
"""

from __future__ import annotations

import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from tests.life import figures, machine_load

from keystone import log, run
from keystone.lab import demo, nodes, workload

from . import rig as rigs
from .rig import Rig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystone.lab.carry import Carried

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

PRIMERS, WORKER = ("p1", "p2", "p3"), "w1"
ROTATE = "keystone-install trust rotate"
CAS, ROOT = "rotation-ca-failed", "rotation-root-failed"
FAILED: dict[str, list[int]] = {}
"""Requests that failed, by figure, of each rotation."""
PLACES = "/etc/kubernetes/pki/ca.crt /etc/keystone/pki/kubernetes-ca.crt"


@pytest.fixture(scope="module")
def rig(bundle: Carried) -> Iterator[Rig]:
    with rigs.started("rotation", bundle, PRIMERS, (WORKER,)) as ready:
        yield ready


def test_site_with_a_worker_is_installed(rig: Rig) -> None:
    done = rig.install("--yes")
    assert done.returncode == 0, done.stderr
    demo.join(rig.lab, WORKER)
    workload.deploy(rig.machine("p1").host())


def test_worker_follows_by_its_timer(rig: Rig) -> None:
    rig.sh(WORKER, "systemctl is-active keystone-follow.timer; systemctl start keystone-follow")
    assert annotation(rig, WORKER)


def test_plan_shows_all_stages_and_changes_nothing(rig: Rig) -> None:
    before = pins(rig, "p1", "/etc/etcd/pki/peer-ca.crt")
    said = rotate(rig, "ca etcd-peer --plan").stdout
    for stage in ("trusted", "reissued", "dropped"):
        assert stage in said
    assert "the member is away for seconds" in said
    assert pins(rig, "p1", "/etc/etcd/pki/peer-ca.crt") == before


def test_ca_of_etcd_peers_is_rotated_under_load_and_a_kill(rig: Rig) -> None:
    (before,) = pins(rig, "p1", "/etc/etcd/pki/peer-ca.crt")
    with load(rig, CAS, "the CA of etcd's peers"):
        killed(rig, "ca etcd-peer", random.Random(18).uniform(15, 60))
        done = rotate(rig, "ca etcd-peer --yes")
        assert done.returncode == 0, done.stderr
    for name in PRIMERS:
        (now,) = pins(rig, name, "/etc/etcd/pki/peer-ca.crt")
        assert now != before
    assert_serves(rig)


def test_ca_of_kubernetes_is_rotated_stage_by_stage_under_load(rig: Rig) -> None:
    (before,) = pins(rig, WORKER, "/etc/kubernetes/pki/ca.crt")
    with load(rig, CAS, "the CA of Kubernetes"):
        for wanted, certificates in (("trusted", 2), ("reissued", 2), ("dropped", 1)):
            killed(rig, "ca kubernetes --once", random.Random(wanted).uniform(10, 60))
            reach(rig, wanted)
            for name in (*PRIMERS, WORKER):
                assert len(pins(rig, name, "/etc/kubernetes/pki/ca.crt")) == certificates
            assert_serves(rig)
    for name in (*PRIMERS, WORKER):
        for place in PLACES.split():
            assert before not in pins(rig, name, place)
        rig.sh(name, "openssl verify -CAfile /etc/kubernetes/pki/ca.crt "
                     "/var/lib/kubelet/pki/kubelet-client-current.pem")  # fmt: skip
    answers = workload.answers(rig.machine("p1").host())
    assert answers


def test_key_of_service_accounts_signs_new_tokens_and_old_ones_count_until_dropped(
    rig: Rig,
) -> None:
    with load(rig, CAS, "the key of service accounts"):
        for _ in range(2):
            done = rotate(rig, "sa-key --once --yes")
            assert done.returncode == 0, done.stderr
        refused = rotate(rig, "sa-key --yes")
        assert refused.returncode == 7, refused.stderr
        assert "tokens of the old key" in refused.stderr
        rig.kubectl("-n default create token default")
    assert_serves(rig)


def test_rotation_of_another_ca_is_refused_until_this_one_is_finished(rig: Rig) -> None:
    refused = rotate(rig, "ca site --yes")
    assert refused.returncode == 7
    assert "sa is being rotated" in refused.stderr
    done = rotate(rig, "sa-key --yes --now")
    assert done.returncode == 0, done.stderr
    assert_serves(rig)


def test_ca_of_the_site_is_rotated(rig: Rig) -> None:
    with load(rig, CAS, "the CA of the site"):
        done = rotate(rig, "ca site --yes")
        assert done.returncode == 0, done.stderr
    rig.sh(WORKER, "systemctl start keystone-follow")
    rig.sh(WORKER, "curl -sf --cacert /etc/keystone/pki/site-ca.crt https://10.77.0.11:8443/ca.crt")


def test_new_root_signs_and_snapshots_go_on(rig: Rig) -> None:
    words = "root --yes --new-root-key /root/keystone/new-root.pem"
    with load(rig, ROOT, "the root"):
        for _ in range(2):
            done = rotate(rig, words)
            assert done.returncode == 0, done.stderr
    for name in PRIMERS:
        rig.sh(name, "keystone-install etcd snapshot take")


def test_leaked_certificates_are_refused_at_the_next_connection(rig: Rig) -> None:
    rig.sh("p2", "cp -r /etc/etcd/pki /var/tmp/leaked")
    before = {name: rig.sh(name, "systemctl show -P MainPID etcd") for name in PRIMERS}
    with load(rig):
        done = (
            rig.machine("p1")
            .host()
            .run(["keystone-install", "trust", "revoke", "p2", "--yes"], check=False, timeout=900)
        )
        assert done.returncode == 0, done.stderr
    for address in ("10.77.0.11", "10.77.0.12", "10.77.0.13"):
        assert asked(rig, "/var/tmp/leaked", address) != "0"
        assert asked(rig, "/etc/etcd/pki", address) == "0"
    after = {name: rig.sh(name, "systemctl show -P MainPID etcd") for name in PRIMERS}
    assert after == before
    again = rig.sh("p2", "keystone-install trust revoke --yes 2>&1")
    assert "Nothing to do" in again
    assert_serves(rig)


def test_installer_finds_nothing_to_do(rig: Rig) -> None:
    done = rig.install("--plan")
    assert "Nothing to do" in done.stdout + done.stderr, done.stdout + done.stderr


def asked(rig: Rig, folder: str, address: str) -> str:
    """Ask a member from p2 with the client's certificate in a folder; return the exit code."""
    words = (
        f"--endpoints https://{address}:2379 --cacert /etc/etcd/pki/peer-ca.crt "
        f"--cert {folder}/client.crt --key {folder}/client.key --command-timeout 10s"
    )
    return rig.sh("p2", f"etcdctl {words} get any >/dev/null 2>&1 && echo 0 || echo $?").strip()


def reach(rig: Rig, wanted: str) -> None:
    """Go to a stage of the CA of Kubernetes: a killed run has begun it, or not."""
    while stage(rig) != wanted or not_complete(rig):
        done = rotate(rig, "ca kubernetes --once --yes")
        assert done.returncode == 0, done.stderr


def stage(rig: Rig) -> str:
    script = (
        "import json; found = json.load(open('/var/lib/keystone/pki/rotation.json'))['running']; "
        "print(found.get('kubernetes', {}).get('stage', ''))"
    )
    return rig.sh("p1", f'python3 -c "{script}"').strip()


def not_complete(rig: Rig) -> bool:
    """Whether the stage that was begun has something left: the next one begins with the tree."""
    planned = rotate(rig, "ca kubernetes --once --plan --json")
    assert planned.returncode == 0, planned.stderr
    return "trust tree: " not in planned.stdout


def rotate(rig: Rig, words: str) -> run.Result:
    argv = ["sh", "-c", f"{ROTATE} {words}"]
    began = time.monotonic()
    done = rig.machine("p1").host().run(argv, check=False, timeout=1800)
    log.info(f"rotate {words}: exit {done.returncode} after {time.monotonic() - began:.0f} s")
    return done


def killed(rig: Rig, words: str, seconds: float) -> None:
    script = f"timeout --signal KILL {seconds:.1f} {ROTATE} {words} --yes; true"
    rig.sh("p1", script, check=False)


def pins(rig: Rig, name: str, file: str) -> list[str]:
    """Return a hash of each certificate in a file."""
    script = (
        f"csplit -s -z -f /run/pin- {file} '/BEGIN CERTIFICATE/' '{{*}}'; "
        "for f in /run/pin-*; do openssl x509 -in $f -noout -pubkey | sha256sum; done; "
        "rm /run/pin-*"
    )
    return rig.sh(name, script).split()[::2]


@contextmanager
def load(rig: Rig, figure: str = "", what: str = "revocation") -> Iterator[None]:
    """Write to the API from p1 all the time; no request may fail after one retry. what: rotates."""
    under = machine_load.api(rig.machine("p1").host())
    yield
    under.goes_on()
    verdict = under.end()
    log.info(f"{what}: {verdict.line()}")
    if figure:
        FAILED.setdefault(figure, []).append(verdict.failed)
        how = f"{verdict.requests} requests while {what} is replaced, and others before"
        figures.record(figure, sum(FAILED[figure]), how, times=len(FAILED[figure]))
    assert (verdict.lost, verdict.wrong, verdict.failed) == ((), (), 0)


def annotation(rig: Rig, name: str) -> str:
    return rig.kubectl(f"get node {name} -o jsonpath={{.metadata.annotations.keystone/trust}}")


def assert_serves(rig: Rig) -> None:
    since = time.time()
    nodes.wait_ready(
        rig.machine("p1").host(), frozenset((*PRIMERS, WORKER)), since=since, seconds=900
    )
