"""CycloneDX 1.6 as JSON, written by cyclonedx-python-lib."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

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
from cyclonedx.model.dependency import Dependency
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from keystone.bundle.sbom.provenance import location

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from keystone.bundle.sbom.graph import Element

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
    """The document. identity: hex digest that its serial number is made from."""
    components = {element.ref: _component(element) for element in elements}
    root = components[elements[0].ref]
    tool = Component(name="keystone", version=version, type=ComponentType.APPLICATION)
    bom = Bom(
        serial_number=uuid.uuid5(NAMESPACE, identity),
        metadata=BomMetaData(
            component=root, timestamp=created, tools=ToolRepository(components=[tool])
        ),
        components=[component for ref, component in components.items() if component is not root],
        dependencies=[
            Dependency(
                components[element.ref].bom_ref,
                [Dependency(components[ref].bom_ref) for ref in element.contains],
            )
            for element in elements
        ],
    )
    # The library sorts what it holds as sets, so its text is the same each time.
    return f"{JsonV1Dot6(bom).output_as_string(indent=1)}\n".encode()


def validate(text: str) -> list[str]:
    """What the 1.6 schema has against a document; empty for a valid one."""
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
