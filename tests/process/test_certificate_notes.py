"""A Primer notes its certificates in a real etcd, as its timer does; others revoke them by that."""

from __future__ import annotations

import datetime as dt
import sys
import time
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

import pytest

from keystone import run
from keystone.cluster import etcdctl, known
from keystone.cluster.facts import parse_etcd
from keystone.errors import HostError
from keystone.install import renewal
from keystone.lab.mirror import upstream
from keystone.pki import host_files, revocation
from keystone.pki import tree as pki
from keystone.site.model import Networks, Node, Site

from .test_quorum_steps import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
NODE = Node("p3", IPv4Address("10.77.0.13"))
SITE = Site("north", (NODE,), Networks(IPv4Network("10.77.0.0/24")))
PLAIN = """#!{python}
# etcdctl for a member without TLS: without the options that name certificates.
import os, sys
words, left = sys.argv[1:], []
while words:
    word = words.pop(0)
    if word in ("--cacert", "--cert", "--key"):
        words.pop(0)
    else:
        left.append("{url}" if word == "{local}" else word)
os.execv("{real}", ["etcdctl", *left])
"""


@pytest.fixture
def member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One member on loopback, which etcdctl asks."""
    url, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    program, real = tmp_path / "etcdctl", str(upstream.binary("etcdctl"))
    program.write_text(PLAIN.format(python=sys.executable, url=url, local=etcdctl.LOCAL, real=real))
    program.chmod(0o755)
    (tmp_path / "client.crt").write_text("")
    monkeypatch.setattr(etcdctl, "PROGRAM", str(program))
    monkeypatch.setattr(etcdctl, "PKI", tmp_path)
    argv = [
        upstream.binary("etcd"), "--data-dir", tmp_path / "data", "--listen-client-urls", url,
        "--advertise-client-urls", url, "--listen-peer-urls", peer,
        "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}",
    ]  # fmt: skip
    with run.spawned(argv, log_file=tmp_path / "log"):
        deadline = time.monotonic() + 120
        while not etcdctl.serves():
            assert time.monotonic() < deadline
        yield


def kept() -> dict[str, str]:
    """Return what etcd has, as an installation reads it."""
    return dict(parse_etcd({}, (), (), etcdctl.ask("get", "--prefix", known.ROOT)).kept)


def placed(tree: Path) -> dict[str, str]:
    places = host_files.leaf_places(NODE)
    return {path: (tree / f"leaves/p3/{name}.crt").read_text() for name, path in places.items()}


@pytest.mark.usefixtures("member")
def test_note_has_all_that_did_not_end_and_is_written_only_when_it_changes(tmp_path: Path) -> None:
    tree = tmp_path / "pki"
    pki.init(SITE, tree, tmp_path / "root.pem", "correct horse")
    first = placed(tree)
    assert renewal.note(NODE, first, NOW) == "certificates of p3 noted in etcd: 4"
    assert renewal.note(NODE, first, NOW) == ""
    found = revocation.of_host("p3", known.leaves(kept(), "p3"))
    assert {one.what for one in found} == {f"p3/{name}" for name in revocation.LEAVES}

    # Renewed: the old ones are valid for a third of their life, so they stay in the note.
    for file in (tree / "leaves/p3").iterdir():
        file.unlink()
    pki.issue(SITE, tree)
    assert renewal.note(NODE, placed(tree), NOW) == "certificates of p3 noted in etcd: 8"
    later = NOW + SITE.trust.certificate_lifetime * 2
    assert renewal.note(NODE, {}, later) == "certificates of p3 noted in etcd: 0"


@pytest.mark.usefixtures("member")
def test_note_that_somebody_else_wrote_is_an_error_that_names_its_key() -> None:
    etcdctl.tell("put", f"{known.LEAVES}p3", "hello")
    with pytest.raises(HostError, match="/keystone/leaves/p3: not a record") as caught:
        renewal.note(NODE, {}, NOW)
    assert "etcdctl del /keystone/leaves/p3" in caught.value.hint
