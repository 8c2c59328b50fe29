"""Sites on which a bundle's roles are tried: every kind of host, and both profiles of patience."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import yaml

from keystone.ansible.roles import variables
from keystone.bundle.model import Digest, Item, Manifest
from keystone.closure import roles
from keystone.closure.finding import Finding
from keystone.closure.roles import Converged, Role
from keystone.cluster.context import Context
from keystone.errors import ConfigurationError
from keystone.site.model import Disk, Networks, Node, Patience, Site

if TYPE_CHECKING:
    from collections.abc import Iterator


NOT_INSIDE = "not-inside"
"""The version of what a role asks for and the bundle does not hold."""
DEFINED = {
    "image": "spec.images: - ref: {}:<tag>",
    "binary": "spec.binaries: - {{name: {}, version: ..., url: ...}}",
    "deb": "spec.debs: add {} to a group",
}
"""How a definition names what a role takes by kind and name."""
PACKED = "site-packages/keystone/_data/"
MAX_FILE = 1 << 20


@dataclass(frozen=True)
class Asking(Manifest):
    """A table of contents that answers every question, and notes those that it had to invent."""

    asked: dict[tuple[str, str], dict[str, None]] = field(default_factory=dict)
    who: list[str] = field(default_factory=list)

    def item(self, kind: str, name: str) -> Item:
        """The item, or one that stands for it."""
        for item in self.items:
            if (item.kind, item.name) == (kind, name):
                return item
        self.asked.setdefault((kind, name), {}).update(dict.fromkeys(self.who))
        digest = hashlib.sha256(f"{kind} {name}".encode()).hexdigest()
        return Item(kind, name, NOT_INSIDE, Digest(digest), 0)

    def findings(self) -> Iterator[Finding]:
        """What it invented."""
        for (kind, name), everybody in self.asked.items():
            line = DEFINED.get(kind, "spec.files: - {{name: {}, path: ...}}").format(name)
            for who in everybody:
                yield Finding("item", f"{kind} {name}", who, line)


def unpack(installer: Any, folder: Path) -> Path:  # noqa: ANN401 a binary file
    """Roles and playbooks out of the packed installer, which carries them as package data.

    Raises ConfigurationError when there are none.
    """
    try:
        with zipfile.ZipFile(installer) as archive:
            for entry in archive.infolist():
                inner = PurePosixPath(entry.filename.removeprefix(PACKED))
                if not entry.filename.startswith(PACKED) or entry.is_dir() or ".." in inner.parts:
                    continue
                if entry.file_size > MAX_FILE or inner.parts[0] not in {"roles", "playbooks"}:
                    continue
                path = folder / inner
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(entry))
    except zipfile.BadZipFile as error:
        raise ConfigurationError(
            f"the installer inside is not a packed keystone-install: {error}",
            hint="lock and create the bundle again",
        ) from error
    if not (folder / "roles").is_dir():
        raise ConfigurationError(
            f"the installer inside carries no roles below {PACKED}",
            hint="lock and create the bundle again",
        )
    return folder


def contexts(manifest: Manifest) -> list[Context]:
    """Every kind of host of two sites: all Primers alike, or one control plane among them."""
    found = []
    for alike, profile in ((True, "normal"), (False, "emulated")):
        site = Site(
            name="check",
            primers=tuple(
                Node(
                    f"p{number}",
                    IPv4Address(f"192.0.2.1{number}"),  # RFC 5737: nobody's
                    (Disk(f"CHECK{number}A"), Disk(f"CHECK{number}B")),
                    control_plane=alike or number == 1,
                )
                for number in (1, 2, 3)
            ),
            networks=Networks(IPv4Network("192.0.2.0/24")),
            patience=Patience(profile),
        )
        found += [Context(site, host, manifest) for host in site.primers[:2]]
        worker = Node("w1", IPv4Address("192.0.2.21"), control_plane=False)
        found.append(Context(site, worker, manifest))
    return found


def converge(root: Path, manifest: Asking) -> list[Converged]:
    """Every role on every host that gets it. root: the folder that holds roles/ and playbooks/."""
    workers = _roles_of(root / "playbooks" / "worker.yml")
    found = []
    every = [Role.read(path) for path in sorted((root / "roles").iterdir()) if path.is_dir()]
    for context in contexts(manifest):
        worker = context.host not in context.site.primers
        for role in every:
            name = role.path.name
            if worker and name not in workers:
                continue
            manifest.who[:] = [f"role {name}"]
            told = {**variables(name, context), f"{name}_inputs": ""}
            found.append(roles.converge(role, told))
    return found


def _roles_of(playbook: Path) -> set[str]:
    plays = yaml.safe_load(playbook.read_text())
    return {str(role) for play in plays for role in play.get("roles", ())}
