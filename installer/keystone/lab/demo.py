"""`lab run`: the whole way, as an operator walks it, from nothing to a running cluster.

Build upstream's artefacts and the base image, lock and create the bundle from the production
definition, boot bare machines, carry the bundle to p1 on a USB stick, install, join the worker
with the one command that p1 prints, start a workload that answers across nodes, and show what
came out.
"""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING

from keystone import log
from keystone.errors import HostError
from keystone.lab import network, settings, summary, workload
from keystone.lab.carry import Carried, carry
from keystone.lab.machine import MEDIA
from keystone.lab.parts import Parts
from keystone.lab.screen import Screen, watching

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keystone.lab.machines import Lab

WORK = "/root/keystone"


def main(lab: Lab, machines: tuple[str, ...]) -> None:
    """Run all of it. Raises KeystoneError of whatever part fails; re-running goes on."""
    primers = [name for name in machines if name.startswith("p")]
    workers = [name for name in machines if name not in primers]
    joins = {name: f"join {name}" for name in workers}
    parts = ("bundle", "machines boot", "USB stick", "install", *joins.values(), "workload")
    taken = Parts()
    with watching(f"lab {lab.settings.name}", parts, lab.folder) as screen:
        with screen.part("bundle"):
            beside = {"base system": lab.system}
            bundle = carry(lab.folder, beside=beside, screen=screen, parts=taken)
        with screen.part("machines boot"):
            lab.up(machines)
        with screen.part("USB stick"):
            insert(lab, bundle)
            write_site(lab, primers)
        with screen.part("install"):
            install(lab, bundle, screen)
        for name, part in joins.items():
            with screen.part(part):
                join(lab, name, screen)
        with screen.part("workload"):
            workload.deploy(lab.machine("p1").host())
            answers = workload.answers(lab.machine("p1").host())
    taken.show("Bundle: what took how long")
    show(lab, screen, answers)


def insert(lab: Lab, bundle: Carried) -> None:
    """Plug the stick in, take the installer out, and compare it before it ever runs.

    The stick cannot vouch for the program on it: the digest came by another way.
    """
    p1 = lab.machine("p1")
    media = p1.carry_in([bundle.bundle])
    script = (
        f"mkdir -p {WORK} && cd {WORK} && tar -xf {media}/offline.tar keystone-install && "
        "sha256sum -c --quiet -"
    )
    line = f"{bundle.installer}  keystone-install\n"
    p1.host().run(["sh", "-c", script], data=line, timeout=900)


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
    """The lab's site: every Primer has etcd, store, registry and clock.

    On emulated machines one of them runs the control plane and is the only Primer with a kubelet:
    two cores bear no more (docs/measurements/lab.md). Containers have no disks: their
    site is one for trying.
    """
    container = lab.kind == "container"
    return {
        "apiVersion": "keystone/v1alpha1",
        "kind": "Site",
        "metadata": {"name": "lab"},
        "spec": {
            **({"trial": True, "storage": {"layout": "directory"}} if container else {}),
            "ssh": {"user": "root", "keyFile": "/root/.ssh/id_ed25519"},
            "networks": {"nodes": "10.77.0.0/24"},
            "patience": {"profile": "emulated" if lab.emulated else "normal"},
            "trust": {
                "rootKeyFile": f"{WORK}/lab-root.key",
                "passphraseFile": f"{WORK}/passphrase",
            },
            "primers": [_primer(lab, name, disks=not container) for name in primers],
        },
    }


def _primer(lab: Lab, name: str, *, disks: bool) -> dict[str, object]:
    machine, line = lab.machine(name).settings, lab.place.host_line(name)
    carries = name == "p1" or not lab.emulated
    return {
        "name": name,
        "address": str(machine.address),
        "hostKey": line,  # the lab gave it to the machine: nobody has to look at a console
        "controlPlane": carries,
        "kubelet": carries,
        **({"disks": [{"serial": serial} for serial in machine.serials]} if disks else {}),
    }


def install_argv(bundle: Carried, *extra: str) -> list[str]:
    """The main job, as typed on p1."""
    return [
        f"{WORK}/keystone-install",
        "--bundle", f"{MEDIA}/offline.tar",
        "--site", f"{WORK}/site.yaml",
        "--root-fingerprint", bundle.fingerprint,
        *extra,
    ]  # fmt: skip


def install(lab: Lab, bundle: Carried, screen: Screen) -> None:
    """Run the main job on p1, its output passed on. Raises HostError when it fails."""
    p1 = lab.machine("p1").host()
    command = screen.there(shlex.join(install_argv(bundle, "--yes")))
    code = screen.run([*p1.ssh_argv(), "--", command], who="p1")
    if code != 0:
        raise HostError(
            f"p1: keystone-install ended with exit code {code}",
            hint="look around with `keystone-install lab ssh p1`; `lab run` again goes on",
        )


def join(lab: Lab, name: str, screen: Screen | None = None) -> None:
    """Print a join command on p1 and run it on the worker, the token by a file.

    Pasted into a shell it is in no process list; as an argument of ssh it would be.
    screen: where what it says is shown; without one it is printed.
    """
    screen = screen or Screen(f"join {name}", ())
    argv = ["keystone-install", "token", "create", "--role", "worker", "--json"]
    answer = json.loads(lab.machine("p1").host().run(argv, timeout=900).stdout)
    worker = lab.machine(name).host()
    log.info(f"  {name}$ {answer['command']}")
    handed = "/root/handed"
    worker.run(["sh", "-c", f"umask 077; cat > {handed}"], data=f"{answer['token']}\n")
    command = screen.there(f"{answer['program']} < {handed}")
    code = screen.run([*worker.ssh_argv(), "--", command], who=name)
    worker.run(["rm", handed])
    if code != 0:
        raise HostError(f"{name}: the join command ended with exit code {code}")
    ready = ["kubectl", "wait", "--for=condition=Ready", f"node/{name}", "--timeout=1800s"]
    with log.step(f"{name}: becomes Ready"):
        lab.machine("p1").host().run(ready, timeout=2000)


def show(lab: Lab, screen: Screen, answers: Mapping[str, Sequence[str]]) -> None:
    """What a visitor wants to see first, and how to look around.

    answers: what the workload's pods on each node heard (workload.answers).
    """
    heard = [(node, " ".join(said[:-1]), said[-1]) for node, said in sorted(answers.items())]
    log.table(["a pod on", "hears, by address", "and by name"], heard, title="Workload")
    kubectl = ["kubectl", "get"]
    p1 = lab.machine("p1").host()
    summary.show(
        (
            p1.run([*kubectl, "nodes", "-o", "wide"]).stdout,
            p1.run([*kubectl, "pods", "-A", "-o", "wide"]).stdout,
        ),
        network.counters(lab.settings),
        screen.times(),
        summary.around(
            {machine.name: str(machine.settings.address) for machine in lab.made()},
            "p1",
            sys.argv[0],
            lab.settings.name if lab.settings.name != settings.load().name else "",
        ),
        kind=lab.kind,
    )
