"""A complete site of three Primers and two workers: refusals, an installation interrupted in every
phase, the same command again, joining workers, all functions of the cluster, and all machines off
at once.

The tests run in the order of this file and share one lab: each depends on the one before.
On containers by default; KEYSTONE_KIND=virtual runs the same on virtual machines (one API server
where they are emulated: docs/guide/lab.md).
"""

from __future__ import annotations

import json
import re
import shlex
import time
from typing import TYPE_CHECKING

import pytest

from keystone.errors import HostError
from keystone.lab import demo, nodes, workload
from keystone.lab.machines import saves
from keystone.lab.machines.machine import becomes

from . import rig as rigs
from .rig import KUBECTL, Rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keystone.lab.carry import Carried

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

PRIMERS = ("p1", "p2", "p3")
WORKERS = ("w1", "w2")
INTERRUPTIONS = {
    "trust": "KILL",
    "time": "KILL",
    "storage": "INT",
    "store": "KILL",
    "registry": "KILL",
    "etcd": "KILL",
    "join service": "KILL",
    "control plane": "KILL",
    "add-ons": "KILL",
    "seal": "KILL",
}
"""Phases in which the installer is interrupted, and the signal (INT is Ctrl-C). Each run gets
further than the last."""

WITHOUT_CERTIFICATE = """
import socket, ssl
context = ssl.create_default_context(cafile="/etc/etcd/pki/peer-ca.crt")
with socket.create_connection(("127.0.0.1", 2379), timeout=60) as plain:
    try:
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
            secure.sendall(b"GET /health HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
            print("answered:", secure.recv(100))
    except ssl.SSLError as error:
        print("refused:", error)
"""
"""In TLS 1.3 the server verifies the client's certificate after the client's handshake is done."""

