"""The main job on real machines, from blank disks to pods: an installation that is killed, the same
command again, a worker that joins, then everything that the cluster must be able to do.

The tests run in the order of this file and share one lab: each looks at what the one before left.
One Primer and one worker: emulated on two cores, two more members of a quorum take as much of the
processors as the API server (docs/guide/lab.md). `test_quorum.py` has three of them up to where the
quorum stands, and KEYSTONE_PRIMERS="p1 p2 p3" runs all of this with three.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from keystone.lab import demo

from . import rig as rigs
from .rig import KUBECTL, Rig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystone.lab.carry import Carried

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

PRIMERS = tuple(os.environ.get("KEYSTONE_PRIMERS", "p1").split())
CUTS = {"control plane": "KILL"}
"""Phases in the middle of which the installer is cut, and how; `test_quorum.py` has others."""


@pytest.fixture(scope="module")
def rig(bundle: Carried) -> Iterator[Rig]:
    with rigs.started("install", bundle, PRIMERS, ["w1"]) as ready:
        yield ready


@pytest.fixture(scope="module")
def worker() -> str:
    """The worker's name, where there is time for it.

    CI ends after 90 minutes whatever it did, and its host takes up to half of the processors away:
    KEYSTONE_WORKER_UNTIL (Unix seconds) is when what the worker takes would no longer end in
    time. Then these tests are not run, and the end of the report says so.
    """
    until = float(os.environ.get("KEYSTONE_WORKER_UNTIL", "inf"))
    if time.time() > until:
        pytest.skip("NOT RUN: no time is left for the worker; `make test-lab` has no such limit")
    return "w1"


@pytest.mark.parametrize(("phase", "signal"), CUTS.items())
def test_a_run_that_is_cut(rig: Rig, phase: str, signal: str) -> None:
    rigs.cut(rig, phase, signal)


def test_after_all_that_the_same_command_ends_well(rig: Rig) -> None:
    result = rig.install("--yes")
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_same_command_again_changes_nothing_and_says_so(rig: Rig) -> None:
    result = rig.install("--yes")
    assert result.returncode == 0, result.stderr
    assert "Nothing to do" in result.stderr


def test_the_worker_joins_by_one_command(rig: Rig, worker: str) -> None:
    demo.join(rig.lab, worker)
    nodes = json.loads(rig.kubectl("get nodes -o json"))["items"]
    carrying = PRIMERS if rig.lab.kvm else PRIMERS[:1]  # demo.site_document
    assert {node["metadata"]["name"] for node in nodes} == {*carrying, worker}


@pytest.mark.parametrize("name", PRIMERS)
def test_the_pool_is_online_by_id_with_ashift_12(rig: Rig, name: str) -> None:
    rigs.assert_pool(rig, name)


def test_the_clock_is_fed_by_a_primer(rig: Rig, worker: str) -> None:
    rigs.assert_clock(rig, worker)


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


@pytest.mark.usefixtures("worker")
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
    rigs.assert_no_leak(rig)
