"""Read the metrics of the etcd member on this host; they are on loopback only."""

from __future__ import annotations

import http.client

from keystone.cluster.etcd import METRICS_PORT
from keystone.errors import HostError

HOST, SECONDS = "127.0.0.1", 10
LARGEST = 4 << 20


def read(port: int = METRICS_PORT) -> str:
    """Return the metrics as text. Raises HostError if the member does not give them."""
    connection = http.client.HTTPConnection(HOST, port, timeout=SECONDS)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        text = answer.read(LARGEST).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise HostError(
            f"etcd on this host gives no metrics on port {port}: {error}",
            hint="look at it: systemctl status etcd; journalctl -u etcd",
        ) from error
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise HostError(f"etcd's metrics on port {port}: HTTP status {answer.status}")
    return text