VOLUME = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 64Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: keeper}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: keeper
      image: docker.io/library/busybox:1.37
      command: [sleep, "86400"]
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
"""


@pytest.fixture(scope="module")
def rig(bundle: Carried) -> Iterator[Rig]:
    with rigs.started("site", bundle, PRIMERS, WORKERS) as ready:
        yield ready


def untouched(rig: Rig) -> dict[str, str]:
    """Return the state of every Primer that a refusal must not change."""
    look = (
        "find /etc /usr /var/lib /opt -xdev -newer /proc/1 -type f -not -path '/var/lib/systemd/*' "
        "| sort; ls /var/lib/keystone 2>&1"
    )
    return {name: rig.sh(name, look, check=False) for name in PRIMERS}


def write(rig: Rig, name: str, change: Callable[[dict[str, object]], None]) -> str:
    """Write another site file on p1; return its path."""
    document = demo.site_document(rig.lab, list(PRIMERS))
    change(document["spec"])  # type: ignore[arg-type]
    path = f"{demo.WORK}/{name}.yaml"
    rig.machine("p1").host().run(["sh", "-c", f"cat > {path}"], data=json.dumps(document))
    return path


def test_all_unfit_hosts_are_named_together(rig: Rig) -> None:
    before = untouched(rig)
    listening = "exec python3 -m http.server 2379 >/dev/null 2>&1"
    rig.sh("p2", f"systemd-run --quiet --unit=squatter sh -c '{listening}'")
    assert becomes(lambda: "2379" in rig.sh("p2", "ss -Hltn 'sport = :2379'"), 60)
    rig.sh("p3", "cp /etc/machine-id /etc/machine-id.own")
    copied = rig.sh("p2", "cat /etc/machine-id")
    rig.machine("p3").host().run(["sh", "-c", "cat > /etc/machine-id"], data=copied)
    try:
        result = rig.install("--yes")
        assert result.returncode == 6, result.stderr
        for words in ("runs python3 on port 2379", "have the same machine-id"):
            assert words in result.stderr
    finally:
        rig.sh("p2", "systemctl stop squatter")
        rig.sh("p3", "cat /etc/machine-id.own > /etc/machine-id; rm /etc/machine-id.own")
    assert untouched(rig) == before


def test_host_of_another_cluster_is_refused(rig: Rig) -> None:
    rig.sh("p3", "mkdir -p /var/lib/etcd/member")
    result = rig.install("--yes")
    rig.sh("p3", "rm -r /var/lib/etcd")
    assert result.returncode == 7, result.stderr
    assert "p3: already belongs to a cluster: /var/lib/etcd/member" in result.stderr


def test_host_that_does_not_answer_is_named(rig: Rig) -> None:
    def dead(spec: dict[str, object]) -> None:
        spec["primers"][2]["address"] = "10.77.0.99"  # type: ignore[index]

    before = untouched(rig)
    result = rig.install("--yes", site=write(rig, "dead", dead))
    assert result.returncode == 8, result.stderr
    assert "10.77.0.99" in result.stderr
    assert untouched(rig) == before


def test_containers_without_disks_are_refused_by_a_production_site(rig: Rig) -> None:
    def production(spec: dict[str, object]) -> None:
        spec.pop("trial", None)
        spec.pop("storage", None)
        for primer in spec["primers"]:  # type: ignore[attr-defined]
            primer["disks"] = [{"serial": f"{primer['name']}{letter}"} for letter in "AB"]

    result = rig.install("--yes", site=write(rig, "production", production))
    assert result.returncode == 6, result.stderr
    assert "has no disk p1A" in result.stderr
    for name in PRIMERS if rigs.KIND == "container" else ():
        assert f"{name}: is a container" in result.stderr


@pytest.mark.parametrize(("phase", "signal"), INTERRUPTIONS.items())
def test_interrupted_run_can_be_repeated(rig: Rig, phase: str, signal: str) -> None:
    rigs.interrupt(rig, phase, signal)


def test_same_command_succeeds_after_all_interruptions(rig: Rig) -> None:
    result = rig.install("--yes")
    assert result.returncode == 0, result.stdout + result.stderr


def test_second_run_probes_once_and_changes_nothing(rig: Rig) -> None:
    logins = "journalctl -q -u ssh -o cat --grep 'Accepted publickey' | wc -l"
    before = {name: int(rig.sh(name, logins, check=False)) for name in PRIMERS[1:]}
    result = rig.install("--yes")
    assert result.returncode == 0, result.stderr
    assert "Nothing to do" in result.stderr
    for name, count in before.items():
        # One connection is the test's own, to count.
        assert int(rig.sh(name, logins)) - count <= 2


def test_etcd_is_healthy_and_refuses_clients_without_certificate(rig: Rig) -> None:
    pki = "/etc/etcd/pki"
    base = "etcdctl --endpoints https://127.0.0.1:2379"
    certs = f"--cacert {pki}/peer-ca.crt --cert {pki}/client.crt --key {pki}/client.key"
    health = rig.sh("p1", f"{base} {certs} --command-timeout=60s endpoint health --cluster -w json")
    assert [entry["health"] for entry in json.loads(health)] == [True] * 3
    bare = f"{base} --cacert {pki}/peer-ca.crt --command-timeout=5s endpoint health"
    assert rig.machine("p1").host().run(shlex.split(bare), check=False).returncode != 0
    output = rig.machine("p1").host().run(["python3", "-"], data=WITHOUT_CERTIFICATE).stdout
    assert "certificate required" in output.lower().replace("_", " ")


@pytest.mark.parametrize("name", WORKERS)
def test_worker_joins_by_one_command(rig: Rig, name: str) -> None:
    demo.join(rig.lab, name)
    assert name in ready(rig)


def test_every_machine_is_a_node(rig: Rig) -> None:
    carrying = PRIMERS if not rig.lab.emulated else PRIMERS[:1]  # demo.site_document
    assert ready(rig) == {*carrying, *WORKERS}


def ready(rig: Rig) -> frozenset[str]:
    """Return the nodes that are Ready."""
    return nodes.ready(rig.machine("p1").host())


def test_clock_of_a_worker_follows_a_primer(rig: Rig) -> None:
    for name in (*PRIMERS[1:], *WORKERS):
        rigs.assert_clock(rig, name)


def test_pods_on_all_nodes_reach_each_other_and_a_service_by_name(rig: Rig) -> None:
    host = rig.machine("p1").host()
    workload.deploy(host)
    assert_answers(rig)


def assert_answers(rig: Rig) -> None:
    there = ready(rig)
    answers = workload.answers(rig.machine("p1").host())
    assert set(answers) == there
    for heard in answers.values():
        assert set(heard[:-1]) == there
        assert heard[-1] in there


def test_etcd_has_no_secret_in_plain_text(rig: Rig) -> None:
    rig.kubectl("create secret generic sealed --from-literal=word=plain-as-day")
    etcdctl = "set -a; . /etc/etcd/etcdctl.env; etcdctl get /registry/secrets/ --prefix"
    keys = rig.sh("p1", f"{etcdctl} --keys-only").split()
    assert keys
    assert rig.sh("p1", f"{etcdctl} | grep -ac k8s:enc:secretbox:v1:key1:").strip() == str(
        len(keys)
    )
    assert rig.sh("p1", f"{etcdctl} | grep -ac plain-as-day || :").strip() == "0"
    rig.kubectl("delete secret sealed")
    for name in PRIMERS:
        assert "Metadata" in rig.sh(name, "head -n 1 /var/log/kubernetes/audit/audit.log")


def test_machines_resolve_primers_and_status_shows_the_site(rig: Rig) -> None:
    for name in (*PRIMERS, *WORKERS):
        found = rig.sh(name, "getent ahostsv4 p1 p2 p3")
        assert {f"10.77.0.1{n}" for n in (1, 2, 3)} <= set(found.split())
    assert rig.sh("p1", "keystone-install status").startswith("Site lab")


def test_first_primer_without_trust_tree_makes_no_new_authorities(rig: Rig) -> None:
    tree = "/var/lib/keystone/pki"
    anchors = {name: rig.sh(name, "cat /etc/keystone/pki/root.crt") for name in PRIMERS}
    rig.sh("p1", f"mv {tree} {tree}.away")
    try:
        result = rig.install("--yes")
        assert result.returncode == 7, result.stderr
        for name in PRIMERS:
            assert f"{name}: has the root of a site" in result.stderr
        assert rig.sh("p1", f"ls {tree} 2>/dev/null || :") == ""
        assert {name: rig.sh(name, "cat /etc/keystone/pki/root.crt") for name in PRIMERS} == anchors
    finally:
        rig.sh("p1", f"rm -rf {tree}; mv {tree}.away {tree}")


def test_primer_with_another_kubernetes_is_refused_with_both_versions(rig: Rig) -> None:
    """With kubelet stopped, only the manifest changes; the API server keeps running."""
    manifest, image = "/etc/kubernetes/manifests/kube-apiserver.yaml", "kube-apiserver:v"
    ours = rig.sh("p3", f"grep -o '{image}[0-9.]*' {manifest}").strip().removeprefix(image)
    rig.sh("p3", "systemctl stop kubelet")
    rig.sh("p3", f"cp -p {manifest} /root/; sed -i 's/{image}[0-9.]*/{image}1.36.3/' {manifest}")
    try:
        result = rig.install("--yes")
        assert result.returncode == 6, result.stderr
        assert f"p3: runs Kubernetes 1.36.3, but the bundle has {ours}" in result.stderr
    finally:
        rig.sh("p3", f"mv /root/kube-apiserver.yaml {manifest}; systemctl start kubelet")
    assert becomes(lambda: ready(rig) >= set(PRIMERS), 600)


def apply(rig: Rig, manifest: str) -> None:
    rig.machine("p1").host().run(["sh", "-c", f"{KUBECTL} apply -f -"], data=manifest, timeout=600)


def test_volume_keeps_its_file_when_the_pod_is_recreated(rig: Rig) -> None:
    apply(rig, VOLUME)
    rig.kubectl("wait --for=condition=Ready pod/keeper --timeout=1200s")
    rig.kubectl("exec keeper -- sh -c 'echo kept > /data/file && sync'")
    rig.kubectl("delete pod keeper --wait --timeout=600s --grace-period=1")
    apply(rig, VOLUME)
    rig.kubectl("wait --for=condition=Ready pod/keeper --timeout=1200s")
    assert rig.kubectl("exec keeper -- cat /data/file").strip() == "kept"
    volume = json.loads(rig.kubectl("get pv -o json"))["items"][0]
    path = next(
        volume["spec"][kind]["path"] for kind in ("hostPath", "local") if kind in volume["spec"]
    )
    place = next(iter(volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]))
    node = place["matchExpressions"][0]["values"][0]
    file_system = rig.sh(node, f"stat -fc %T {path}").strip()
    assert (file_system == "zfs") == (rigs.KIND == "virtual")


def test_no_packet_leaked(rig: Rig) -> None:
    rigs.assert_no_leak(rig)


def test_api_answers_while_a_primer_is_off_until_it_is_back(rig: Rig) -> None:
    gone = "p3" if rig.lab.emulated else "p2"  # emulated, p1 has the one API server
    there = ready(rig)
    rig.machine(gone).power_cut()
    # haproxy drops an API server after three checks: until then every third request may reach it.
    assert becomes(lambda: seen(rig) == there - {gone}, 1200)
    start = time.time()
    rig.lab.up([gone])
    nodes.wait_ready(rig.machine("p1").host(), there, since=start)


def seen(rig: Rig) -> frozenset[str]:
    """Return the nodes that are Ready; none if the request failed."""
    try:
        return ready(rig)
    except HostError:
        return frozenset()


def test_site_recovers_after_all_machines_were_off(rig: Rig) -> None:
    before = ready(rig)
    saves.save(rig.lab, "whole")
    off = (rig.lab.folder / "saves/whole/save.json").stat().st_mtime
    assert_recovers(rig, before, off)


def test_saved_site_is_restored_unchanged(rig: Rig) -> None:
    before, start = ready(rig), time.time()
    rig.kubectl("create configmap later")
    saves.restore(rig.lab, "whole")
    assert_recovers(rig, before, start)
    assert "later" not in rig.kubectl("get configmaps")


def assert_recovers(rig: Rig, expected: frozenset[str], since: float) -> None:
    """Assert that nodes, quorum, workload and volume recover, and nothing needs installing."""
    nodes.wait_ready(rig.machine("p1").host(), expected, since=since)
    # The API shows old states of pods for a while: a check may find one that does not run yet.
    assert becomes(lambda: is_true(lambda: assert_serves(rig)), 1200)
    demo.insert(rig.lab, rig.bundle)
    result = rig.install("--yes")
    assert result.returncode == 0, result.stderr
    # A pod of the platform may still be starting: the run waits for it, and changes nothing.
    begun = re.findall(r"^· \[\d+/\d+\] ([a-z -]+):", result.stderr, re.MULTILINE)
    assert "Nothing to do" in result.stderr or begun == ["verify"], result.stderr
    rigs.assert_no_leak(rig)


def assert_serves(rig: Rig) -> None:
    """Assert that the workload answers on every node and the volume has its file."""
    workload.deploy(rig.machine("p1").host())
    assert_answers(rig)
    assert rig.kubectl("exec keeper -- cat /data/file").strip() == "kept"


def is_true(check: Callable[[], None]) -> bool:
    """True if a check passes now."""
    try:
        check()
    except (AssertionError, HostError):
        return False
    return True
