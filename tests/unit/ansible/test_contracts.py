"""Keystone's inventory and each role's argument_specs agree.

Both ways: a variable that no role declares is a mistake, and so is one that is missing.
"""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
import yaml

from keystone.ansible import roles
from keystone.ansible.roles import variables
from keystone.bundle.model import Digest, Item, Manifest
from keystone.cluster.context import Context
from keystone.site.model import Disk, Networks, Node, Patience, Site, Storage

ROOT = Path(__file__).parents[3]
ROLES = sorted(path.name for path in (ROOT / "roles").glob("*") if path.is_dir())


def items() -> tuple[Item, ...]:
    """Return an item for each entry of the production definition; debs without their closure."""
    spec = yaml.safe_load((ROOT / "bundles" / "platform.yaml").read_text())["spec"]
    found = [item("image", *entry["ref"].rsplit(":", 1)) for entry in spec["images"]]
    found += [item("binary", entry["name"], entry["version"]) for entry in spec["binaries"]]
    for suite in spec["debs"]:
        for names in suite["groups"].values():
            found += [item("deb", name, "1.0-1") for name in names]
    return (*found, item("installer", "keystone-install", "0.1.0"))


def item(kind: str, name: str, version: str) -> Item:
    return Item(kind, name, version, Digest(hashlib.sha256(name.encode()).hexdigest()), 1)


def contexts() -> list[Context]:
    """Return every Primer of three sites: equal Primers; one control plane; a trial site."""
    bundle = Manifest("platform", 1, items())
    made = []
    for alike, profile, trial in (
        (True, "normal", False),
        (False, "emulated", False),
        (True, "normal", True),
    ):
        site = Site(
            name="lab",
            primers=tuple(
                Node(
                    f"p{number}",
                    IPv4Address(f"10.77.0.1{number}"),
                    () if trial else (Disk(f"KEYP{number}A"), Disk(f"KEYP{number}B")),
                    control_plane=alike or number == 1,
                    kubelet=alike or number == 1,
                )
                for number in (1, 2, 3)
            ),
            networks=Networks(IPv4Network("10.77.0.0/24")),
            patience=Patience(profile),
            network_boot=alike,
            storage=Storage(layout="directory" if trial else "mirror"),
            trial=trial,
        )
        made += [Context(site=site, host=host, bundle=bundle) for host in site.primers]
    return made


def options(role: str) -> dict[str, dict[str, Any]]:
    spec = yaml.safe_load((ROOT / "roles" / role / "meta" / "argument_specs.yml").read_text())
    found: dict[str, dict[str, Any]] = spec["argument_specs"]["main"]["options"]
    return found


def mistakes(where: str, spec: dict[str, Any], value: object) -> list[str]:
    """Return how a value and its parts violate an option of an argument spec. No coercion."""
    kind = spec.get("type", "str")
    types: dict[str, tuple[type, ...]] = {
        "str": (str,), "path": (str,), "int": (int,), "bool": (bool,), "float": (int, float),
        "list": (list,), "dict": (dict,), "raw": (object,),
    }  # fmt: skip
    if not isinstance(value, types[kind]) or (kind == "int" and isinstance(value, bool)):
        return [f"{where}: {value!r} is not {kind}"]
    if "choices" in spec and value not in spec["choices"]:
        return [f"{where}: {value!r} is none of {spec['choices']}"]
    found = []
    if isinstance(value, list):
        entry = {"type": spec["elements"], "options": spec.get("options")}
        for number, part in enumerate(value):
            found += mistakes(f"{where}[{number}]", entry, part)
    elif isinstance(value, dict) and spec.get("options"):
        found += both_ways(where, spec["options"], value)
    return found


def both_ways(where: str, specs: dict[str, Any], values: dict[str, object]) -> list[str]:
    required = {name for name, spec in specs.items() if spec.get("required")}
    found = [f"{where}: {name} is required but not given" for name in required - values.keys()]
    found += [f"{where}: {name} is given but not declared" for name in values.keys() - specs.keys()]
    for name in values.keys() & specs.keys():
        found += mistakes(f"{where}.{name}", specs[name], values[name])
    return found


def test_every_role_has_an_inventory_function() -> None:
    assert ROLES != []
    assert sorted(roles.ROLES) == ROLES


@pytest.mark.parametrize("role", ROLES)
def test_inventory_and_argument_specs_agree(role: str) -> None:
    found = []
    for context in contexts():
        given = {**variables(role, context), f"{role}_inputs": "0" * 64}
        found += both_ways(f"{role} on {context.host.name}", options(role), given)
    assert found == []
    assert {context.site.trial for context in contexts()} == {True, False}


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_name_begins_with_its_role(role: str) -> None:
    assert [name for name in options(role) if not name.startswith(f"{role}_")] == []


@pytest.mark.parametrize("role", ROLES)
def test_defaults_equal_those_of_argument_specs(role: str) -> None:
    path = ROOT / "roles" / role / "defaults" / "main.yml"
    defaults = (yaml.safe_load(path.read_text()) or {}) if path.is_file() else {}
    declared = {name: spec["default"] for name, spec in options(role).items() if "default" in spec}
    assert defaults == declared
