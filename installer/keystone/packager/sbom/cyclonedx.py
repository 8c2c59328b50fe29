"""Write CycloneDX 1.6 as JSON, with cyclonedx-python-lib."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from cyclonedx.model import (
    ExternalReference,
    ExternalReferenceType,
    HashAlgorithm,
    HashType,
    Property,
    XsUri,
)
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema.schema import SchemaVersion1Dot6
from packageurl import PackageURL

from keystone.packager.sbom import text
from keystone.packager.sbom.provenance import location

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from keystone.packager.sbom.graph import Element

TYPES = {
    "bundle": ComponentType.PLATFORM,
    "image": ComponentType.CONTAINER,
    "deb": ComponentType.APPLICATION,
    "binary": ComponentType.APPLICATION,
    "installer": ComponentType.APPLICATION,
    "package": ComponentType.LIBRARY,
}
NAMESPACE = uuid.UUID("a3d9c5f0-5a1e-5d38-9c52-6f0f3a0f5b1d")


def dump(elements: Sequence[Element], identity: str, created: datetime, version: str) -> bytes:
    """Return the document. identity: hex digest, from which its serial number is derived."""
    root, *others = elements
    tool = Component(name="keystone", version=version, type=ComponentType.APPLICATION)
    bom = Bom(
        serial_number=uuid.uuid5(NAMESPACE, identity),
        metadata=BomMetaData(
            component=_component(root),
            timestamp=created,
            tools=ToolRepository(components=[tool]),
        ),
    )
    head = json.loads(JsonV1Dot6(bom).output_as_string())
    # Use the order of the library, which makes sets of all lists and sorts them.
    lists: dict[str, Iterator[dict[str, Any]]] = {
        "dependencies": map(_dependency, sorted(elements, key=lambda element: element.ref))
    }
    if others:
        lists = {"components": map(_component_json, sorted(others, key=_order)), **lists}
    return text.dump({**lists, **head, **lists})


def _order(element: Element) -> tuple[str, str, bool, str, str]:
    """Sort key like the library's: by type, name, version (none comes last), reference."""
    kind = TYPES.get(element.kind, ComponentType.FILE).value
    return kind, element.name, not element.version, element.version, element.ref


def _component_json(element: Element) -> dict[str, Any]:
    made: Any = _component(element)
    value: dict[str, Any] = json.loads(made.as_json(view_=SchemaVersion1Dot6))
    return value


def _dependency(element: Element) -> dict[str, Any]:
    below = {"dependsOn": sorted(set(element.contains))} if element.contains else {}
    return {**below, "ref": element.ref}


def validate(text: str) -> list[str]:
    """Validate a document against the 1.6 schema; return the errors, empty if it is valid."""
    from cyclonedx.schema import SchemaVersion  # noqa: PLC0415 only here
    from cyclonedx.validation.json import JsonStrictValidator  # noqa: PLC0415

    errors = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text, all_errors=True)
    return [str(error.data) for error in errors or ()]


def _component(element: Element) -> Component:
    return Component(
        name=element.name,
        version=element.version or None,
        type=TYPES.get(element.kind, ComponentType.FILE),
        bom_ref=element.ref,
        purl=PackageURL.from_string(element.purl) if element.purl else None,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=element.digest.hex)]
        if element.digest
        else [],
        licenses=list(_licences(element)),
        external_references=list(_references(element)),
        properties=list(_properties(element)),
    )


def _licences(element: Element) -> Iterable[DisjunctiveLicense | LicenseExpression]:
    if element.licence.expression:
        return [LicenseExpression(element.licence.expression)]
    return [DisjunctiveLicense(name=name) for name in element.licence.names]


def _references(element: Element) -> Iterable[ExternalReference]:
    if element.digest:
        where = XsUri(location(element.source, element.digest))
        yield ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=where)


def _properties(element: Element) -> Iterable[Property]:
    yield Property(name="keystone:kind", value=element.kind)
    if element.digest:
        yield Property(name="keystone:size", value=str(element.size))
    for note in element.notes:
        yield Property(name="keystone:note", value=note)
