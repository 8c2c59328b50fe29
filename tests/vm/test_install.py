"""The main job on real machines: refusals first, then an installation that is killed again and
again, then everything that the cluster which came out must be able to do.

The tests run in the order of this file and share one lab: each looks at what the one before left.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keystone import run
from keystone.errors import InterruptedRunError
from keystone.lab import demo, network
from keystone.lab.carry import Carried, carry
from keystone.lab.machines import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystone.lab.machines import Machine

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

PRIMERS = ("p1", "p2", "p3")
KUBECTL = "kubectl --kubeconfig /etc/kubernetes/admin.conf --request-timeout=120s"
CUTS = {"trust": "KILL", "time": "KILL", "storage": "INT", "store": "KILL", "etcd": "KILL",
        "control plane": "KILL"}  # fmt: skip
"""Phases in the middle of which the installer is cut, and how; INT is what Ctrl-C sends. Each run
goes further than the last."""
NVME = "/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_"
FOREIGN_POOL = Path(__file__).with_name("foreign_pool.py").read_text()
PARTITION_TABLE = (
    "import struct, sys\n"
    "with open(sys.argv[1], 'r+b') as disk:\n"
    "    disk.seek(446)\n"
    "    disk.write(struct.pack('<B3sB3sII', 0, bytes(3), 0x83, bytes(3), 2048, 65536))\n"
    "    disk.seek(510)\n"
    "    disk.write(b'\\x55\\xaa')\n"
)
"""A master boot record with one Linux partition."""


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
"""In TLS 1.3 the server asks for the certificate after the client believes itself connected."""


@dataclass(frozen=True)
class Rig:
    """The machines, the bundle on its stick, and how to type things on p1."""

    lab: Lab
    bundle: Carried

    def machine(self, name: str) -> Machine:
        return self.lab.machine(name)

    def sh(self, name: str, script: str, *, check: bool = True, timeout: float = 900) -> str:
        host = self.machine(name).host()
        return host.run(["sh", "-ec", script], check=check, timeout=timeout).stdout

    def kubectl(self, words: str, *, check: bool = True) -> str:
        return self.sh("p1", f"{KUBECTL} {words}", check=check)

    def install(self, *extra: str, site: str = f"{demo.WORK}/site.yaml") -> run.Result:
        argv = [w if w != f"{demo.WORK}/site.yaml" else site
                for w in demo.install_argv(self.bundle, *extra)]  # fmt: skip
        return self.machine("p1").host().run(argv, check=False, timeout=3500)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    lab = Lab("install")
    keep = "KEYSTONE_KEEP_LAB" in os.environ  # to try one test again on the machines that are there
    if not keep:
        lab.down(purge=True)
    bundle = carry(Lab("").folder)  # the demo's own bundle, when it is there
    try:
        lab.up([*PRIMERS, "w1"])
        demo.insert(lab, bundle)
        demo.write_site(lab, list(PRIMERS))
        yield Rig(lab, bundle)
    finally:
        if not keep:
            lab.down(purge=True)


def untouched(rig: Rig) -> dict[str, str]:
    """What a refusal must leave as it was, on every Primer."""
    look = (
        "find /etc /usr /var/lib /opt -xdev -newer /proc/1 -type f -not -path '/var/lib/systemd/*' "
        "| sort; lsblk -no NAME,FSTYPE,PTTYPE; ls /var/lib/keystone 2>&1"
    )
    return {name: rig.sh(name, look, check=False) for name in PRIMERS}


def test_disks_that_hold_something_are_refused_by_serial(rig: Rig) -> None:
    rig.machine("p1").host().run(["python3", "-", f"{NVME}KEYP1B"], data=PARTITION_TABLE)
    rig.sh("p1", f"blockdev --rereadpt {NVME}KEYP1B; udevadm settle")
    rig.sh("p2", f"mkfs.ext4 -q -F {NVME}KEYP2A 64M")
    rig.machine("p3").host().run(["python3", "-", f"{NVME}KEYP3B"], data=FOREIGN_POOL)
    rig.sh("p3", "udevadm trigger --subsystem-match=block && udevadm settle --timeout=60")
    before = untouched(rig)
    result = rig.install("--yes")
    said = result.stdout + result.stderr
    assert result.returncode == 7, said
    for serial in ("KEYP1B", "KEYP2A", "KEYP3B"):
        assert serial in said
    assert "ext4" in said
    assert "dos" in said
    assert "theirs" in said
    assert untouched(rig) == before
    for name, serial in (("p1", "KEYP1B"), ("p2", "KEYP2A"), ("p3", "KEYP3B")):
        rig.sh(
            name,
            f"wipefs -qa {NVME}{serial}; blockdev --rereadpt {NVME}{serial} || :; "
            f"dd if=/dev/zero of={NVME}{serial} bs=1M count=8 status=none; udevadm settle",
        )


def test_hosts_that_are_not_fit_are_named_all_at_once(rig: Rig) -> None:
    rig.sh(
        "p2",
        "dd if=/dev/zero of=/swap bs=1M count=64 status=none; chmod 600 /swap; "
        "mkswap -q /swap; swapon /swap; "
        "fallocate -l $(($(stat -fc '%a*%S' /) - 100 * 1024 * 1024)) /fill",
    )
    rig.sh("p3", "date -s '+1 year'")
    document = demo.site_document(rig.lab, list(PRIMERS))
    document["spec"]["primers"][1]["controlPlane"] = True  # type: ignore[index]
    rig.machine("p1").host().run(["sh", "-c", "cat > /root/big.yaml"], data=json.dumps(document))
    try:
        before = untouched(rig)
        result = rig.install("--yes", site="/root/big.yaml")
        said = result.stdout + result.stderr
        assert result.returncode == 6, said
        for word in ("swap", "memory", "clock", "free"):
            assert word in said, f"{word} is not named in: {said}"
        assert untouched(rig) == before
    finally:
        rig.sh("p2", "swapoff -a; rm -f /swap /fill")
        rig.sh("p3", "date -s '-1 year'")


def test_a_host_that_does_not_answer_is_named(rig: Rig) -> None:
    document = json.dumps(demo.site_document(rig.lab, list(PRIMERS)))
    other = document.replace("10.77.0.13", "10.77.0.99")
    rig.machine("p1").host().run(["sh", "-c", "cat > /root/dead.yaml"], data=other)
    before = untouched(rig)
    result = rig.install("--yes", site="/root/dead.yaml")
    assert result.returncode == 8, result.stderr
    assert "10.77.0.99" in result.stderr
    assert untouched(rig) == before


@pytest.mark.parametrize(("phase", "signal"), CUTS.items())
def test_a_run_that_is_cut(rig: Rig, phase: str, signal: str) -> None:
    """In the middle of the phase: a moment after its first change began."""
    host = rig.machine("p1").host()
    argv = demo.install_argv(rig.bundle, "--yes", "--log-format", "json")
    seen, inside = [], False
    with run.spawned(
        [*host.ssh_argv(), "--", f"{shlex.join(argv)} 2>&1"], stdout=run.PIPE
    ) as process:
        assert process.stdout is not None
        for raw in process.stdout:
            seen.append(raw.decode(errors="replace"))
            started = re.search(r"\[\d+/\d+\] ([a-z -]+): ", seen[-1])
            if inside or (started and started[1] == phase and '"start"' in seen[-1]):
                # The first task has ended, or the phase has one action only: it is under way.
                if inside or phase == "store":
                    rig.sh("p1", f"kill -{signal} $(cat /run/keystone-install.lock)")
                    break
                inside = True
        else:
            pytest.fail(f"phase {phase} never began:\n{''.join(seen[-30:])}")
        if signal == "INT":
            rest = process.stdout.read().decode(errors="replace")
            assert process.wait() == InterruptedRunError.exit_code, rest
            assert "run the same command again" in rest
            assert "Traceback" not in rest


def test_after_all_that_the_same_command_ends_well(rig: Rig) -> None:
    result = rig.install("--yes")
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_same_command_again_changes_nothing_and_says_so(rig: Rig) -> None:
    result = rig.install("--yes")
    assert result.returncode == 0, result.stderr
    assert "Nothing to do" in result.stderr


def test_the_worker_joins_by_one_command(rig: Rig) -> None:
    demo.join(rig.lab, "w1")
    nodes = json.loads(rig.kubectl("get nodes -o json"))["items"]
    assert {node["metadata"]["name"] for node in nodes} == {"p1", "w1"}


def test_three_etcd_members_healthy_over_tls_and_nobody_without_a_certificate(rig: Rig) -> None:
    pki = "/etc/etcd/pki"
    base = "etcdctl --endpoints https://127.0.0.1:2379 --command-timeout=60s"
    certs = f"--cacert {pki}/peer-ca.crt --cert {pki}/client.crt --key {pki}/client.key"
    health = rig.sh("p1", f"{base} {certs} endpoint health --cluster -w json")
    assert [entry["health"] for entry in json.loads(health)] == [True] * 3
    bare = f"{base} --cacert {pki}/peer-ca.crt endpoint health"
    assert rig.machine("p1").host().run(shlex.split(bare), check=False).returncode != 0
    said = rig.machine("p1").host().run(["python3", "-"], data=WITHOUT_CERTIFICATE).stdout
    assert "certificate required" in said.lower().replace("_", " ")


@pytest.mark.parametrize("name", PRIMERS)
def test_the_pool_is_online_by_id_with_ashift_12(rig: Rig, name: str) -> None:
    status = json.loads(rig.sh(name, "zpool status -jP --json-int keystone"))["pools"]["keystone"]
    assert status["state"] == "ONLINE"
    text = rig.sh(name, "zpool status -P keystone")
    for serial in rig.machine(name).settings.serials:
        assert f"{NVME}{serial}" in text
    assert rig.sh(name, "zpool get -Hpo value ashift keystone").strip() == "12"
    assert "mirror-0" in text


def test_clocks_are_fed_by_the_primers(rig: Rig) -> None:
    for name in ("p2", "p3", "w1"):
        rig.sh(name, "chronyc -n waitsync 60 0 0 10", timeout=900)
        assert "10.77.0.1" in rig.sh(name, "chronyc -n -c tracking")


DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: DoNotSchedule
          labelSelector: {matchLabels: {app: web}}
      containers:
        - name: web
          image: docker.io/library/busybox:1.37
          imagePullPolicy: Always
          command: [sh, -c, "hostname > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"""

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
  containers:
    - name: keeper
      image: docker.io/library/busybox:1.37
      command: [sleep, "86400"]
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
"""


def apply(rig: Rig, manifest: str) -> None:
    rig.machine("p1").host().run(["sh", "-c", f"{KUBECTL} apply -f -"], data=manifest, timeout=600)


def test_pods_on_two_nodes_reach_each_other_and_a_service_by_name(rig: Rig) -> None:
    # Both at once: an emulated machine waits more than it works while a pod starts.
    apply(rig, f"{DEPLOYMENT}---{VOLUME}")
    rig.kubectl("rollout status deployment/web --timeout=1200s")
    pods = json.loads(rig.kubectl("get pods -l app=web -o json"))["items"]
    places = {pod["spec"]["nodeName"]: pod for pod in pods}
    assert len(places) == 2
    one, other = pods
    fetch = f"exec {one['metadata']['name']} -- wget -T 60 -qO-"
    assert other["metadata"]["name"] in rig.kubectl(
        f"{fetch} http://{other['status']['podIP']}:8080/"
    )
    names = {pod["metadata"]["name"] for pod in pods}
    assert rig.kubectl(f"{fetch} http://web.default.svc.cluster.local/").strip() in names


def test_a_volume_on_zfs_keeps_its_file_when_the_pod_is_recreated(rig: Rig) -> None:
    apply(rig, VOLUME)  # nothing new when the test before ran
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
    assert rig.sh("p1", f"stat -fc %T {path}").strip() == "zfs"


def test_nothing_tried_to_get_out(rig: Rig) -> None:
    counters = network.counters(rig.lab.settings)
    assert counters["declared"] > 0, "the counters count"
    leaks = {name: counters[name] for name in network.LEAKS}
    assert leaks == dict.fromkeys(network.LEAKS, 0), network.leaked(rig.lab.settings)
