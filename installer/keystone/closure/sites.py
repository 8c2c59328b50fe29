"""Example sites for rendering a bundle's roles: all kinds of hosts, both profiles of patience."""

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
"""Version of an item that a role needs and the bundle lacks."""
DEFINED = {
    "image": "spec.images: - ref: {}:<tag>",
    "binary": "spec.binaries: - {{name: {}, version: ..., url: ...}}",
    "deb": "spec.debs: add {} to a group",
}
"""The line for a definition that adds an item, by kind."""
PACKED = "site-packages/keystone/_data/"
MAX_FILE = 1 << 20


@dataclass(frozen=True)
class RecordingManifest(Manifest):
    """A table of contents that makes up missing items and records who needed them.

    asked: the referrers of each missing item, by kind and name. referrer: the current one.
    """

    asked: dict[tuple[str, str], dict[str, None]] = field(default_factory=dict)
    referrer: list[str] = field(default_factory=list)

    def item(self, kind: str, name: str) -> Item:
        """The item, or a placeholder for a missing one."""
        for item in self.items:
            if (item.kind, item.name) == (kind, name):
                return item
        self.asked.setdefault((kind, name), {}).update(dict.fromkeys(self.referrer))
        digest = hashlib.sha256(f"{kind} {name}".encode()).hexdigest()
        return Item(kind, name, NOT_INSIDE, Digest(digest), 0)

    def findings(self) -> Iterator[Finding]:
        """A finding for each missing item and referrer."""
        for (kind, name), referrers in self.asked.items():
            line = DEFINED.get(kind, "spec.files: - {{name: {}, path: ...}}").format(name)
            for who in referrers:
                yield Finding("item", f"{kind} {name}", who, line)


def unpack(installer: Any, folder: Path) -> Path:  # noqa: ANN401 a binary file
    """Extract roles and playbooks from the packed installer, which has them as package data.

    Returns `folder`. Raises ConfigurationError when there are none.
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
            f"the installer in the bundle is not a packed keystone-install: {error}",
            hint="lock and create the bundle again",
        ) from error
    if not (folder / "roles").is_dir():
        raise ConfigurationError(
            f"the installer in the bundle contains no roles below {PACKED}",
            hint="lock and create the bundle again",
        )
    return folder


def contexts(manifest: Manifest) -> list[Context]:
    """Each kind of host of two sites: all Primers equal, or only one with a control plane."""
    found = []
    for alike, profile in ((True, "normal"), (False, "emulated")):
        site = Site(
            name="check",
            primers=tuple(
                Node(
                    f"p{number}",
                    IPv4Address(f"192.0.2.1{number}"),  # RFC 5737: for documentation
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


def converge(root: Path, manifest: RecordingManifest) -> list[Converged]:
    """Render every role on every host that gets it. root: contains roles/ and playbooks/."""
    workers = _roles_of(root / "playbooks" / "worker.yml")
    found = []
    every = [Role.read(path) for path in sorted((root / "roles").iterdir()) if path.is_dir()]
    for context in contexts(manifest):
        worker = context.host not in context.site.primers
        for role in every:
            name = role.path.name
            if worker and name not in workers:
                continue
            manifest.referrer[:] = [f"role {name}"]
            given = {**variables(name, context), f"{name}_inputs": ""}
            found.append(roles.converge(role, given))
    return found


def _roles_of(playbook: Path) -> set[str]:
    plays = yaml.safe_load(playbook.read_text())
    return {str(role) for play in plays for role in play.get("roles", ())}
