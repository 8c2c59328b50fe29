"""Machines that are network namespaces on a bridge of their own, with real programs in them.

All of it is in namespaces of this test run: it changes no route, address or interface of the host,
and nothing in it can reach the host or other networks.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from keystone.bundle.model import Digest, Item, Manifest
from keystone.cluster.context import Context
from keystone.pki import tree as pki
from keystone.pki.host_files import data, deployment_file
from keystone.run import Result, run
from keystone.site.model import Networks, Node, Site

from . import carried as bundles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ROOT = Path(__file__).parents[2]
NODES = {"p1": "10.78.0.11", "p2": "10.78.0.12", "p3": "10.78.0.13"}
PREFIX = "kstest"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.netns)


@dataclass(frozen=True)
class Lan:
    """A bridge and its machines. `at` returns the prefix that runs a program on one."""

    names: Mapping[str, str]

    def at(self, machine: str, *argv: str | Path) -> list[str]:
        return ["ip", "netns", "exec", self.names[machine], *map(os.fspath, argv)]

    def run(self, machine: str, *argv: str | Path, check: bool = True) -> Result:
        return run(self.at(machine, *argv), check=check, timeout=60)

    def link(self, machine: str, state: str) -> None:
        """Set a machine's only cable "up" or "down"."""
        run(["ip", "-n", self.names[machine], "link", "set", "eth0", state])


def sweep() -> None:
    """Remove the namespaces of killed test runs, whose process no longer exists."""
    for entry in json.loads(run(["ip", "-j", "netns", "list"]).stdout or "[]"):
        owner = entry["name"].split("-")
        if owner[0] == PREFIX and not Path(f"/proc/{owner[1]}").exists():
            run(["ip", "netns", "delete", entry["name"]])


@pytest.fixture(scope="module")
def namespaces() -> Iterator[Callable[[Mapping[str, str]], Lan]]:
    """A function that builds a network from machine names and IPv4 addresses of one /24."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    sweep()
    made: list[str] = []

    def add(name: str) -> str:
        full = f"{PREFIX}-{os.getpid()}-{len(made)}-{name}"
        made.append(full)
        run(["ip", "netns", "add", full])
        run(["ip", "-n", full, "link", "set", "lo", "up"])
        return full

    def build(machines: Mapping[str, str]) -> Lan:
        switch = add("switch")
        run(["ip", "-n", switch, "link", "add", "br0", "type", "bridge"])
        run(["ip", "-n", switch, "link", "set", "br0", "up"])
        names = {}
        for machine, address in machines.items():
            names[machine] = space = add(machine)
            run(["ip", "-n", switch, "link", "add", machine, "type", "veth",
                 "peer", "name", "eth0", "netns", space])  # fmt: skip
            run(["ip", "-n", switch, "link", "set", machine, "master", "br0", "up"])
            run(["ip", "-n", space, "address", "add", f"{address}/24", "dev", "eth0"])
            run(["ip", "-n", space, "link", "set", "eth0", "up"])
        return Lan(names)

    try:
        yield build
    finally:
        for name in made:
            run(["ip", "netns", "delete", name])


@pytest.fixture(scope="session")
def binary() -> Callable[[str], Path]:
    """A function that finds a real program, in the lab's cache or in KEYSTONE_TEST_BINARIES."""

    def find(name: str) -> Path:
        folder = os.environ.get("KEYSTONE_TEST_BINARIES")
        if folder:
            return Path(folder) / name
        from keystone.lab.mirror import upstream  # noqa: PLC0415 only if programs must be built

        return Path(upstream.binary(name))

    return find


@dataclass(frozen=True)
class Placed:
    """A site with its trust tree, and each Primer's files of it in a folder of its own."""

    site: Site
    tree: Path
    hosts: Path

    def at(self, host: str, path: str) -> Path:
        """Return the path in this test of a host's file."""
        return self.hosts / host / path.lstrip("/")


@pytest.fixture(scope="module")
def pki_site(tmp_path_factory: pytest.TempPathFactory) -> Placed:
    """A real trust tree, placed from the deployment files that the role reads."""
    top = tmp_path_factory.mktemp("site")
    site = Site(
        "netns",
        tuple(Node(name, IPv4Address(address)) for name, address in NODES.items()),
        Networks(IPv4Network("10.78.0.0/24")),
    )
    placed = Placed(site, top / "pki", top / "hosts")
    pki.init(site, placed.tree, top / "root.pem", "passphrase")
    place(placed)
    return placed


def place(placed: Placed) -> None:
    """Write what each Primer has of the tree, as the role does."""
    for node in placed.site.primers:
        for file in json.loads(deployment_file(placed.tree, node.name).read_text())["files"]:
            path = placed.at(node.name, file["path"])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data(file))
            path.chmod(int(file["mode"], 8))


def context(placed: Placed, host: str) -> Context:
    """Return the context of a role's variables, with a bundle that has the names it needs."""
    items = tuple(
        Item("binary", name, version, Digest("0" * 64), 1)
        for name, version in (("etcd", "v3.6.16"), ("registry", "v3.1.2"))
    )
    node = next(node for node in placed.site.primers if node.name == host)
    return Context(placed.site, node, Manifest("test", 1, items))


def render(role: str, template: str, variables: Mapping[str, object]) -> str:
    """Render a role's template with its defaults and these variables, as Ansible does."""
    defaults = ROOT / "roles" / role / "defaults/main.yml"
    known: dict[str, Any] = yaml.safe_load(defaults.read_text()) if defaults.exists() else {}
    environment = Environment(
        loader=FileSystemLoader(ROOT / "roles" / role / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render({**known, **variables})


def until(question: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Wait until the check succeeds; fail with `what` after that many seconds."""
    deadline = time.monotonic() + seconds
    while not question():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.1)


@pytest.fixture(scope="session")
def carried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[bundles.Carried]:
    """A small bundle of real content, also unpacked by tar."""
    made = bundles.make(tmp_path_factory.mktemp("carried"))
    yield made
    bundles.discard(made)
