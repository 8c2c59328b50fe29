"""What can be known of a blob: packages inside it, licences as they are stated, never guessed."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

SCANNER = 1
"""Raise when the scanners find more than before: inventories are made anew."""


class UnreadableError(Exception):
    """A blob is not what its first bytes promise, or larger than a reader may follow.

    It stops the look into that blob only; the inventory says so in its notes.
    """


@dataclass(frozen=True, order=True)
class Licence:
    """expression: SPDX licence expression, "" where not all that is stated is SPDX's.

    names: what is stated then, each one as it is written.
    """

    expression: str = ""
    names: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.expression or self.names)


UNKNOWN = Licence()


@dataclass(frozen=True, order=True)
class Package:
    """A package by its package-url parts (purl-spec): kind is purl's type, "deb" or "golang"."""

    kind: str
    name: str
    version: str
    namespace: str = ""
    architecture: str = ""
    licence: Licence = UNKNOWN


@dataclass(frozen=True)
class Inventory:
    """One blob. form: "deb", "tar", "elf", "zip", "json", "other".

    licence: of the blob itself. distribution: ID of os-release, where the blob has one.
    labels: of an image configuration. notes: what could not be read, and why.
    """

    form: str = "other"
    packages: tuple[Package, ...] = ()
    licence: Licence = UNKNOWN
    distribution: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    notes: tuple[str, ...] = ()


def to_json(inventory: Inventory) -> dict[str, Any]:
    """A cache file's content."""
    return {
        "form": inventory.form,
        "packages": [
            [p.kind, p.name, p.version, p.namespace, p.architecture, *_licence(p.licence)]
            for p in inventory.packages
        ],
        "licence": _licence(inventory.licence),
        "distribution": inventory.distribution,
        "labels": dict(inventory.labels),
        "notes": list(inventory.notes),
    }


def from_json(value: dict[str, Any]) -> Inventory:
    """Raises KeyError, TypeError or ValueError for anything else."""
    return Inventory(
        form=str(value["form"]),
        packages=tuple(
            Package(kind, name, version, namespace, architecture, Licence(expression, tuple(names)))
            for kind, name, version, namespace, architecture, expression, names in value["packages"]
        ),
        licence=Licence(str(value["licence"][0]), tuple(value["licence"][1])),
        distribution=str(value["distribution"]),
        labels=MappingProxyType(dict(value["labels"])),
        notes=tuple(value["notes"]),
    )


def _licence(licence: Licence) -> list[Any]:
    return [licence.expression, list(licence.names)]
