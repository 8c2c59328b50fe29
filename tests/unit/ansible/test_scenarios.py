"""Every role has a Molecule scenario, which prepares its hosts in the order of the phases."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from tests.unit.install.test_phases import state

from keystone.install import phases
from keystone.install.actions import Converge, IngestStore
from keystone.join.server import WORKER_ROLES

ROOT = Path(__file__).parents[3]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())


@pytest.fixture(scope="module")
def machines() -> ModuleType:
    """Import molecule/resources/machines.py, which is in no package."""
    path = ROOT / "molecule" / "resources" / "machines.py"
    spec = importlib.util.spec_from_file_location("molecule_machines", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("role", ROLES)
def test_every_role_has_a_scenario_with_tests(role: str) -> None:
    scenario = ROOT / "molecule" / role
    assert (scenario / "molecule.yml").is_file()
    tests = (scenario / "tests" / f"test_{role}.py").read_text()
    assert re.search(r"^def test_", tests, re.MULTILINE)


def test_needs_list_every_role_in_the_order_of_the_phases(machines: ModuleType) -> None:
    order: list[str] = []
    for phase in phases.PHASES:
        for action in phase.plan(state()):
            if isinstance(action, Converge):
                order += [role for role in action.roles if role not in order]
            elif isinstance(action, IngestStore):
                order.append("store")
    assert list(machines.NEEDS) == order
    assert {*machines.NEEDS, *machines.BESIDE} == {*ROLES, "store"}


def test_needs_of_a_role_come_before_it(machines: ModuleType) -> None:
    order = list(machines.NEEDS)
    for role, needs in machines.NEEDS.items():
        assert all(order.index(need) < order.index(role) for need in needs), role


def test_steps_include_needs_of_needs(machines: ModuleType) -> None:
    assert machines.steps("storage", "p1") == ["seed"]
    assert machines.steps("containerd", "p1") == [
        "trust", "seed", "storage", "store", "registry", "kernel",
    ]  # fmt: skip


def test_steps_of_a_worker_are_those_of_a_real_join(machines: ModuleType) -> None:
    *roles, last = machines.steps("node", "w1")
    assert (roles, last) == (["store", *WORKER_ROLES[:-1]], "identity")
    assert machines.steps("packages", "w1") == []
    assert {"etcd", "control_plane", "addons", "mirror"} <= set(machines.steps("node", "p1"))
