"""Ports for members on loopback."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest


@pytest.fixture
def port_pair() -> int:
    """Return a port of loopback that is free, like the one after it."""
    while True:
        with closing(socket.socket()) as first, closing(socket.socket()) as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port
