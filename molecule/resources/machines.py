"""Lab machines for Molecule: boot them, and lay out what a role finds when its turn comes.

Called by create.yml and prepare.yml:

    machines.py up p1 p2          boot; prints Molecule's instance config (JSON is YAML)
    machines.py lay etcd p1 p2    bundle, keys, variables; installer and seed onto the machines
    machines.py blobs etcd p1 p2  the bundle's blobs that the scenario's variables name

Variables come from keystone.inventory, as in an installation: scenarios have no contract of their
own. They are written to <ephemeral directory>/vars/<machine>.json.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import ansible, bundle, log, pki, site
from keystone.actions import SEED, PushInstaller, World
from keystone.bundle.model import STORE, Digest
from keystone.deployment import deployment_digest
from keystone.inventory import Context
from keystone.inventory.trust import PKI_DIRECTORY
from keystone.lab.carry import carry
from keystone.lab.demo import site_document
from keystone.lab.machines import Lab

if TYPE_CHECKING:
    from keystone.bundle import Bundle
    from keystone.site import Node, Site
    from keystone.state import State

NAME = "molecule"
PASSPHRASE = "the lab's own passphrase, not a secret"
# The roles that have run before the scenario's own, in the order of keystone.phases.
BEFORE = {
    "trust": (),
    "storage": ("seed",),
    "etcd": ("seed", "storage", "trust"),
}


def up(lab: Lab, names: list[str]) -> None:
    """Boot new machines and print how to reach them."""
    lab.up(names, fresh=True)
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


def lay(lab: Lab, scenario: str, names: list[str]) -> None:
    """Everything that is there before the first role runs."""
    wanted, opened = written_site(lab), carried(lab)
    directory = lab.folder / "pki"
    pki.init(wanted, directory, lab.folder / "root.key", PASSPHRASE)
    for node in wanted.primers:
        if node.name not in names:
            continue
        values = variables(wanted, node, opened, scenario, directory)
        path = vars_file(node.name)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_text(json.dumps(values, default=str))
        push(lab, opened, node.name)


def blobs(lab: Lab, scenario: str, names: list[str]) -> None:
    """Copy what the variables point to in the store, under the name it has there."""
    opened, prefix = carried(lab), f"{STORE}/blobs/sha256/"
    for name in names:
        values = json.loads(vars_file(name).read_text())
        mine = {k: v for k, v in values.items() if k.startswith(f"{scenario}_")}
        paths = {v for v in mine.values() if isinstance(v, str) and v.startswith(prefix)}
        host = lab.machine(name).host()
        for path in sorted(paths):
            host.run(["mkdir", "-p", prefix])
            with opened.open(Digest(path.removeprefix(prefix))) as source:
                host.run(["sh", "-c", f"cat > {path}"], stdin=source, timeout=1800)


def written_site(lab: Lab) -> Site:
    """The lab's site file, read as an operator's is."""
    path = lab.folder / "site.yaml"
    primers = [m.name for m in lab.settings.machines if m.name.startswith("p")]
    path.write_text(json.dumps(site_document(lab, primers)))
    return site.load(path)


def carried(lab: Lab) -> Bundle:
    """The bundle out of the lab's upstream mirror, built when it is not there, verified."""
    made = carry(lab.folder)
    return bundle.open_verified(made.bundle, fingerprint=made.fingerprint, confirm=lambda _: False)


def variables(
    wanted: Site, node: Node, opened: Bundle, scenario: str, directory: Path
) -> dict[str, object]:
    """What the scenario's role and those before it are told, with the names of their inputs."""
    context = Context(site=wanted, host=node, bundle=opened.manifest)
    values: dict[str, object] = {"molecule_before": BEFORE[scenario]}
    for role in (*BEFORE[scenario], scenario):
        told = importlib.import_module(f"keystone.inventory.{role}").variables(context)
        if role == "trust":
            told["trust_digest"] = deployment_digest(directory, node.name)
            # In an installation the controller is the first Primer; here it is this machine.
            told["trust_source"] = str(told["trust_source"]).replace(
                str(PKI_DIRECTORY), str(directory)
            )
        values |= told | {f"{role}_inputs": ansible.inputs(role, told)}
    return values


def push(lab: Lab, opened: Bundle, name: str) -> None:
    """The installer and the packages that go ahead of the store."""
    host = lab.machine(name).host()
    world = World(opened, {name: host}, passphrase=lambda: PASSPHRASE, observe=_unobserved)
    PushInstaller((name,)).apply(world)
    kernel = host.run(["uname", "-r"]).stdout.strip()
    host.run(["mkdir", "-p", SEED])
    with opened.seed_archive(kernel) as archive:
        host.run(["tar", "-xf", "-", "-C", SEED], stdin=archive, timeout=1800)


def _unobserved() -> State:
    """The one action used here acts without looking first."""
    raise AssertionError("nothing is observed outside an installation")


def vars_file(name: str) -> Path:
    """Where converge.yml reads a machine's variables."""
    return Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "vars" / f"{name}.json"


def main(verb: str, *words: str) -> None:
    """Dispatch one call of a playbook."""
    lab = Lab(NAME)
    if verb == "up":
        up(lab, list(words))
    else:
        {"lay": lay, "blobs": blobs}[verb](lab, words[0], list(words[1:]))


if __name__ == "__main__":
    main(*sys.argv[1:])
