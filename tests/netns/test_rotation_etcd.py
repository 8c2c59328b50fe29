"""The CAs of etcd are rotated under three real members, one host after another, with a load."""

from __future__ import annotations

import datetime as dt
import json
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from keystone.pki import certificates, host_files, rotate
from keystone.pki import tree as pki
from keystone.pki.rotation import STAGES

from .conftest import NODES, Lan, Placed, until
from .test_quorum import ALL, Quorum, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

pytestmark = pytest.mark.timeout(900)


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


def advance(quorum: Quorum, name: str, stage: str) -> None:
    placed = quorum.placed

    def root() -> certificates.Pair:
        return rotate.opened(
            placed.site, placed.tree, placed.tree.parent / "root.pem", "passphrase"
        )

    start = dt.datetime.now(dt.UTC).replace(microsecond=0) - certificates.BACKDATE
    rotate.advance(placed.site, placed.tree, name, stage, root, start)
    pki.issue(placed.site, placed.tree)


def place(quorum: Quorum, host: str) -> None:
    file = host_files.deployment_file(quorum.placed.tree, host)
    for entry in json.loads(file.read_text())["files"]:
        path = quorum.placed.at(host, entry["path"])
        part = path.with_name(f".{path.name}.new")
        part.write_bytes(host_files.data(entry))
        part.rename(path)


def hand_over(quorum: Quorum, host: str) -> None:
    """Move the leader away from a host, as `readers` does before it stops a member."""
    own = f"https://{NODES[host]}:2379"
    listed = quorum.ctl("endpoint", "status", "--endpoints", ALL, "-w", "json")
    states = {one["Endpoint"]: one["Status"] for one in json.loads(listed.stdout)}
    if states[own]["leader"] == states[own]["header"]["member_id"]:
        other = next(state for url, state in states.items() if url != own)
        target = f"{other['header']['member_id']:x}"
        assert quorum.ctl("move-leader", target, "--endpoints", ALL).returncode == 0


@contextmanager
def writes(quorum: Quorum) -> Iterator[None]:
    """Write all the time from p1; no write may fail twice."""
    end, failed, done = threading.Event(), [], []

    def put() -> None:
        while not end.is_set():
            words = ("put", "load", str(len(done)), "--endpoints", ALL, "--command-timeout", "20s")
            tries = [quorum.ctl(*words)]
            if tries[0].returncode != 0:
                tries.append(quorum.ctl(*words))
            if tries[-1].returncode != 0:
                failed.append(tries[-1].stderr)
            done.append(len(tries))

    thread = threading.Thread(target=put)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
    assert failed == []
    assert len(done) > 10


@pytest.mark.parametrize("name", ["etcd-peer", "etcd-client"])
def test_members_serve_through_all_stages_while_hosts_differ(quorum: Quorum, name: str) -> None:
    with writes(quorum):
        for stage in STAGES:
            advance(quorum, name, stage)
            for host in ("p2", "p3", "p1"):
                place(quorum, host)
                assert len(quorum.healthy()) == 3
                hand_over(quorum, host)
                quorum.running[host].terminate()
                quorum.running[host].wait()
                quorum.start(host)
                until(lambda: len(quorum.healthy()) == 3, f"{host} is back, {stage}")
    assert pki.verify(quorum.placed.site, quorum.placed.tree) == []
