"""How the first Primer reaches the others: ssh that knows who answers before it says anything.

A host key comes from the site file, or out of KNOWN: the introductions of the installer medium, and
what a person has confirmed. Else it is shown with the plan, and the person who approves the plan
confirms it; where nobody is asked it is refused (docs/adr/0065-host-keys.md). ssh itself adds
nothing to any file.
"""

from __future__ import annotations

import hashlib
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import host_keys
from keystone.errors import ConfigurationError, RefusedError, UsageError
from keystone.files import write_whole
from keystone.hosts import observe
from keystone.run import Host

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    from keystone.site.model import Node, Site

KNOWN = Path("/etc/keystone/known_hosts")
"""The host keys that somebody vouches for; public, and kept from run to run."""
READ = "/run/keystone-known_hosts-{}"
"""What ssh reads, named by its content: another run for another site has another one."""
CONSOLE = "`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the machine's own console"


@dataclass(frozen=True)
class Unknown:
    """A Primer whose host key nobody vouches for. where: of the key in the site file."""

    name: str
    address: str
    where: str
    key: str

    @property
    def fingerprint(self) -> str:
        """What its console shows."""
        return host_keys.fingerprint(self.key)


@dataclass(frozen=True)
class Reach:
    """The Primers, and whose keys are still to be confirmed. keys: by place, as known_hosts."""

    hosts: Mapping[str, Host]
    unknown: tuple[Unknown, ...]
    keys: Mapping[str, str]

    def keep(self) -> None:
        """Somebody vouches for all of them, by the site file or just now: for the next run."""
        text = _text(self.keys)
        if text and not (KNOWN.is_file() and KNOWN.read_text() == text):
            write_whole(KNOWN, text.encode(), 0o644)


def hosts_of(wanted: Site) -> dict[str, Host]:
    """How to reach each Primer. Raises RefusedError for host keys that nobody vouches for."""
    reached = look(wanted)
    if reached.unknown:
        raise refusal(reached.unknown)
    return dict(reached.hosts)


def look(wanted: Site) -> Reach:
    """How to reach each Primer; one whose key is not known yet is asked for it, and no more.

    Raises ConfigurationError where the first one is not this machine, HostError for one that does
    not answer or whose key has not the fingerprint that the site file names; needs root.
    """
    if os.geteuid() != 0:
        raise UsageError("the other Primers are reached from the first one, by root", hint="sudo")
    first, *others = wanted.primers
    here = observe.local_addresses()
    if str(first.address) not in here:
        raise ConfigurationError(
            f"{first.name} ({first.address}) is the first Primer, but this machine "
            f"({socket.gethostname()}) has {', '.join(sorted(here))}",
            hint=f"run keystone-install on {first.name}, or list this machine first in the site",
        )
    kept = KNOWN.read_text() if KNOWN.is_file() else ""
    keys = {node.name: vouched(node, wanted.ssh.port, kept) for node in others}
    asked = {node.name: _plain(wanted, node) for node in others if not keys[node.name]}
    with ThreadPoolExecutor(max(len(asked), 1)) as pool:
        for name, seen in zip(asked, pool.map(Host.scan, asked.values()), strict=True):
            keys[name] = seen[0]
            node = next(node for node in others if node.name == name)
            if node.host_key:
                keys[name] = host_keys.named(node.host_key, seen)
                if not keys[name]:
                    raise asked[name].another_key(node.host_key, seen)
    places = {host_keys.place(str(n.address), wanted.ssh.port): keys[n.name] for n in others}
    unknown = tuple(
        Unknown(node.name, str(node.address), f"primers[{number}].hostKey", keys[node.name])
        for number, node in enumerate(wanted.primers)
        if node.name in asked and not node.host_key
    )
    return Reach(_hosts(wanted, _text(places), {first.name}), unknown, places)


def known(wanted: Site) -> dict[str, Host]:
    """Those Primers that are this very machine, or whose host key somebody vouches for."""
    here = observe.local_addresses()
    kept = KNOWN.read_text() if KNOWN.is_file() else ""
    keys = {node: vouched(node, wanted.ssh.port, kept) for node in wanted.primers}
    places = {
        host_keys.place(str(node.address), wanted.ssh.port): key
        for node, key in keys.items()
        if key
    }
    local = {node.name for node in wanted.primers if str(node.address) in here}
    every = _hosts(wanted, _text(places), local)
    return {node.name: every[node.name] for node in keys if keys[node] or node.name in local}


def vouched(node: Node, port: int, kept: str) -> str:
    """The key that site file or KNOWN (its text: kept) has for a Primer; "" when none has."""
    if node.host_key and not node.host_key.startswith(host_keys.HASH):
        return host_keys.key(node.host_key)
    known = host_keys.known(kept, host_keys.place(str(node.address), port))
    if node.host_key:
        return host_keys.named(node.host_key, known)
    return known[0] if known else ""


def refusal(unknown: Iterable[Unknown]) -> RefusedError:
    """Why nobody is spoken to, and what to write into the site file."""
    listed = tuple(unknown)
    return RefusedError(
        "\n".join(
            f"{one.name} ({one.address}): nobody vouches for its SSH host key {one.fingerprint}"
            for one in listed
        ),
        hint=f"compare with {CONSOLE}; where it is the same, put into spec of the site file:\n"
        + "\n".join(f"    {one.where}: {one.key}" for one in listed),
    )


def _plain(wanted: Site, node: Node) -> Host:
    return Host(node.name, str(node.address), port=wanted.ssh.port)


def _hosts(wanted: Site, known: str, local: Container[str]) -> dict[str, Host]:
    # A connection that is kept open was checked against the keys of its own run: other keys,
    # another connection.
    mark = hashlib.sha256(known.encode()).hexdigest()[:8]
    read = Path(READ.format(mark))
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
                     "-o", f"ControlPath=/run/keystone-{mark}-%C"),
        )
        for node in wanted.primers
    }  # fmt: skip


def _text(keys: Mapping[str, str]) -> str:
    return "".join(f"{place} {line}\n" for place, line in keys.items())
