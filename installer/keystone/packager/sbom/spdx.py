"""Write SPDX 2.3 as JSON, with spdx-tools. Unknown values are NOASSERTION."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Any

from spdx_tools.common.spdx_licensing import spdx_licensing
from spdx_tools.spdx.jsonschema.document_converter import DocumentConverter
from spdx_tools.spdx.jsonschema.package_converter import PackageConverter
from spdx_tools.spdx.jsonschema.relationship_converter import RelationshipConverter
from spdx_tools.spdx.model import (
    Actor,
    ActorType,
    Checksum,
    ChecksumAlgorithm,
    CreationInfo,
    Document,
    ExternalPackageRef,
    ExternalPackageRefCategory,
    Package,
    PackagePurpose,
    Relationship,
    RelationshipType,
    SpdxNoAssertion,
)
from spdx_tools.spdx.validation.uri_validators import validate_url

from keystone.packager.sbom import text
from keystone.packager.sbom.provenance import location

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from keystone.packager.sbom.graph import Element

DOCUMENT = "SPDXRef-DOCUMENT"
PURPOSES = {
    "bundle": PackagePurpose.INSTALL,
    "image": PackagePurpose.CONTAINER,
    "deb": PackagePurpose.INSTALL,
    "binary": PackagePurpose.APPLICATION,
    "installer": PackagePurpose.APPLICATION,
    "blob": PackagePurpose.ARCHIVE,
    "package": PackagePurpose.LIBRARY,
}


def dump(elements: Sequence[Element], identity: str, created: datetime, version: str) -> bytes:
    """Return the document. identity: hex digest for its namespace. version: of Keystone."""
    root = elements[0]
    info = CreationInfo(
        spdx_version="SPDX-2.3",
        spdx_id=DOCUMENT,
        name=f"{root.name}-{root.version}",
        document_namespace=f"https://keystone.invalid/spdx/{root.name}/{identity}",
        creators=[Actor(ActorType.TOOL, f"keystone-{version}")],
        created=created.astimezone(UTC).replace(tzinfo=None),
    )
    # Convert only the head of the document: with all relationships in it, the converter would
    # search them for each package and take quadratic time.
    document = Document(creation_info=info)
    value = DocumentConverter().convert(document)
    value["packages"] = (_package_json(element, document) for element in elements)
    value["relationships"] = map(RelationshipConverter().convert, _relationships(elements))
    return text.dump(value, sort_keys=True)


def _relationships(elements: Sequence[Element]) -> Iterator[Relationship]:
    yield Relationship(DOCUMENT, RelationshipType.DESCRIBES, _id(elements[0].ref))
    for element in elements:
        for ref in element.contains:
            yield Relationship(_id(element.ref), RelationshipType.CONTAINS, _id(ref))


def _package_json(element: Element, document: Document) -> dict[str, Any]:
    value: dict[str, Any] = PackageConverter().convert(_package(element), document)
    for reference in value.get("externalRefs", ()):
        # spdx-tools 0.8.5 writes PACKAGE_MANAGER; the 2.3 schema has PACKAGE-MANAGER only.
        reference["referenceCategory"] = reference["referenceCategory"].replace("_", "-")
    return value


def validate(path: str) -> list[str]:
    """Validate a document with spdx-tools; return the errors, empty if it is valid."""
    from spdx_tools.spdx.parser.error import SPDXParsingError  # noqa: PLC0415 only here
    from spdx_tools.spdx.parser.json.json_parser import parse_from_file  # noqa: PLC0415
    from spdx_tools.spdx.validation.document_validator import (  # noqa: PLC0415
        validate_full_spdx_document,
    )

    try:
        document = parse_from_file(path)
    except SPDXParsingError as error:
        return [str(message) for message in error.get_messages()]
    return [message.validation_message for message in validate_full_spdx_document(document)]


def _id(ref: str) -> str:
    return f"SPDXRef-{ref}"


def _package(element: Element) -> Package:
    licence = element.licence
    comment = f"stated as: {'; '.join(licence.names)}" if licence.names else None
    return Package(
        spdx_id=_id(element.ref),
        name=element.name,
        version=element.version or None,
        download_location=_download(element),
        files_analyzed=False,
        checksums=[Checksum(ChecksumAlgorithm.SHA256, element.digest.hex)]
        if element.digest
        else [],
        license_concluded=SpdxNoAssertion(),
        license_declared=spdx_licensing.parse(licence.expression)
        if licence.expression
        else SpdxNoAssertion(),
        license_comment=comment,
        copyright_text=SpdxNoAssertion(),
        external_references=[
            ExternalPackageRef(ExternalPackageRefCategory.PACKAGE_MANAGER, "purl", element.purl)
        ]
        if element.purl
        else [],
        primary_package_purpose=PURPOSES.get(element.kind, PackagePurpose.FILE),
        comment="; ".join(element.notes) or None,
    )


def _download(element: Element) -> str | SpdxNoAssertion:
    """Return a URL that SPDX accepts; NOASSERTION for hosts without a dot, and non-URLs."""
    where = location(element.source, element.digest)
    is_url = where.startswith(("http://", "https://"))
    return where if is_url and not validate_url(where) else SpdxNoAssertion()
