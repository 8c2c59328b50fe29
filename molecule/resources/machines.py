"""Lab machines for Molecule: boot them, and prepare the state that a role expects.

Called by the playbooks beside it:

    machines.py up p1 w1         boot; prints Molecule's instance config (JSON is YAML)
    machines.py lay node p1 w1   make bundle, keys, variables; copy installer and seed to machines
    machines.py store w1         a step: bring the bundle into the machine's store
    machines.py identity w1      a step: give the machine its node identity, signed on p1
    machines.py down             stop and remove the machines

KEYSTONE_KIND is the kind of machines: container (the default) or virtual. Variables come from
keystone.ansible.roles, as in an installation, and are written to
<ephemeral directory>/vars/<machine>.json.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import log
from keystone.ansible import playbook
from keystone.ansible.roles import variables
from keystone.ansible.roles.endpoint import SITE_CA
from keystone.bundle.read.bundle import open_verified
from keystone.cluster.context import Context
from keystone.cluster.join_config import Config
from keystone.install.actions import INSTALLER, SEED, PushInstaller, World
from keystone.join import cluster
from keystone.join.server import WORKER_ROLES, worker_roles
from keystone.lab.carry import carry
from keystone.lab.demo import site_document
from keystone.lab.machines.lab import Lab
from keystone.lab.machines.machine import RUN
from keystone.pki import host_files
from keystone.pki import tree as pki
from keystone.run import run
from keystone.site import model as site

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keystone.bundle.read.bundle import Bundle
    from keystone.install.state import State
    from keystone.lab.machines.machine import Machine
    from keystone.site.model import Site

NAME = "molecule"
PASSPHRASE = "the lab's own passphrase, not a secret"
FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
STEPS = ("store", "identity")
"""Steps that are not roles: actions that the engine applies between roles."""
NEEDS: Mapping[str, tuple[str, ...]] = {
    "trust": (),
    "names": (),
    "seed": (),
    "time": ("seed",),
    "storage": ("seed",),
    "store": ("storage",),
    "registry": ("trust", "store"),
    "mirror": ("trust", "store"),
    "etcd": ("trust", "store"),
    "join": ("mirror",),
    "kernel": (),
    "containerd": ("kernel", "registry"),
    "endpoint": ("trust", "store"),
    "control_plane": ("time", "containerd", "endpoint", "etcd"),
    "addons": ("control_plane",),
    "seal": ("trust", "store"),
    "maintain": ("etcd",),
}
"""The roles and steps that a role needs on its Primer, in the order of keystone.install.phases."""
BESIDE = {"packages": ("mirror",), "follow": ("mirror", "addons"), "node": ("mirror", "addons")}
"""For roles of workers: the roles that a Primer beside the worker needs."""


def up_to(*last: str) -> list[str]:
    """Return those roles and all roles and steps that they need, in order."""
    wanted = set(last)
    for name in reversed(NEEDS):
        if name in wanted:
            wanted.update(NEEDS[name])
    return [name for name in NEEDS if name in wanted]


def before_on_worker(role: str) -> list[str]:
    """Return the steps on a worker, as in a join. A store replaces what a worker would fetch."""
    roles = list(WORKER_ROLES[: WORKER_ROLES.index(role)])
    return ["store", *roles, "identity"] if roles else []


def steps(scenario: str, name: str) -> list[str]:
    """Return the steps on a machine before the scenario's role is converged."""
    if not is_primer(name):
        return before_on_worker(scenario)
    return up_to(*BESIDE[scenario]) if scenario in BESIDE else up_to(scenario)[:-1]


def is_primer(name: str) -> bool:
    """True for the lab's names of Primers: p1, p2, p3; workers are w1 and w2."""
    return name.startswith("p")


def up(names: list[str]) -> None:
    """Remove machines of an earlier run, boot new ones, and print how to reach them."""
    down()
    lab = Lab(NAME, kind=os.environ.get("KEYSTONE_KIND", "container"))
    lab.up(names)
    log.out_json(
        [
            {
                "instance": name,
                "address": str(lab.machine(name).settings.address),
                "user": "root",
                "port": "22",
                "identity_file": str(lab.key),
            }
            for name in names
        ]
    )


def down() -> None:
    """Remove the machines and their data, and close ssh's connections to them."""
    for socket in RUN.glob(f"{NAME}-*"):
        run(["ssh", "-F", "none", "-O", "exit", "-o", f"ControlPath={socket}", NAME], check=False)
    Lab(NAME).down(purge=True)


