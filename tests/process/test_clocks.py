"""Another Primer's clock, as its web server tells it: a day apart, nothing is renewed."""

from __future__ import annotations

import datetime as dt
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

import pytest

from keystone.errors import RefusedError
from keystone.hosts import clocks
from keystone.install import renewal
from keystone.pki import tree as pki
from keystone.site.model import Networks, Node, Site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAY = dt.timedelta(days=1)
SITE = Site("north", (Node("p1", IPv4Address("127.0.0.1")),), Networks(IPv4Network("127.0.0.0/24")))


@contextmanager
def server(tree: Path, ahead: dt.timedelta) -> Iterator[int]:
    """Serve HTTPS with a Primer's certificate and another clock; return the port."""

    class Handler(BaseHTTPRequestHandler):
        def date_time_string(self, timestamp: float | None = None) -> str:
            del timestamp
            moment = dt.datetime.now(dt.UTC) + ahead
            return super().date_time_string(moment.timestamp())

        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_words: object) -> None:
            """Say nothing."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tree / "leaves/p1/site.crt", tree / "leaves/p1/site.key")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        made.socket = context.wrap_socket(made.socket, server_side=True)
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        try:
            yield made.server_address[1]
        finally:
            made.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("clocks")
    pki.init(SITE, top / "pki", top / "root.pem", "passphrase")
    return top / "pki"


@pytest.mark.parametrize("ahead", [DAY, -DAY])
def test_clock_a_day_apart_is_seen_and_nothing_is_renewed(tree: Path, ahead: dt.timedelta) -> None:
    """Also by certificates that have ended, or are not valid yet, by the clock here."""
    with server(tree, ahead) as port:
        seen = clocks.ahead("127.0.0.1", port, tree / "site-anchor.crt")
    assert seen is not None
    assert round(seen / DAY) == ahead.days
    with pytest.raises(RefusedError, match=r"clocks disagree: p2 by [+-]86[34].. s from p1"):
        renewal.judge_clocks(SITE.primers[0], {"p2": seen, "p3": dt.timedelta(), "p4": None})


def test_equal_clocks_and_silent_primers_stop_nothing(tree: Path) -> None:
    with server(tree, dt.timedelta()) as port:
        seen = clocks.ahead("127.0.0.1", port, tree / "site-anchor.crt")
    renewal.judge_clocks(SITE.primers[0], {"p2": seen, "p3": None})


def test_server_of_another_site_tells_no_time(tree: Path, tmp_path: Path) -> None:
    pki.init(SITE, tmp_path / "pki", tmp_path / "root.pem", "passphrase")
    with server(tree, DAY) as port:
        assert clocks.ahead("127.0.0.1", port, tmp_path / "pki/site-anchor.crt") is None
