"""Lab machines for Molecule: boot them, and lay out what a role finds when its turn comes.

Called by the playbooks beside it:

    machines.py up p1 w1         boot; prints Molecule's instance config (JSON is YAML)
    machines.py lay node p1 w1   bundle, keys, variables; installer and seed onto the machines
    machines.py store w1         a step: the bundle into the machine's store
    machines.py identity w1      a step: the machine's identity as a node, signed on p1
    machines.py down             ends and removes them

KEYSTONE_KIND says what the machines are: container (the default) or virtual. Variables come from
keystone.ansible.roles, as in an installation: scenarios have no contract of their own. They are
written to <ephemeral directory>/vars/<machine>.json.
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
from keystone.ansible.roles.trust import PKI_DIRECTORY
from keystone.bundle.read.bundle import open_verified
from keystone.cluster.context import Context
from keystone.cluster.join_config import Config
from keystone.install.actions import INSTALLER, SEED, PushInstaller, World
from keystone.join import cluster
from keystone.join.server import WORKER_ROLES, worker_roles
from keystone.lab.carry import carry
from keystone.lab.demo import site_document
from keystone.lab.machine import RUN
from keystone.lab.machines import Lab
from keystone.pki import tree as pki
from keystone.pki.host_files import deployment_digest
from keystone.run import run
from keystone.site import model as site

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keystone.bundle.read.bundle import Bundle
    from keystone.install.state import State
    from keystone.lab.machine import Machine
    from keystone.site.model import Site

NAME = "molecule"
PASSPHRASE = "the lab's own passphrase, not a secret"
FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
STEPS = ("store", "identity")
"""What comes before a role and is none: the engine does it, between roles."""
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
    "join": ("trust", "store"),
    "kernel": (),
    "containerd": ("kernel", "registry"),
    "endpoint": ("trust", "store"),
    "control_plane": ("time", "containerd", "endpoint", "etcd"),
    "addons": ("control_plane",),
}
"""What a role finds on its Primer, in the order of keystone.install.phases."""
BESIDE = {"packages": ("mirror",), "node": ("mirror", "addons")}
"""The roles of workers: what a Primer beside the worker has to be before."""


def up_to(*last: str) -> list[str]:
    """Those roles with all roles and steps that they need, in order."""
    wanted = set(last)
    for name in reversed(NEEDS):
        if name in wanted:
            wanted.update(NEEDS[name])
    return [name for name in NEEDS if name in wanted]


def before_on_worker(role: str) -> list[str]:
    """The same on a worker: as it joins. What it would fetch by itself comes as a store."""
    roles = list(WORKER_ROLES[: WORKER_ROLES.index(role)])
    return ["store", *roles, "identity"] if roles else []


def steps(scenario: str, name: str) -> list[str]:
    """What is done on a machine before the scenario's role is converged."""
    if not is_primer(name):
        return before_on_worker(scenario)
    return up_to(*BESIDE[scenario]) if scenario in BESIDE else up_to(scenario)[:-1]


def is_primer(name: str) -> bool:
    """By the lab's names: p1, p2, p3; workers are w1 and w2."""
    return name.startswith("p")


def up(names: list[str]) -> None:
    """Boot new machines and print how to reach them; what an earlier run left is removed."""
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
    """Remove the machines with all that they wrote, and the connections that ssh kept to them."""
    for socket in RUN.glob(f"{NAME}-*"):
        run(["ssh", "-F", "none", "-O", "exit", "-o", f"ControlPath={socket}", NAME], check=False)
    Lab(NAME).down(purge=True)


def lay(scenario: str, names: list[str]) -> None:
    """Everything that is there before the first role runs."""
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
        values |= told_to(wanted, opened, machine, roles, directory)
        write(machine.name, {name: playbook.as_data(value) for name, value in values.items()})
        push(opened, machine)
        if not is_primer(machine.name):
            place_ca(machine, directory)


def written_site(lab: Lab, primers: list[str]) -> Site:
    """The lab's site file, read as an operator's is."""
    path = lab.folder / "site.yaml"
    path.write_text(json.dumps(site_document(lab, primers)))
    return site.load(path)


def told_to(
    wanted: Site, opened: Bundle, machine: Machine, roles: Sequence[str], directory: Path
) -> dict[str, object]:
    """What those roles are told, with the names of their inputs."""
    if is_primer(machine.name):
        (node,) = (node for node in wanted.primers if node.name == machine.name)
        context = Context(site=wanted, host=node, bundle=opened.manifest)
        told = {role: variables(role, context) for role in roles}
    else:
        config = Config(wanted, opened.manifest, wanted.primers[0])
        told = worker_roles(config, machine.name, machine.settings.address, tuple(roles))
    if "trust" in told:
        digest = deployment_digest(directory, machine.name)
        # In an installation the controller is the first Primer; here it is this machine.
        source = str(told["trust"]["trust_source"]).replace(str(PKI_DIRECTORY), str(directory))
        told["trust"] |= {"trust_digest": digest, "trust_source": source}
    values: dict[str, object] = {}
    for role, given in told.items():
        values |= given | {f"{role}_inputs": playbook.inputs(role, given)}
    return values


def push(opened: Bundle, machine: Machine) -> None:
    """The installer and the packages that go ahead of the store."""
    host = machine.host()
    world = World(opened, {host.name: host}, passphrase=lambda: PASSPHRASE, observe=_unobserved)
    PushInstaller((host.name,)).apply(world)
    kernel = host.run(["uname", "-r"]).stdout.strip()
    host.run(["mkdir", "-p", SEED])
    with opened.seed_archive(kernel) as archive:
        host.run(["tar", "-xf", "-", "-C", SEED], stdin=archive, timeout=1800)


def _unobserved() -> State:
    """The one action used here acts without looking first."""
    raise AssertionError("nothing is observed outside an installation")


def place_ca(machine: Machine, directory: Path) -> None:
    """Whose certificates a worker believes: the join command brings it."""
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
    """Let the machine join: what the join service would answer with."""
    cluster.give(machine.host(), machine.name, Lab(NAME).machine("p1").host(), INSTALLER)


def write(name: str, values: Mapping[str, object]) -> None:
    """Put a machine's variables where converge.yml reads them; there are secrets among them."""
    with os.fdopen(os.open(scratch("vars", f"{name}.json"), FLAGS, 0o600), "w") as file:
        json.dump(values, file)


def scratch(*names: str) -> Path:
    """A path in Molecule's folder for this scenario."""
    return Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], *names)


def main(verb: str, *words: str) -> None:
    """Dispatch one call of a playbook."""
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
