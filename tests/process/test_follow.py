"""A worker fetches what to trust, over real TLS, through all stages of the CA of the site."""

from __future__ import annotations

import datetime as dt
import http.server
import json
import ssl
import threading
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keystone.errors import HostError
from keystone.join import follow, script
from keystone.pki import certificates, host_files, rotate
from keystone.pki import tree as pki
from keystone.pki.rotation import DROPPED, REISSUED, TRUSTED
from keystone.site.model import Networks, Node, Site

if TYPE_CHECKING:
    from collections.abc import Iterator

P1 = Node("p1", IPv4Address("10.77.0.11"))
SITE = Site("north", (P1,), Networks(IPv4Network("10.77.0.0/24")))
NOW = dt.datetime.now(dt.UTC)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    directory = tmp_path / "pki"
    pki.init(SITE, directory, tmp_path / "root.pem", "correct horse")
    return directory


@pytest.fixture
def worker(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The CA file of a worker, which trusts the site as it was when it joined."""
    file = tmp_path / "site-ca.crt"
    file.write_text(host_files.content(tree, f"{host_files.TRUSTED}site"))
    monkeypatch.setattr(script, "SITE_CA", file)
    return file


@contextmanager
def served(tree: Path, monkeypatch: pytest.MonkeyPatch, body: str = "") -> Iterator[None]:
    """Serve the anchors, or another body, as the Primer's nginx does, with its certificate."""
    text = (body or host_files.anchors(tree)).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == follow.PATH else 404)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tree / "leaves/p1/site.crt", tree / "leaves/p1/site.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    monkeypatch.setattr(script, "FILES_PORT", server.server_address[1])
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def advance(tree: Path, stage: str) -> None:
    def root() -> certificates.Pair:
        return rotate.opened(SITE, tree, tree.parent / "root.pem", "correct horse")

    rotate.advance(SITE, tree, "site", stage, root, NOW.replace(microsecond=0))
    pki.issue(SITE, tree)


def test_old_and_new_trust_connect_until_the_old_ca_is_dropped(
    tree: Path, worker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = worker.read_text()
    advance(tree, TRUSTED)
    with served(tree, monkeypatch):
        worker.write_text(follow.fetch(["127.0.0.1"]).site)
    both = worker.read_text()
    assert both.count("BEGIN CERTIFICATE") == 2
    advance(tree, REISSUED)
    with served(tree, monkeypatch):
        worker.write_text(follow.fetch(["127.0.0.1"]).site)
        worker.write_text(old)  # a worker that did not follow in time
        with pytest.raises(HostError, match="no Primer says what to trust"):
            follow.fetch(["127.0.0.1"])
    worker.write_text(both)
    advance(tree, DROPPED)
    with served(tree, monkeypatch):
        assert follow.fetch(["127.0.0.1"]).site.count("BEGIN CERTIFICATE") == 1


LEAF, CA = "leaf", "ca"


@pytest.mark.parametrize(
    "answer",
    [{}, [], {"site": CA}, {"site": CA, "kubernetes": ""}, {"site": LEAF, "kubernetes": CA},
     {"site": CA, "kubernetes": "../../etc/passwd"},
     {"site": CA, "kubernetes": CA, "since": "yesterday"},
     {"site": CA, "kubernetes": CA, "since": "2026-11-30T12:00:00"}],
)  # fmt: skip
def test_answer_that_is_no_list_of_cas_is_refused(tree: Path, answer: object) -> None:
    files = {LEAF: "leaves/p1/site.crt", CA: "site-anchor.crt"}
    pems = {name: (tree / file).read_text() for name, file in files.items()}
    if isinstance(answer, dict):
        answer = {key: pems.get(value, value) for key, value in answer.items()}
    with pytest.raises(HostError, match=r"10\.77\.0\.11"):
        follow.parse(json.dumps(answer), "https://10.77.0.11")


def test_other_machine_on_the_address_of_a_primer_is_refused(
    worker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    pki.init(SITE, other, tmp_path / "other.pem", "correct horse")
    with served(other, monkeypatch), pytest.raises(HostError, match="verify failed"):
        follow.fetch(["127.0.0.1"])
    assert worker.exists()