def lay(scenario: str, names: list[str]) -> None:
    """Prepare everything that must exist before the first role runs."""
    lab = Lab(NAME)
    made = carry(Lab().folder)  # the demo's own, so that it is made once
    scratch("carried.json").write_text(json.dumps(asdict(made), default=str))
    opened = open_verified(made.bundle, fingerprint=made.fingerprint, confirm=lambda _: False)
    wanted = written_site(lab, [name for name in names if is_primer(name)])
    directory = lab.folder / "pki"
    pki.init(wanted, directory, lab.folder / "root.key", PASSPHRASE)
    scratch("vars").mkdir(mode=0o700, exist_ok=True)
    for machine in lab.machines(names):
        todo = steps(scenario, machine.name)
        beside = scenario in BESIDE and is_primer(machine.name)
        roles = [step for step in (*todo, *([] if beside else [scenario])) if step not in STEPS]
        values: dict[str, object] = {
            "molecule_steps": todo,
            "molecule_by_engine": STEPS,
            "molecule_beside": beside,
        }
        values |= variables_of(wanted, opened, machine, roles, directory)
        write(machine.name, {name: playbook.as_data(value) for name, value in values.items()})
        push(opened, machine)
        if not is_primer(machine.name):
            place_ca(machine, directory)


def written_site(lab: Lab, primers: list[str]) -> Site:
    """Write the lab's site file, and read it as an operator's."""
    path = lab.folder / "site.yaml"
    path.write_text(json.dumps(site_document(lab, primers)))
    return site.load(path)


def variables_of(
    wanted: Site, opened: Bundle, machine: Machine, roles: Sequence[str], directory: Path
) -> dict[str, object]:
    """Return the variables of those roles, with the digests of their inputs."""
    if is_primer(machine.name):
        (node,) = (node for node in wanted.primers if node.name == machine.name)
        starts = node == wanted.control_planes[0]
        context = Context(wanted, node, opened.manifest, starts_cluster=starts)
        found = {role: variables(role, context) for role in roles}
    else:
        config = Config(wanted, opened.manifest, wanted.primers[0])
        found = worker_roles(config, machine.name, machine.settings.address, tuple(roles))
    if "trust" in found:
        (node,) = (node for node in wanted.primers if node.name == machine.name)
        digest = host_files.wanted(directory, wanted, node)
        # In an installation the controller is the first Primer; here it is this machine.
        source = host_files.deployment_file(directory, machine.name)
        found["trust"] |= {"trust_digest": digest, "trust_source": str(source)}
    values: dict[str, object] = {}
    for role, given in found.items():
        values |= given | {f"{role}_inputs": playbook.inputs(role, given)}
    return values


def push(opened: Bundle, machine: Machine) -> None:
    """Copy the installer and the packages that are needed before the store exists."""
    host = machine.host()
    world = World(opened, {host.name: host}, passphrase=lambda: PASSPHRASE, observe=_unobserved)
    PushInstaller((host.name,)).apply(world)
    kernel = host.run(["uname", "-r"]).stdout.strip()
    host.run(["mkdir", "-p", SEED])
    with opened.seed_archive(kernel) as archive:
        host.run(["tar", "-xf", "-", "-C", SEED], stdin=archive, timeout=1800)


def _unobserved() -> State:
    """Fail: the one action used here needs no observation."""
    raise AssertionError("nothing is observed outside an installation")


def place_ca(machine: Machine, directory: Path) -> None:
    """Place the site's CA on a worker, as the join command does."""
    machine.run(["mkdir", "-p", str(Path(SITE_CA).parent)])
    machine.copy_to(directory / "site-anchor.crt", SITE_CA)


def store(machine: Machine) -> None:
    """Bring the bundle into the machine's store, as the phase of that name does."""
    made = json.loads(scratch("carried.json").read_text())
    media = machine.carry_in([Path(made["bundle"])])
    argv = [INSTALLER, "store", "ingest", "--root-fingerprint", made["fingerprint"]]
    machine.run([*argv, f"{media}/{Path(made['bundle']).name}"], timeout=3600)
    machine.pull()


def identity(machine: Machine) -> None:
    """Give the machine its node identity, as the join service does."""
    cluster.give(machine.host(), machine.name, Lab(NAME).machine("p1").host(), INSTALLER)


def write(name: str, values: Mapping[str, object]) -> None:
    """Write a machine's variables for converge.yml; mode 0600, as some are secret."""
    with os.fdopen(os.open(scratch("vars", f"{name}.json"), FLAGS, 0o600), "w") as file:
        json.dump(values, file)


def scratch(*names: str) -> Path:
    """Return a path in Molecule's folder for this scenario."""
    return Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], *names)


def main(verb: str, *words: str) -> None:
    """Run the verb for one call of a playbook."""
    if verb == "up":
        up(list(words))
    elif verb == "down":
        down()
    elif verb == "lay":
        lay(words[0], list(words[1:]))
    else:
        {"store": store, "identity": identity}[verb](Lab(NAME).machine(words[0]))


if __name__ == "__main__":
    main(*sys.argv[1:])
