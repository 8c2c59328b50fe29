"""`lab run`: the whole way, as an operator walks it, from nothing to a running cluster.

Build upstream's artefacts and the base image, lock and create the bundle from the production
definition, boot bare machines, carry the bundle to p1 on a USB stick, install, join the worker
with the one command that p1 prints, and show what came out.
"""

from __future__ import annotations

import json
import shlex
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from keystone import log, run
from keystone.errors import HostError
from keystone.lab import base, network
from keystone.lab.carry import Carried, carry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystone.lab.machines import Lab

MOUNT = "/media/keystone"
WORK = "/root/keystone"


@dataclass
class Times:
    """How long each part took, for the table at the end and for the README."""

    rows: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure one part of the run."""
        start = time.monotonic()
        with log.step(name):
            yield
        self.rows.append((name, time.monotonic() - start))

    def show(self) -> None:
        """The table, with the sum."""
        rows = [(name, log.duration(spent)) for name, spent in self.rows]
        rows.append(("all", log.duration(sum(spent for _, spent in self.rows))))
        log.table(["part", "time"], rows, title="Time")


def main(lab: Lab, machines: tuple[str, ...]) -> None:
    """Run all of it. Raises KeystoneError of whatever part fails; re-running goes on."""
    times = Times()
    with times.part("bundle: build, lock, create"):
        bundle = carry(lab.folder, beside={"base image": base.image})
    with times.part("machines: boot"):
        lab.up(machines)
    primers = [name for name in machines if name.startswith("p")]
    with times.part("USB stick: into p1"):
        insert(lab, bundle)
        write_site(lab, primers)
    with times.part("Primers: install"):
        install(lab, bundle)
    for name in machines:
        if name not in primers:
            with times.part(f"{name}: join"):
                join(lab, name)
    show(lab, times)


def insert(lab: Lab, bundle: Carried) -> None:
    """Plug the stick in, mount it read-only, and take the installer out of the bundle."""
    p1 = lab.machine("p1")
    p1.host().run(["sh", "-c", f"if mountpoint -q {MOUNT}; then umount {MOUNT}; fi"])
    p1.replug_usb(bundle.stick)
    script = (
        f"mkdir -p {MOUNT} {WORK} && "
        "udevadm wait --timeout=300 --initialized=true /dev/disk/by-label/KEYSTONE && "
        f"mount -o ro /dev/disk/by-label/KEYSTONE {MOUNT} && "
        f"tar -xf {MOUNT}/offline.tar -C {WORK} keystone-install"
    )
    p1.host().run(["sh", "-c", script], timeout=900)


def write_site(lab: Lab, primers: list[str]) -> None:
    """Give p1 the site file and the key with which it reaches the other Primers."""
    p1 = lab.machine("p1").host()
    document = json.dumps(site_document(lab, primers), indent=2)
    for path, text in (
        (f"{WORK}/site.yaml", document),
        (f"{WORK}/passphrase", "the lab's own passphrase, not a secret"),
        ("/root/.ssh/id_ed25519", lab.key.read_text()),
    ):
        p1.run(["sh", "-c", f"umask 077; mkdir -p /root/.ssh; cat > {path}"], data=text)


def site_document(lab: Lab, primers: list[str]) -> dict[str, object]:
    """The lab's site: every Primer has etcd, store, registry, clock and ZFS.

    On emulated machines one of them runs the control plane and is the only Primer with a kubelet:
    two cores bear no more (docs/guide/lab.md has the measurements).
    """
    emulated = not lab.kvm
    return {
        "apiVersion": "keystone/v1alpha1",
        "kind": "Site",
        "metadata": {"name": "lab"},
        "spec": {
            "ssh": {"user": "root", "keyFile": "/root/.ssh/id_ed25519"},
            "networks": {"nodes": "10.77.0.0/24"},
            "patience": {"profile": "emulated" if emulated else "normal"},
            "trust": {
                "rootKeyFile": f"{WORK}/lab-root.key",
                "passphraseFile": f"{WORK}/passphrase",
            },
            "primers": [
                {
                    "name": name,
                    "address": str(lab.machine(name).settings.address),
                    "disks": [{"serial": serial} for serial in lab.machine(name).settings.serials],
                    "controlPlane": name == "p1" or not emulated,
                    "kubelet": name == "p1" or not emulated,
                }
                for name in primers
            ],
        },
    }


def install_argv(bundle: Carried, *extra: str) -> list[str]:
    """The main job, as typed on p1."""
    return [
        f"{WORK}/keystone-install",
        "--bundle", f"{MOUNT}/offline.tar",
        "--site", f"{WORK}/site.yaml",
        "--root-fingerprint", bundle.fingerprint,
        *extra,
    ]  # fmt: skip


def install(lab: Lab, bundle: Carried) -> None:
    """Run the main job on p1, its output passed through. Raises HostError when it fails."""
    p1 = lab.machine("p1").host()
    code = run.attached([*p1.ssh_argv(), "--", shlex.join(install_argv(bundle, "--yes"))])
    if code != 0:
        raise HostError(
            f"p1: keystone-install ended with exit code {code}",
            hint="look around with `keystone-install lab ssh p1`; `lab run` again goes on",
        )


def join(lab: Lab, name: str) -> None:
    """Print a join command on p1 and run it, unchanged, on the worker."""
    argv = ["keystone-install", "token", "create", "--role", "worker", "--json"]
    answer = json.loads(lab.machine("p1").host().run(argv, timeout=900).stdout)
    worker = lab.machine(name).host()
    log.info(f"  {name}$ {answer['command']}")
    code = run.attached([*worker.ssh_argv(), "--", answer["command"]])
    if code != 0:
        raise HostError(f"{name}: the join command ended with exit code {code}")
    ready = ["kubectl", "wait", "--for=condition=Ready", f"node/{name}", "--timeout=1800s"]
    with log.step(f"{name}: becomes Ready"):
        lab.machine("p1").host().run(ready, timeout=2000)


def show(lab: Lab, times: Times) -> None:
    """What a visitor wants to see first, and how to look around."""
    kubectl = ["kubectl", "get"]
    p1 = lab.machine("p1").host()
    log.out(p1.run([*kubectl, "nodes", "-o", "wide"]).stdout)
    log.out(p1.run([*kubectl, "pods", "-A", "-o", "wide"]).stdout)
    leaks = network.counters(lab.settings)
    log.table(["counter", "packets"], sorted(leaks.items()), title="Packets that tried to get out")
    times.show()
    log.out(
        "Look around:\n"
        "  keystone-install lab ssh p1\n"
        "  keystone-install lab ssh p1 -- kubectl get pods -A\n"
        "  keystone-install lab status\n"
        "  make demo-down   removes it all"
    )
