"""join.yaml: what machines that start from the installer medium need to become workers of a site.

`token create --to` writes it on a Primer, and each call adds a token: one use, one machine. An
entry that describes a machine is that machine's; the others are for whom the guided way asks.
Whoever has the file can join as a worker until its tokens are used or expire. Pure, but for `load`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

import yaml

from keystone import documents
from keystone.cluster import join_config
from keystone.errors import RefusedError, UsageError
from keystone.join import script, tokens
from keystone.site import checks
from keystone.site import model as site
from keystone.site.model import Machine, Networks, Ssh

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from keystone.cluster.join_config import Config
    from keystone.documents import Document
    from keystone.mistakes import Mistakes

NAME = "join.yaml"
SHOWN = 16
"""Hex digits of the CA's pin that a person compares: 64 bits."""


@dataclass(frozen=True)
class Worker:
    """One token, and what is known of the machine that it is for.

    server: the join service of the Primer that made the token, which alone knows it. expires: for
    people. name: "" where a person says it. address: None for what DHCP gives. machine: None where
    any machine may take it. system_disk: a serial number, "" for the only disk.
    """

    where: ClassVar[str] = f"{NAME}: workers[]"
    token: str
    server: str
    expires: str = ""
    name: str = ""
    address: IPv4Address | None = None
    machine: Machine | None = None
    system_disk: str = ""

    @property
    def disks(self) -> tuple[site.Disk, ...]:
        """Those of a pool, which a worker does not have."""
        return ()

    @property
    def primer(self) -> str:
        """The address of the Primer that is asked."""
        return urlsplit(self.server).hostname or ""


@dataclass(frozen=True)
class Join:
    """A whole file. name: the site's. ca: its CA, PEM."""

    name: str
    ca: str
    networks: Networks
    workers: tuple[Worker, ...]
    ssh: Ssh = field(default_factory=Ssh)
    system_floor: int = 0

    @property
    def free(self) -> tuple[Worker, ...]:
        """Those that any machine may take, in the file's order."""
        return tuple(worker for worker in self.workers if worker.machine is None)

    @property
    def pin(self) -> str:
        """SHA-256 of the CA, hex: what every token of the file carries."""
        return script.pin(self.ca)


def load(path: Path | str) -> Join:
    """From a file. Raises ConfigurationError with all the mistakes in it, each with its line."""
    return _from(documents.load(path, kind="Join", schema=schema(), check=_check))


def parse(text: str) -> Join:
    """`load`, from text that is here already."""
    return _from(documents.loads(text, name=NAME, kind="Join", schema=schema(), check=_check))


def schema() -> dict[str, Any]:
    """The published JSON Schema of the whole document."""
    return documents.packaged_schema("join")


def text(wanted: Join) -> str:
    """As the file's text."""
    return _text(_document(wanted))


def alone(wanted: Join, worker: Worker) -> Join:
    """What one machine's disk holds: no token but its own."""
    return replace(wanted, workers=(worker,))


def taken(wanted: Join, entry: Worker, worker: Worker) -> Join:
    """With `worker` in the place of `entry`."""
    return replace(wanted, workers=tuple(worker if w == entry else w for w in wanted.workers))


def begun(config: Config, ca: str) -> Join:
    """A site's file, without a worker as yet."""
    known = config.site
    return Join(known.name, ca, known.networks, (), known.ssh, known.system_floor)


def grown(mine: Join, known: Join, dead: Callable[[Worker], bool], entry: Mapping[str, Any]) -> str:
    """The text of a file with one more worker, without those whose token is worthless.

    Of the file that is there only workers are taken: who may log in is what this Primer says, and
    not the stick. mine: as `begun` makes it. entry: as the file has it. Raises RefusedError when
    the file is another site's, ConfigurationError with what is wrong with the entry.
    """
    if mine.pin != known.pin:
        raise RefusedError(
            f"{NAME} there is of site {known.name} with another CA",
            hint="take another stick, or remove that file",
        )
    kept = replace(mine, workers=tuple(worker for worker in known.workers if not dead(worker)))
    document = _document(kept)
    document["spec"]["workers"].append({key: value for key, value in entry.items() if value})
    whole = _text(document)
    parse(whole)
    return whole


