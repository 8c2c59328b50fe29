"""join.yaml: the file by which machines started from the installer medium become workers.

`token create --to` writes it on a Primer, and each call adds a token for one machine and one use.
An entry that describes a machine is for that machine only; the others are for machines that are
installed in guided mode. Whoever has the file can join as a worker until its tokens are used or
expire. Pure, but for `load`.
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
"""Number of hex digits of the CA pin that a person compares: 64 bits."""


@dataclass(frozen=True)
class Worker:
    """One token, and the description of the machine that it is for.

    server: the join service of the Primer that made the token; no other Primer knows it. expires:
    for people. name: "" if a person enters it. address: None to use DHCP. machine: None if any
    machine may use it. system_disk: a serial number, "" for the only disk.
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
        """The disks of its pool: none, as a worker has no pool."""
        return ()

    @property
    def primer(self) -> str:
        """The address of the Primer that made the token."""
        return urlsplit(self.server).hostname or ""


@dataclass(frozen=True)
class Join:
    """The content of a file. name: the site's. ca: its CA, PEM."""

    name: str
    ca: str
    networks: Networks
    workers: tuple[Worker, ...]
    ssh: Ssh = field(default_factory=Ssh)
    system_floor: int = 0

    @property
    def free(self) -> tuple[Worker, ...]:
        """The workers that any machine may become, in the file's order."""
        return tuple(worker for worker in self.workers if worker.machine is None)

    @property
    def pin(self) -> str:
        """SHA-256 of the CA, hex; every token of the file contains it."""
        return script.pin(self.ca)


def load(path: Path | str) -> Join:
    """Read a file. Raises ConfigurationError with all its mistakes, each with its line."""
    return _from(documents.load(path, kind="Join", schema=schema(), check=_check))


def parse(text: str) -> Join:
    """Parse the text of a file. Raises as `load` does."""
    return _from(documents.loads(text, name=NAME, kind="Join", schema=schema(), check=_check))


def schema() -> dict[str, Any]:
    """Return the published JSON Schema of the document."""
    return documents.packaged_schema("join")


def text(wanted: Join) -> str:
    """Return the text of the file."""
    return _text(_document(wanted))


def alone(wanted: Join, worker: Worker) -> Join:
    """Return the file for one machine's disk: with no token but its own."""
    return replace(wanted, workers=(worker,))


def taken(wanted: Join, entry: Worker, worker: Worker) -> Join:
    """Return the file with `entry` replaced by `worker`."""
    return replace(wanted, workers=tuple(worker if w == entry else w for w in wanted.workers))


def begun(config: Config, ca: str) -> Join:
    """Return a site's file without workers. ca: PEM."""
    known = config.site
    return Join(known.name, ca, known.networks, (), known.ssh, known.system_floor)


def grown(mine: Join, known: Join, dead: Callable[[Worker], bool], entry: Mapping[str, Any]) -> str:
    """Return the text of the file with one more worker, without those for which `dead` is true.

    Only the workers come from the existing file: this Primer, not the stick, decides who may log
    in. mine: as `begun` makes it. known: the existing file. entry: a worker, in the file's format.
    Raises RefusedError if the file is for another site, ConfigurationError for a wrong entry.
    """
    if mine.pin != known.pin:
        raise RefusedError(
            f"the existing {NAME} is for site {known.name} with another CA",
            hint="use another stick, or remove that file",
        )
    kept = replace(mine, workers=tuple(worker for worker in known.workers if not dead(worker)))
    document = _document(kept)
    document["spec"]["workers"].append({key: value for key, value in entry.items() if value})
    whole = _text(document)
    parse(whole)
    return whole


def entry(token: tokens.Token, expires: int, config: Config) -> dict[str, Any]:
    """Return the entry for a token, in the file's format. expires: seconds since 1970."""
    return {
        "token": str(token),
        "server": f"https://{config.host.address}:{join_config.PORT}",
        "expires": time.strftime("%Y-%m-%d %H:%MZ", time.gmtime(expires)),
    }


def _check(document: Document, mistakes: Mistakes) -> None:
    """Check what the schema cannot express; see documents.load."""
    checks.check_machines(document, "workers", mistakes)
    ca, listed = document.spec.get("ca"), document.spec.get("workers")
    pin = script.pin(ca) if isinstance(ca, str) else ""
    seen: set[str] = set()
    for index, worker in enumerate(listed if isinstance(listed, list) else []):
        if not isinstance(worker, dict):
            continue
        at = ("spec", "workers", index)
        if worker.get("machine") and not worker.get("name"):
            mistakes.add(at, "describes a machine but has no name", "add name")
        try:
            token = tokens.Token.parse(str(worker.get("token", "")))
        except UsageError:
            continue  # the schema has reported it
        if pin and token.pin != pin:
            mistakes.add((*at, "token"), "is for another CA than spec.ca", "make another token")
        if token.id in seen:
            mistakes.add((*at, "token"), "is a duplicate: each is for one machine", "keep one")
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
    """Writes multi-line text (the CA) as a block, so that a person can compare it."""


def _block(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, "|" if "\n" in value else None)


_Dumper.add_representer(str, _block)


def _text(document: Mapping[str, Any]) -> str:
    dumped: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=200)
    return dumped
