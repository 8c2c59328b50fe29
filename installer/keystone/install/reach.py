"""How a Primer reaches the others: over ssh, with host keys that are known before.

A host key comes from the site file, or from KNOWN: introductions of the installer medium, and
keys that a person has confirmed. Any other key is shown with the plan, and the person who approves
the plan confirms it; if no person can be asked, the host is refused (docs/adr/0065-host-keys.md).
ssh itself adds nothing to any file.
"""

from __future__ import annotations

import hashlib
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import host_keys
from keystone.errors import ConfigurationError, RefusedError, UsageError
from keystone.files import write_whole
from keystone.hosts import observe
from keystone.run import Host
from keystone.site.model import Node

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping
    from typing import TypeVar

    from keystone.cluster.known import Known
    from keystone.site.model import Site

    Answer = TypeVar("Answer")

KNOWN = Path("/etc/keystone/known_hosts")
"""The known host keys; public, and kept from run to run."""
READ = "/run/keystone-known_hosts-{}"
"""The file of known hosts that ssh reads, named by its content: one for each site."""
CONNECT_SECONDS = {"normal": 4, "emulated": 30}
"""By the site's patience: for a look that must not wait long for a host that is off."""
CONSOLE = "`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the machine's own console"


@dataclass(frozen=True)
class Unknown:
    """A Primer with an unknown host key. where: the field of the site file for the key."""

    name: str
    address: str
    where: str
    key: str

    @property
    def fingerprint(self) -> str:
        """The fingerprint, as the host's console shows it."""
        return host_keys.fingerprint(self.key)


@dataclass(frozen=True)
class Reach:
    """The Primers, and those with keys to confirm. keys: by place, as in known_hosts."""

    hosts: Mapping[str, Host]
    unknown: tuple[Unknown, ...]
    keys: Mapping[str, str]

    def keep(self) -> None:
        """Save all keys in KNOWN for the next run. Call it only once all are confirmed."""
        kept = KNOWN.read_text() if KNOWN.is_file() else ""
        if any(key not in host_keys.known(kept, place) for place, key in self.keys.items()):
            write_whole(KNOWN, _text(self.keys).encode(), 0o644)


def hosts_of(wanted: Site, *, keyless: bool = False) -> dict[str, Host]:
    """Return how to reach each Primer. Raises RefusedError for unknown host keys, and as `find`.

    keyless: also without the private key, with which the other Primers would answer.
    """
    reached = find(wanted, keyless=keyless)
    if reached.unknown:
        raise refusal(reached.unknown)
    return dict(reached.hosts)


def find(wanted: Site, *, replacing: Container[str] = (), keyless: bool = False) -> Reach:
    """Find how to reach each Primer; ask a Primer without a known key for its key, nothing else.

    replacing: Primers whose confirmed keys do not count any more, because their machines were
    replaced. Raises ConfigurationError if none of the Primers is this machine, or, unless keyless,
    if the private key of the site file is not here; HostError for a Primer that does not answer or
    whose key has not the fingerprint in the site file; UsageError without root.
    """
    if os.geteuid() != 0:
        raise UsageError("only root can reach the other Primers", hint="run it with sudo")
    here = observe.local_addresses()
    local = {node.name for node in wanted.primers if str(node.address) in here}
    if not local:
        raise ConfigurationError(
            f"none of the site's Primers is this machine ({socket.gethostname()}), which has "
            f"{', '.join(sorted(here))}",
            hint=f"run it on one of: {', '.join(node.name for node in wanted.primers)}",
        )
    others = [node for node in wanted.primers if node.name not in local]
    if not keyless:
        _require_key(wanted, others)
    kept = KNOWN.read_text() if KNOWN.is_file() else ""
    keys = {
        node.name: known_key(node, wanted.ssh.port, "" if node.name in replacing else kept)
        for node in others
    }
    asked = {node.name: _plain(wanted, node) for node in others if not keys[node.name]}
    with ThreadPoolExecutor(max(len(asked), 1)) as pool:
        for name, seen in zip(asked, pool.map(Host.scan, asked.values()), strict=True):
            keys[name] = seen[0]
            node = next(node for node in others if node.name == name)
            if node.host_key:
                keys[name] = host_keys.named(node.host_key, seen)
                if not keys[name]:
                    raise host_keys.another(name, asked[name].address, node.host_key, seen)
    places = {host_keys.place(str(n.address), wanted.ssh.port): keys[n.name] for n in others}
    unknown = tuple(
        Unknown(node.name, str(node.address), f"primers[{number}].hostKey", keys[node.name])
        for number, node in enumerate(wanted.primers)
        if node.name in asked and not node.host_key
    )
    return Reach(_hosts(wanted, _text(places), local), unknown, places)


