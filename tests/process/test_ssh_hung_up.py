"""A server that closes connections before it has shown a key, asked by the real ssh."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from keystone.errors import HostError
from keystone.run import Host


@pytest.fixture
def penalizing() -> Iterator[Host]:
    """A host whose server does what sshd does to an address that has a penalty."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        yield Host("p1", "127.0.0.1", port=server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize("ask", [Host.scan, lambda host: host.run(["true"])])
def test_server_that_hangs_up_is_not_called_absent(
    penalizing: Host, ask: Callable[[Host], object]
) -> None:
    with pytest.raises(HostError, match="SSH server closes our connections unanswered") as error:
        ask(penalizing)
    assert "PerSourcePenalties" in error.value.hint
