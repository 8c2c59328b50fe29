"""A lock in etcd: of all Primers, one does a piece of work at a time.

`etcdctl lock` holds it with a lease that it renews. When its process ends, killed or not, nobody
renews the lease, and etcd removes the lock after LEASE_SECONDS at the latest (etcd.io, "Distributed
locks"). etcd gives no lease while the alarm NOSPACE is raised.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import os
import select
import socket
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keystone.cluster import etcdctl
from keystone.errors import HostError, RefusedError
from keystone.run import PIPE, bound, spawned

if TYPE_CHECKING:
    import subprocess  # noqa: TID251 the type of what run.spawned gives
    from collections.abc import Iterator

LOCKS = "/keystone/lock/"
HOLDERS = "/keystone/holder/"
"""Prefix of the keys that say who holds a lock, each with the lease of the lock."""
LEASE_SECONDS = 30
"""After a crash of the holder others wait this long. An etcd that has lost its leader for longer
than this ends the lock too."""
WAIT_SECONDS = 5.0


class LockHeldError(RefusedError):
    """Another process holds the lock. holder: who, in words; "" if that is unknown."""

    def __init__(self, name: str, holder: str) -> None:
        super().__init__(
            f"{name}: {holder or 'another process'} is at it",
            hint="wait until it has ended; if it was killed, its lock ends "
            f"{LEASE_SECONDS} seconds later",
        )
        self.holder = holder


@dataclass(frozen=True)
class Held:
    """A lock that is held. Ask `require` again before each step that must not run twice.

    lease: its id in etcd; keys that are written with it vanish with the lock.
    """

    name: str
    lease: int
    process: subprocess.Popen[bytes]

    def require(self) -> None:
        """Raise HostError if the lock was lost since, because etcd did not answer for too long."""
        if self.process.poll() is not None:
            raise HostError(
                f"the lock {self.name} was lost: etcd did not renew it in time",
                hint="look at `keystone-install etcd status`, then run the same command again",
            )


@contextmanager
def held(
    name: str, *, wait: float = WAIT_SECONDS, endpoints: str = etcdctl.LOCAL
) -> Iterator[Held]:
    """Hold the site's lock of this name while the block runs.

    wait: seconds to wait for another holder. endpoints: members to ask, separated by commas; name
    several if the block stops the member on this host. Raises LockHeldError (exit code 7) if
    another process holds it for longer, HostError if etcd does not answer or the lock is lost.
    """
    etcdctl.require_certificates()
    argv = etcdctl.words("lock", f"{LOCKS}{name}", "--ttl", str(LEASE_SECONDS), endpoints=endpoints)
    # `bound`: etcdctl must not go on to renew the lease of a process that was killed.
    with spawned(bound(argv), stdout=PIPE, together=True) as process:
        lease = _acquired(name, process, wait, endpoints)
        since = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        who = f"{socket.gethostname()} (process {os.getpid()}, since {since})"
        etcdctl.tell(
            "put", f"--lease={lease:x}", f"{HOLDERS}{name}", who, endpoints=endpoints, seconds=10
        )
        lock = Held(name, lease, process)
        yield lock
        lock.require()


def holder(name: str, *, endpoints: str = etcdctl.LOCAL) -> str:
    """Return who holds the lock, in words; "" if nobody does or that is unknown."""
    found = etcdctl.ask("get", f"{HOLDERS}{name}", endpoints=endpoints, seconds=5)
    values = [base64.b64decode(entry["value"]) for entry in found.get("kvs", [])]
    return values[0].decode(errors="replace") if values else ""


def _acquired(name: str, process: subprocess.Popen[bytes], wait: float, endpoints: str) -> int:
    """Wait until etcdctl has the lock; return the id of its lease."""
    assert process.stdout is not None
    said, deadline = b"", time.monotonic() + wait
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([process.stdout], [], [], left)[0]:
            break
        chunk = os.read(process.stdout.fileno(), 1 << 16)
        if not chunk:
            raise HostError(
                f"etcd does not give the lock {name}: "
                f"{etcdctl.last_line(said.decode(errors='replace'))}",
                hint="look at `keystone-install etcd status`",
            )
        said += chunk
        for line in said.split(b"\n")[:-1]:
            if (lease := _lease(line)) is not None:
                return lease
    raise LockHeldError(name, holder(name, endpoints=endpoints))


def _lease(line: bytes) -> int | None:
    """Return the lease in etcdctl's answer; None for its log, which is JSON too."""
    try:
        found: Any = json.loads(line)
        return int(found["kvs"][0]["lease"])
    except (ValueError, TypeError, LookupError):
        return None
