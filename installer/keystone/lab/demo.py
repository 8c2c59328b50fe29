"""`lab run`: install a complete cluster as an operator does, starting from nothing.

Build upstream's artefacts and the base image, lock and create the bundle from the production
definition, boot bare machines, plug a USB stick with the bundle into p1, install, join the workers
with the command that p1 prints, start a workload that answers across nodes, and show the result.
"""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING

from keystone import log
from keystone.errors import HostError
from keystone.lab import settings, summary, workload
from keystone.lab.carry import Carried, carry
from keystone.lab.machines import network
from keystone.lab.machines.machine import MEDIA
from keystone.lab.parts import Parts
from keystone.lab.screen.live import Screen, watching

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keystone.lab.machines.lab import Lab

WORK = "/root/keystone"


def main(lab: Lab, machines: tuple[str, ...]) -> None:
    """Run the demo. Raises KeystoneError if a part fails; a repeated run continues."""
    primers = [name for name in machines if name.startswith("p")]
    workers = [name for name in machines if name not in primers]
    joins = {name: f"join {name}" for name in workers}
    parts = ("bundle", "machines boot", "USB stick", "install", *joins.values(), "workload")
    durations = Parts()
    with watching(f"lab {lab.settings.name}", parts, lab.folder) as screen:
        with screen.part("bundle"):
            beside = {"base system": lab.system}
            bundle = carry(lab.folder, beside=beside, screen=screen, parts=durations)
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
    durations.show("Times of the bundle")
    show(lab, screen, answers)


def insert(lab: Lab, bundle: Carried) -> None:
    """Plug the stick in, extract the installer, and verify its digest before it is run.

    The stick cannot vouch for the program on it: the digest comes out of band.
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
    """Give p1 the site file, and the SSH key for the other Primers."""
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

    With emulated machines, only p1 runs the control plane and a kubelet: two cores cannot carry
    more (docs/measurements/lab.md). Containers have no disks, so their site is a trial site.
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
        "hostKey": line,  # set by the lab: no comparison at a console needed
        "controlPlane": carries,
        "kubelet": carries,
        **({"disks": [{"serial": serial} for serial in machine.serials]} if disks else {}),
    }


def install_argv(bundle: Carried, *extra: str) -> list[str]:
    """The command line of the installation, as typed on p1."""
    return [
        f"{WORK}/keystone-install",
        "--bundle", f"{MEDIA}/offline.tar",
        "--site", f"{WORK}/site.yaml",
        "--root-fingerprint", bundle.fingerprint,
        *extra,
    ]  # fmt: skip


def install(lab: Lab, bundle: Carried, screen: Screen) -> None:
    """Run the installation on p1 and show its output. Raises HostError if it fails."""
    p1 = lab.machine("p1").host()
    command = screen.remote_command(shlex.join(install_argv(bundle, "--yes")))
    code = screen.run([*p1.ssh_argv(), "--", command], who="p1")
    if code != 0:
        raise HostError(
            f"p1: keystone-install failed with exit code {code}",
            hint="look into p1 with `keystone-install lab ssh p1`; `lab run` continues",
        )


def join(lab: Lab, name: str, screen: Screen | None = None) -> None:
    """Print a join command on p1 and run it on the worker, with the token in a file.

    As an argument of ssh the token would be in a process list; pasted into a shell it is not.
    screen: where the output is shown; without one it is printed.
    """
    screen = screen or Screen(f"join {name}", ())
    argv = ["keystone-install", "token", "create", "--role", "worker", "--json"]
    answer = json.loads(lab.machine("p1").host().run(argv, timeout=900).stdout)
    worker = lab.machine(name).host()
    log.info(f"  {name}$ {answer['command']}")
    token_file = "/root/join-token"  # noqa: S105 a path
    worker.run(["sh", "-c", f"umask 077; cat > {token_file}"], data=f"{answer['token']}\n")
    command = screen.remote_command(f"{answer['program']} < {token_file}")
    code = screen.run([*worker.ssh_argv(), "--", command], who=name)
    worker.run(["rm", token_file])
    if code != 0:
        raise HostError(f"{name}: the join command failed with exit code {code}")
    ready = ["kubectl", "wait", "--for=condition=Ready", f"node/{name}", "--timeout=1800s"]
    with log.step(f"{name}: wait until Ready"):
        lab.machine("p1").host().run(ready, timeout=2000)


def show(lab: Lab, screen: Screen, answers: Mapping[str, Sequence[str]]) -> None:
    """Print the state of the cluster, leaks, times, and commands to look around with.

    answers: by node, which nodes answered the workload's pod there (workload.answers).
    """
    rows = [(node, " ".join(nodes[:-1]), nodes[-1]) for node, nodes in sorted(answers.items())]
    log.table(["pod on", "answers by address", "answer by name"], rows, title="Workload")
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
