"""All Primers are lost: the site comes back from a sealed backup and the bundle.

The tests run in the order of this file and share one lab. The worker is not lost: it must come back
without hands, with the certificates that it has.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from keystone import log, run
from keystone.backup import seal
from keystone.lab import demo, nodes

from . import rig as rigs
from .rig import Rig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from keystone.lab.carry import Carried

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

PRIMERS, WORKER = ("p1", "p2", "p3"), "w1"
PLACE, SITE = "/srv/backup", f"{demo.WORK}/site.yaml"
INSTALLED = "/var/lib/keystone/site.yaml"
WORDS = "the operator's own words"
FILE = f"{demo.WORK}/site.age"


@dataclass
class Operator:
    """What the operator keeps outside of the site."""

    folder: Path
    recipient: str = ""
    site: dict[str, object] = field(default_factory=dict)
    root: str = ""
    token: str = ""
    joined: str = ""

    @property
    def backup(self) -> Path:
        return self.folder / "site.age"


@pytest.fixture(scope="module")
def rig(bundle: Carried) -> Iterator[Rig]:
    with rigs.started("lost", bundle, PRIMERS, [WORKER]) as ready:
        yield ready


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Operator:
    made = Operator(tmp_path_factory.mktemp("operator"))
    made.recipient = seal.new_key(made.folder / "key", WORDS)
    return made


def test_site_with_backups_is_installed(rig: Rig, operator: Operator) -> None:
    document = demo.site_document(rig.lab, list(PRIMERS))
    spec = document["spec"]
    assert isinstance(spec, dict)
    spec["backup"] = {
        "recipients": [operator.recipient], "to": [{"path": PLACE}], "every": "1d", "keep": 2,
    }  # fmt: skip
    rig.sh("p1", f"mkdir -p {PLACE}")
    put(rig, "p1", SITE, json.dumps(document))
    done = rig.install("--yes")
    assert done.returncode == 0, done.stderr
    demo.join(rig.lab, WORKER)
    operator.root = json.loads(rig.sh("p1", "keystone-install trust show --json"))[0]["fingerprint"]
    operator.joined = rig.sh(WORKER, "cat /var/lib/kubelet/pki/kubelet-client-current.pem")


def test_timer_makes_the_backup_where_the_folder_is(rig: Rig) -> None:
    for name in PRIMERS:
        rig.sh(name, "systemctl start keystone-maintain.service")
    assert len(rig.sh("p1", f"ls {PLACE}").split()) == 1
    said = rig.sh("p2", "keystone-install maintain")
    assert "last good backup" in said + rig.sh("p2", "journalctl -u keystone-maintain -o cat")


def test_backup_is_made_of_this_moment(rig: Rig, operator: Operator) -> None:
    rig.kubectl("create configmap before-backup")
    rig.kubectl("create secret generic sealed --from-literal=word=plain-as-day")
    rig.kubectl("label node p2 operator=chose-this")
    operator.token = rig.kubectl("create token default --duration=24h").strip()
    rig.sh("p1", "keystone-install token create --role worker")
    rig.sh("p1", "keystone-install backup create")
    rig.kubectl("create configmap after-backup")
    newest = rig.sh("p1", f"ls {PLACE}").split()[-1]
    with operator.backup.open("wb") as sink:
        rig.machine("p1").host().run(["cat", f"{PLACE}/{newest}"], stdout=sink)
    assert b"PRIVATE KEY" not in operator.backup.read_bytes()


def test_all_primers_are_lost(rig: Rig, operator: Operator) -> None:
    rig.lab.up(list(PRIMERS), fresh=True)
    assert rig.sh("p1", "ls /var/lib/keystone 2>/dev/null || true") == ""
    demo.insert(rig.lab, rig.bundle)
    put(rig, "p1", "/root/.ssh/id_ed25519", rig.lab.key.read_text())
    put(rig, "p1", f"{demo.WORK}/words", WORDS)
    for source, target in ((operator.backup, FILE), (operator.folder / "key", f"{demo.WORK}/key")):
        with source.open("rb") as stream:
            rig.machine("p1").host().run(["sh", "-c", f"cat > {target}"], stdin=stream)


def test_damaged_file_and_another_site_are_refused(rig: Rig) -> None:
    rig.sh("p1", f"head -c -1000 {FILE} > {FILE}.cut")
    done = opening(rig, f"{FILE}.cut", "0" * 64)
    assert done.returncode == 5, done.stderr
    done = opening(rig, FILE, "0" * 64)
    assert done.returncode == 7, done.stderr
    assert "another site" in done.stderr
    assert (
        rig.sh("p1", "ls /var/lib/keystone/pki /var/lib/keystone/opened 2>/dev/null || true") == ""
    )


def test_site_comes_back_through_kills(rig: Rig, operator: Operator) -> None:
    began = time.monotonic()
    chance = random.Random(18)
    for _ in range(3):
        kill_opening(rig, operator.root, chance.uniform(0.5, 4))
    done = opening(rig, FILE, operator.root)
    assert done.returncode == 0, done.stderr
    rig.sh("p1", f"cp {INSTALLED} {SITE}")
    rigs.interrupt(rig, "etcd", "KILL")
    rigs.interrupt(rig, "control plane", "KILL")
    done = rig.install("--yes")
    assert done.returncode == 0, done.stderr
    log.info(f"all lost: back from the backup after {time.monotonic() - began:.0f} s")


def test_objects_of_the_backup_are_there(rig: Rig) -> None:
    names = rig.kubectl("get configmaps -o name")
    assert "before-backup" in names
    assert "after-backup" not in names
    word = rig.kubectl("get secret sealed -o 'jsonpath={.data.word}' | base64 -d")
    assert word == "plain-as-day"
    assert rig.kubectl("get node p2 -o 'jsonpath={.metadata.labels.operator}'") == "chose-this"


def test_authorities_and_tokens_are_the_same(rig: Rig, operator: Operator) -> None:
    rig.sh("p1", "keystone-install trust verify")
    assert operator.root in rig.sh("p1", "keystone-install trust show --json")
    put(rig, "p1", f"{demo.WORK}/token", operator.token)
    ca = "/etc/kubernetes/pki/ca.crt"
    # Without the kubeconfig, whose certificate would count before the token.
    who = "kubectl --kubeconfig /dev/null --server https://10.77.0.11:6443 auth whoami"
    who += f" --certificate-authority {ca} --token $(cat {demo.WORK}/token)"
    assert "system:serviceaccount:default:default" in rig.sh("p1", who)
    back = json.loads(rig.sh("p1", "keystone-install token list --json"))
    assert sorted(one["state"] for one in back) == ["open", "revoked"]


def test_worker_comes_back_with_its_own_certificate(rig: Rig, operator: Operator) -> None:
    now = time.time()
    host = rig.machine("p1").host()
    nodes.wait_ready(host, frozenset((*PRIMERS, WORKER)), since=now, seconds=900)
    assert rig.sh(WORKER, "cat /var/lib/kubelet/pki/kubelet-client-current.pem") == operator.joined


def test_nothing_is_left_to_do_and_nothing_lies_about(rig: Rig) -> None:
    done = rig.install("--plan")
    assert "Nothing to do" in done.stdout + done.stderr
    assert rig.sh("p1", "ls -d /var/lib/keystone/opened* 2>/dev/null || true") == ""
    states = [
        one["state"] for one in json.loads(rig.sh("p1", "keystone-install etcd status --json"))
    ]
    assert sorted(states) == ["follower", "follower", "leader"]


def test_maintenance_goes_on(rig: Rig) -> None:
    rig.sh("p1", f"mkdir -p {PLACE}")
    for name in PRIMERS:
        rig.sh(name, "systemctl start keystone-maintain.service")
    rig.sh("p1", "keystone-install backup create && keystone-install backup list")


def put(rig: Rig, name: str, path: str, text: str) -> None:
    script = f"umask 077; mkdir -p $(dirname {path}); cat > {path}"
    rig.machine(name).host().run(["sh", "-c", script], data=text)


def words(file: str, root: str) -> str:
    program = f"{demo.WORK}/keystone-install backup open {file} --key {demo.WORK}/key"
    return f"{program} --passphrase-file {demo.WORK}/words --site-root {root}"


def opening(rig: Rig, file: str, root: str) -> run.Result:
    return rig.machine("p1").host().run(["sh", "-c", words(file, root)], check=False, timeout=600)


def kill_opening(rig: Rig, root: str, seconds: float) -> None:
    script = f"timeout --signal KILL {seconds:.1f} {words(FILE, root)}; true"
    rig.sh("p1", script, check=False)