def _require_key(wanted: Site, others: Iterable[Node]) -> None:
    file = wanted.ssh.key_file
    if file and any(others) and not Path(file).is_file():
        raise ConfigurationError(
            f"{file}: not on this machine ({socket.gethostname()}); the site file names it as the "
            "private key for the other Primers (spec.ssh.keyFile)",
            hint="copy it here from another Primer or your own copy, readable by root only",
        )


def departed(wanted: Site, records: Mapping[str, Known]) -> dict[str, Host]:
    """Return how to reach Primers that the site file does not name any more, by their records."""
    nodes = tuple(Node(name, IPv4Address(one.address)) for name, one in records.items())
    port = wanted.ssh.port
    places = {host_keys.place(one.address, port): one.host_key for one in records.values()}
    return _hosts(replace(wanted, primers=nodes), _text(places), ()) if nodes else {}


def known(wanted: Site) -> dict[str, Host]:
    """Return the Primers that are this machine or have a known host key."""
    here = observe.local_addresses()
    kept = KNOWN.read_text() if KNOWN.is_file() else ""
    keys = {node: known_key(node, wanted.ssh.port, kept) for node in wanted.primers}
    places = {
        host_keys.place(str(node.address), wanted.ssh.port): key
        for node, key in keys.items()
        if key
    }
    local = {node.name for node in wanted.primers if str(node.address) in here}
    every = _hosts(wanted, _text(places), local)
    return {node.name: every[node.name] for node in keys if keys[node] or node.name in local}


def known_key(node: Node, port: int, kept: str) -> str:
    """Return a Primer's key from the site file or KNOWN (kept: its text); "" if unknown."""
    if node.host_key and not node.host_key.startswith(host_keys.HASH):
        return host_keys.key(node.host_key)
    known = host_keys.known(kept, host_keys.place(str(node.address), port))
    if node.host_key:
        return host_keys.named(node.host_key, known)
    return known[0] if known else ""


def refusal(unknown: Iterable[Unknown]) -> RefusedError:
    """Return an error that names the unknown host keys and what to add to the site file."""
    listed = tuple(unknown)
    return RefusedError(
        "\n".join(
            f"{one.name} ({one.address}): its SSH host key {one.fingerprint} is not known"
            for one in listed
        ),
        hint=f"compare with {CONSOLE}; if it is the same, add to spec of the site file:\n"
        + "\n".join(f"    {one.where}: {one.key}" for one in listed),
    )


def _plain(wanted: Site, node: Node) -> Host:
    return Host(node.name, str(node.address), port=wanted.ssh.port)


def _hosts(wanted: Site, known: str, local: Container[str]) -> dict[str, Host]:
    # An open connection was checked against the keys of its own run: other keys need another
    # connection.
    digest = hashlib.sha256(known.encode()).hexdigest()[:8]
    read = Path(READ.format(digest))
    write_whole(read, known.encode(), 0o644)
    return {
        node.name: Host(
            name=node.name,
            address=str(node.address),
            user=wanted.ssh.user,
            port=wanted.ssh.port,
            key_file=wanted.ssh.key_file,
            known_hosts=str(read),
            local=node.name in local,
            options=("-o", "ControlMaster=auto", "-o", "ControlPersist=300",
                     "-o", f"ControlPath=/run/keystone-{digest}-%C"),
        )
        for node in wanted.primers
    }  # fmt: skip


def _text(keys: Mapping[str, str]) -> str:
    return "".join(f"{place} {line}\n" for place, line in keys.items())


def first_answer(
    hosts: Iterable[Host],
    ask: Callable[[Host], Answer | None],
    answered: Callable[[Answer], bool],
) -> Answer | None:
    """Return the first answer that `answered` accepts, else the last answer."""
    answer = None
    for host in hosts:
        answer = ask(host)
        if answer is not None and answered(answer):
            break
    return answer
