"""Three running members refuse a revoked certificate at its next connection, without a restart."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from typing import TYPE_CHECKING

import pytest

from keystone.pki import host_files, revocation
from keystone.pki import tree as pki

from .conftest import NODES, Lan, Placed, until
from .test_quorum import FIRST, Quorum, dial, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from keystone.run import Result

pytestmark = pytest.mark.timeout(900)
PKI = "/etc/etcd/pki"


@pytest.fixture(scope="module")
def quorum(
    namespaces: Callable[[Mapping[str, str]], Lan],
    pki_site: Placed,
    binary: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Quorum]:
    folder = tmp_path_factory.mktemp("etcd")
    with running(namespaces(NODES), pki_site, binary, folder) as made:
        yield made


def files(quorum: Quorum, host: str) -> list[dict[str, str]]:
    file = host_files.deployment_file(quorum.placed.tree, host)
    found: list[dict[str, str]] = json.loads(file.read_text())["files"]
    return found


def revoke(quorum: Quorum, host: str, name: str) -> None:
    """Revoke a leaf that the host has, and place the lists and its new leaves, the host first."""
    placed = quorum.placed
    node = next(node for node in placed.site.primers if node.name == host)
    has = {one["path"]: one["content"] for one in files(quorum, host) if "content" in one}
    noted = revocation.noted(has, host_files.leaf_places(node))
    found = revocation.of_host(host, noted, (name,))
    assert len(found) == 1
    revocation.revoke(placed.tree, found, dt.datetime.now(dt.UTC))
    issued = pki.issue(placed.site, placed.tree)
    assert [(spec.host, spec.name) for spec in issued] == [(host, name)]
    for other in (host, *(one for one in NODES if one != host)):
        for entry in files(quorum, other):
            path = placed.at(other, entry["path"])
            part = path.with_name(f".{path.name}.new")
            part.write_bytes(host_files.data(entry))
            part.rename(path)


@pytest.fixture
def stolen(quorum: Quorum, tmp_path: Path) -> Path:
    """The certificates and keys that p2 had before they were revoked."""
    return shutil.copytree(quorum.placed.at("p2", PKI), tmp_path / "stolen")


def ask(quorum: Quorum, folder: Path, url: str) -> Result:
    words = [
        "--cacert", folder / "peer-ca.crt", "--cert", folder / "client.crt",
        "--key", folder / "client.key", "--endpoints", url, "--command-timeout", "3s",
    ]  # fmt: skip
    return quorum.lan.run("p2", quorum.programs["etcdctl"], *words, "get", "any", check=False)


def test_client_with_a_revoked_certificate_is_refused_by_running_members(
    quorum: Quorum, stolen: Path
) -> None:
    before = dict(quorum.running)
    for address in NODES.values():
        assert ask(quorum, stolen, f"https://{address}:2379").returncode == 0
    revoke(quorum, "p2", "etcd-client")
    for address in NODES.values():
        assert ask(quorum, stolen, f"https://{address}:2379").returncode != 0
    assert "revoked" in quorum.log("p1")
    assert ask(quorum, quorum.placed.at("p2", PKI), FIRST).returncode == 0
    assert len(quorum.healthy("p1")) == len(quorum.healthy("p2")) == 3
    assert quorum.running == before
    assert [process.poll() for process in before.values()] == [None] * 3


def test_peer_with_a_revoked_certificate_is_refused_and_its_new_one_served(
    quorum: Quorum, stolen: Path
) -> None:
    assert dial(quorum, "p2", stolen, "peer").stdout.strip() == "200"
    revoke(quorum, "p2", "etcd-peer")
    assert dial(quorum, "p2", stolen, "peer").returncode != 0
    assert dial(quorum, "p2", quorum.placed.at("p2", PKI), "peer").stdout.strip() == "200"
    assert dial(quorum, "p3", quorum.placed.at("p3", PKI), "peer").stdout.strip() == "200"
    # All members connect anew to one that starts: p2 with its new certificate.
    quorum.kill("p3")
    quorum.start("p3")
    until(lambda: len(quorum.healthy()) == 3, "the members are together again")


def test_member_that_starts_with_its_revoked_certificate_is_refused_where_it_dials(
    quorum: Quorum, stolen: Path
) -> None:
    """As a Primer that was replaced and comes back. Members that list it still dial it."""
    revoke(quorum, "p2", "etcd-peer")
    fresh = shutil.copytree(quorum.placed.at("p2", PKI), stolen.with_name("fresh"))
    quorum.kill("p2")
    shutil.copytree(stolen, quorum.placed.at("p2", PKI), dirs_exist_ok=True)
    seen = quorum.log("p1").count("revoked")
    quorum.start("p2")
    until(lambda: quorum.log("p1").count("revoked") > seen, "p1 refuses p2")
    shutil.copytree(fresh, quorum.placed.at("p2", PKI), dirs_exist_ok=True)
    until(lambda: len(quorum.healthy("p2")) == 3, "p2 serves with its new certificate")
