"""Find the attachments of an image: signatures, SBOMs, attestations (distribution-spec v1.1).

Attachments are found in three ways: by the referrers API, by its tag schema `sha256-<hex>` in
registries without that API, and by cosign's own tags `sha256-<hex>.sig`, `.att` and `.sbom`. The
bundle carries all of them as tags, because any registry inside can serve tags.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from keystone import log
from keystone.bundle import media
from keystone.bundle.media import Descriptor
from keystone.bundle.model import Digest
from keystone.errors import SourceError, WrongContentError
from keystone.packager import foreign_json
from keystone.packager.sources import cosign, oci

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from keystone.packager.sources.oci import Repository, ResolvedImage

COSIGN_SUFFIXES = (".sig", ".att", ".sbom")
MAX_DEPTH = 3
"""The signature of an SBOM of an image has depth 2."""
MAX_ATTACHED = 64
WITHOUT = "to carry the image without attachments: attachments: false in the definition"


@dataclass(frozen=True)
class Attachment:
    """One tag with the attachments of `subject`.

    manifests: below the root, to carry. blobs: their configurations and layers. made: the root's
    bytes, if it was made here from the response of the referrers API. evidence: layers that may be
    signatures.
    """

    tag: str
    subject: Digest
    root: Descriptor
    manifests: tuple[Descriptor, ...] = ()
    blobs: tuple[Descriptor, ...] = ()
    made: bytes = b""
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """A layer that may be a signature, with the annotations of its descriptor."""

    layer: Descriptor
    annotations: tuple[tuple[str, str], ...]


def attached(repository: Repository, image: ResolvedImage) -> tuple[Attachment, ...]:
    """Find all attachments of the image's root and of the manifests that are carried below it.

    Raises SourceError when the registry fails, WrongContentError for more than MAX_ATTACHED.
    """
    search = _Search(repository)
    for subject in (image.root, *image.manifests):
        search.find(subject.digest, 1)
    return tuple(search.found.values())


def signatures(
    repository: Repository, attachments: Iterable[Attachment], subject: Digest
) -> Iterator[cosign.Signature]:
    """Read the signatures that are attached to one digest; at most cosign.MAX_SIGNATURES."""
    found = [
        evidence for attachment in attachments if attachment.subject == subject
        for evidence in attachment.evidence
    ]  # fmt: skip
    for evidence in found[: cosign.MAX_SIGNATURES]:
        data = repository.blob(evidence.layer, cosign.MAX_SIGNATURE)
        yield cosign.Signature(evidence.layer.media_type, data, dict(evidence.annotations))


@dataclass
class _Search:
    """Collects the referrers of one image, each once, in `found` by tag."""

    repository: Repository

    def __post_init__(self) -> None:
        self.found: dict[str, Attachment] = {}
        self._count = 0

    def find(self, subject: Digest, depth: int) -> None:
        """Find the attachments of `subject`, and the attachments of those."""
        tag = f"{media.SUBJECT_TAG}{subject.hex}"
        if tag in self.found:
            return
        listed = self._listed(subject, tag)
        if listed is not None:
            self._add(listed)
            if depth < MAX_DEPTH:
                for child in listed.manifests:
                    self.find(child.digest, depth + 1)
        for suffix in COSIGN_SUFFIXES if depth == 1 else ():
            data = self.repository.manifest(tag + suffix)
            if data is not None:
                parsed, root = oci.parsed_manifest(self._name(tag + suffix), data)
                evidence = tuple(_evidence(foreign_json.loads(data)))
                self._add(
                    Attachment(tag + suffix, subject, root, blobs=parsed.blobs, evidence=evidence)
                )

    def _listed(self, subject: Digest, tag: str) -> Attachment | None:
        children = self.repository.referrers(subject)
        if children is None:
            data = self.repository.manifest(tag)
            if data is None:
                return None
            parsed, root = oci.parsed_manifest(self._name(tag), data)
            if parsed.media_type not in media.INDEXES:
                return None
            children = oci.children_of(self._name(tag), data)
            if children == self._manifests(children):
                return self._with_children(Attachment(tag, subject, root), children)
        children = self._manifests(children)
        if not children:
            return None
        children.sort(key=lambda child: str(child["digest"]))
        index = {"schemaVersion": 2, "mediaType": media.INDEX, "manifests": children}
        data = json.dumps(index, sort_keys=True).encode()
        digest = Digest(hashlib.sha256(data).hexdigest())
        root = Descriptor(media.INDEX, digest, len(data))
        return self._with_children(Attachment(tag, subject, root, made=data), children)

    def _name(self, tag: str) -> str:
        return f"{self.repository.reference.name}:{tag}"

    def _manifests(self, children: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the children that are manifests; artifacts from before version 1.1 are not."""
        kept = [child for child in children if child.get("mediaType") in media.MANIFESTS]
        for child in children:
            if child not in kept:
                log.warn(
                    f"{self.repository.reference}: its attachment {child['digest']} is left out: "
                    f"the site's registry cannot serve {child.get('mediaType')}"
                )
        return kept

    def _with_children(self, bare: Attachment, children: list[dict[str, Any]]) -> Attachment:
        """Read each child: collect its blobs, and require that it names the subject itself."""
        if len(children) > MAX_ATTACHED:
            raise self._too_many()
        manifests: list[Descriptor] = []
        blobs: dict[Digest, Descriptor] = {}
        evidence: list[Evidence] = []
        for name in (str(child["digest"]) for child in children):
            where = f"{self.repository.reference.name}@{name}"
            data = self.repository.manifest(name)
            if data is None:
                raise SourceError(
                    f"{where}: listed as an attachment, but does not exist", hint=WITHOUT
                )
            parsed, root = oci.parsed_manifest(where, data)
            document = foreign_json.loads(data)
            if subject_of(document) != str(bare.subject):
                raise WrongContentError(
                    f"{where}: listed as attached to {bare.subject}, but its subject is not that",
                    hint=WITHOUT,
                )
            manifests.append(root)
            blobs.update((blob.digest, blob) for blob in parsed.blobs)
            evidence += _evidence(document)
        return replace(
            bare, manifests=tuple(manifests), blobs=tuple(blobs.values()), evidence=tuple(evidence)
        )

    def _add(self, attachment: Attachment) -> None:
        self._count += 1 + len(attachment.manifests)
        if self._count > MAX_ATTACHED:
            raise self._too_many()
        self.found[attachment.tag] = attachment

    def _too_many(self) -> WrongContentError:
        return WrongContentError(
            f"{self.repository.reference}: more than {MAX_ATTACHED} attachments",
            hint=WITHOUT,
        )


def subject_of(document: object) -> str:
    """Return the digest of a manifest's subject; "" without one."""
    subject = document.get("subject") if isinstance(document, dict) else None
    return str(subject.get("digest")) if isinstance(subject, dict) else ""


def _evidence(document: dict[str, Any]) -> Iterator[Evidence]:
    for layer in document.get("layers", []):
        if layer.get("mediaType") in cosign.SIGNATURE_TYPES:
            annotations = {str(k): str(v) for k, v in (layer.get("annotations") or {}).items()}
            described = Descriptor(
                str(layer["mediaType"]), Digest.parse(layer["digest"]), int(layer["size"])
            )
            yield Evidence(described, tuple(sorted(annotations.items())))
