"""Inventories of blobs: the packages in them, and licences as stated, never guessed."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

SCANNER = 2
"""Increment it when the scanners find more than before, so that blobs are scanned again."""


@dataclass(frozen=True, order=True)
class Licence:
    """A licence as stated.

    expression: SPDX licence expression, "" if SPDX does not have all stated names. names: those
    names then, as written.
    """

    expression: str = ""
    names: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.expression or self.names)


UNKNOWN = Licence()


@dataclass(frozen=True, order=True)
class Package:
    """A package, by the parts of its package URL (purl-spec). kind: purl type, such as "deb"."""

    kind: str
    name: str
    version: str
    namespace: str = ""
    architecture: str = ""
    licence: Licence = UNKNOWN


@dataclass(frozen=True)
class Inventory:
    """The inventory of one blob.

    form: "deb", "tar", "elf", "zip", "json", "other". licence: of the blob itself. distribution: ID
    in os-release, if the blob has one. labels: of an image configuration. notes: what the scanner
    could not read, and why.
    """

    form: str = "other"
    packages: tuple[Package, ...] = ()
    licence: Licence = UNKNOWN
    distribution: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    notes: tuple[str, ...] = ()


def to_json(inventory: Inventory) -> dict[str, Any]:
    """Convert to the content of a cache file."""
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
    """Convert from the content of a cache file. Raises KeyError, TypeError or ValueError."""
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