def entry(token: tokens.Token, expires: int, config: Config) -> dict[str, Any]:
    """What an entry says of a token. expires: seconds since 1970."""
    return {
        "token": str(token),
        "server": f"https://{config.host.address}:{join_config.PORT}",
        "expires": time.strftime("%Y-%m-%d %H:%MZ", time.gmtime(expires)),
    }


def _check(document: Document, mistakes: Mistakes) -> None:
    """What a schema cannot say of the file; see documents.load."""
    checks.check_machines(document, "workers", mistakes)
    ca, listed = document.spec.get("ca"), document.spec.get("workers")
    pin = script.pin(ca) if isinstance(ca, str) else ""
    seen: set[str] = set()
    for index, worker in enumerate(listed if isinstance(listed, list) else []):
        if not isinstance(worker, dict):
            continue
        at = ("spec", "workers", index)
        if worker.get("machine") and not worker.get("name"):
            mistakes.add(at, "a machine is described and has no name", "add name")
        try:
            token = tokens.Token.parse(str(worker.get("token", "")))
        except UsageError:
            continue  # the schema has said it
        if pin and token.pin != pin:
            mistakes.add((*at, "token"), "is for another CA than spec.ca", "make another token")
        if token.id in seen:
            mistakes.add((*at, "token"), "is there already: each is for one machine", "keep one")
        seen.add(token.id)


def _from(document: Document) -> Join:
    spec = document.spec
    networks = spec["networks"]
    gateway = networks.get("gateway")
    return Join(
        name=document.name,
        ca=spec["ca"],
        networks=Networks(
            IPv4Network(networks["nodes"]), gateway=IPv4Address(gateway) if gateway else None
        ),
        workers=tuple(_worker(worker) for worker in spec["workers"]),
        ssh=Ssh(authorized_keys=tuple(spec.get("ssh", {}).get("authorizedKeys", ()))),
        system_floor=spec.get("systemFloor", Join.system_floor),
    )


def _worker(fields: Mapping[str, Any]) -> Worker:
    address, machine = fields.get("address"), fields.get("machine")
    return Worker(
        token=fields["token"],
        server=fields["server"],
        expires=fields.get("expires", ""),
        name=fields.get("name", ""),
        address=IPv4Address(address) if address else None,
        machine=site.machine(machine) if machine else None,
        system_disk=fields.get("systemDisk", ""),
    )


def _document(wanted: Join) -> dict[str, Any]:
    gateway, keys = wanted.networks.gateway, wanted.ssh.authorized_keys
    spec: dict[str, Any] = {
        **({"systemFloor": wanted.system_floor} if wanted.system_floor else {}),
        "ca": wanted.ca,
        "networks": {
            "nodes": str(wanted.networks.nodes),
            **({"gateway": str(gateway)} if gateway else {}),
        },
        **({"ssh": {"authorizedKeys": list(keys)}} if keys else {}),
        "workers": [_fields(worker) for worker in wanted.workers],
    }
    return {
        "apiVersion": documents.API_VERSION,
        "kind": "Join",
        "metadata": {"name": wanted.name},
        "spec": spec,
    }


def _fields(worker: Worker) -> dict[str, Any]:
    machine = worker.machine
    known = {
        "token": worker.token,
        "server": worker.server,
        "expires": worker.expires,
        "name": worker.name,
        "address": str(worker.address or ""),
        "machine": {
            **({"serial": machine.serial} if machine and machine.serial else {}),
            **({"macs": list(machine.macs)} if machine and machine.macs else {}),
        },
        "systemDisk": worker.system_disk,
    }
    return {key: value for key, value in known.items() if value}


class _Dumper(yaml.SafeDumper):
    """A text of several lines, the CA, is a block: a person can compare it with the file."""


def _block(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, "|" if "\n" in value else None)


_Dumper.add_representer(str, _block)


def _text(document: Mapping[str, Any]) -> str:
    dumped: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=200)
    return dumped
