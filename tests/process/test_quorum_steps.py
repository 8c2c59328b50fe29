"""Members leave a real quorum by the installer's own actions: the leader moves, nothing is lost."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest
from tests.unit.install.test_phases import state

from keystone import run
from keystone.cluster import etcdctl
from keystone.install import members, quorum
from keystone.install.actions import World
from keystone.lab.mirror import upstream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from subprocess import Popen  # noqa: TID251 the type of what run.spawned gives

    from keystone.bundle.read.bundle import Bundle
    from keystone.run import Host

NAMES = ("p1", "p2", "p3")
SECONDS = 120


class Primer:
    """A host of the site on which etcdctl asks the members of this test, without TLS."""

    def __init__(self, name: str, url: str) -> None:
        self.name, self.url = name, url

    def run(self, argv: Sequence[str], **_how: object) -> run.Result:
        words = list(argv)
        for flag in ("--cacert", "--cert", "--key"):
            at = words.index(flag)
            del words[at : at + 2]
        words[0] = str(upstream.binary("etcdctl"))
        return run.run(
            [self.url if word == etcdctl.LOCAL else word for word in words],
            check=False, timeout=SECONDS,
        )  # fmt: skip


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[World, dict[str, Popen[bytes]]]]:
    """Three members that serve, and the installer's view of them from p1."""
    peers = {name: f"http://127.0.0.1:{free_port()}" for name in NAMES}
    clients = {name: f"http://127.0.0.1:{free_port()}" for name in NAMES}
    cluster = ",".join(f"{name}={url}" for name, url in peers.items())
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(
                run.spawned(
                    [
                        upstream.binary("etcd"), "--name", name, "--data-dir", tmp_path / name,
                        "--listen-peer-urls", peers[name], "--listen-client-urls", clients[name],
                        "--initial-advertise-peer-urls", peers[name],
                        "--advertise-client-urls", clients[name], "--initial-cluster", cluster,
                    ],
                    log_file=tmp_path / f"{name}.log",
                )
            )
            for name in NAMES
        }  # fmt: skip
        hosts = {name: cast("Host", Primer(name, clients[name])) for name in NAMES}
        made = World(cast("Bundle", None), hosts, str, lambda: made.seen, state())
        deadline = time.monotonic() + SECONDS
        while members.sick(members.refresh(made), NAMES) and time.monotonic() < deadline:
            pass
        assert not members.sick(made.seen, NAMES)
        yield made, processes


def leader(world: World) -> str:
    (name,) = (one.name for one in members.refresh(world).members if one.leads)
    return name


@pytest.mark.parametrize("stays", NAMES)
def test_three_members_become_one_and_the_others_end(
    running: tuple[World, dict[str, Popen[bytes]]], stays: str
) -> None:
    """Whoever leads at the start: one of the three cases removes no leader at all."""
    world, processes = running
    members.tell(world, "put", "kept", "yes")
    first = leader(world)
    site = world.seen.site
    alone = tuple(node for node in site.primers if node.name == stays)
    world.state = replace(members.refresh(world), site=replace(site, primers=alone))
    world.state = replace(world.state, facts={stays: world.state.facts[stays]})
    removals = quorum.removals(world.state)
    assert {one.name for one in removals} == set(NAMES) - {stays}
    assert first == stays or removals[-1].name == first
    for removal in removals:
        removal.apply(world)
        removal.apply(world)  # again, as after a kill
    assert [one.name for one in members.refresh(world).members] == [stays]
    assert leader(world) == stays
    for name in set(NAMES) - {stays}:
        assert processes[name].wait(SECONDS) == 0, "a removed member ends by itself"
    host = world.hosts[stays]
    assert '"value":"eWVz"' in host.run(etcdctl.words("get", "kept")).stdout, "yes, in base64"
    members.tell(world, "put", "after", "yes")
    assert quorum.removals(world.seen) == []
