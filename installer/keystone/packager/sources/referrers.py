"""What is attached to an image: signatures, SBOMs, attestations (distribution-spec v1.1).

Three ways to attach are in use: the referrers API, its tag schema `sha256-<hex>` where a registry
has no such API, and cosign's own tags `sha256-<hex>.sig`, `.att` and `.sbom`. All of them become
tags, because that is what any registry inside the gap can serve.
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
"""The signature of an SBOM of an image is two deep."""
MAX_ATTACHED = 64
WITHOUT = "carry it without: attachments: false in the definition"


@dataclass(frozen=True)
class Attachment:
    """One tag that holds what is attached to `subject`.

    manifests: carried below root; blobs: their configurations and layers. made: the root's bytes
    when it was made here out of the referrers API's answer; evidence: what may be a signature.
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
    """A layer that may hold a signature, with the annotations of its descriptor."""

    layer: Descriptor
    annotations: tuple[tuple[str, str], ...]


def attached(repository: Repository, image: ResolvedImage) -> tuple[Attachment, ...]:
    """All that is attached to the image's root and to what is carried below it.

    Raises SourceError when the registry fails, WrongContentError for more than MAX_ATTACHED.
    """
    search = _Search(repository)
    for subject in (image.root, *image.manifests):
        search.look(subject.digest, 1)
    return tuple(search.found.values())


def signatures(
    repository: Repository, attachments: Iterable[Attachment], subject: Digest
) -> Iterator[cosign.Signature]:
    """The signatures that are attached to one digest, read; at most cosign.MAX_SIGNATURES."""
    found = [
        piece for attachment in attachments if attachment.subject == subject
        for piece in attachment.evidence
    ]  # fmt: skip
    for piece in found[: cosign.MAX_SIGNATURES]:
        data = repository.blob(piece.layer, cosign.MAX_SIGNATURE)
        yield cosign.Signature(piece.layer.media_type, data, dict(piece.annotations))


@dataclass
class _Search:
    """A walk over the referrers of one image; each is found once."""

    repository: Repository

    def __post_init__(self) -> None:
        self.found: dict[str, Attachment] = {}
        self._count = 0

    def look(self, subject: Digest, depth: int) -> None:
        """Find what is attached to `subject`, and what is attached to that."""
        tag = f"{media.SUBJECT_TAG}{subject.hex}"
        if tag in self.found:
            return
        listed = self._listed(subject, tag)
        if listed is not None:
            self._keep(listed)
            if depth < MAX_DEPTH:
                for child in listed.manifests:
                    self.look(child.digest, depth + 1)
        for suffix in COSIGN_SUFFIXES if depth == 1 else ():
            data = self.repository.manifest(tag + suffix)
            if data is not None:
                parsed, root = oci.parsed_manifest(self._named(tag + suffix), data)
                evidence = tuple(_pieces(foreign_json.loads(data)))
                self._keep(
                    Attachment(tag + suffix, subject, root, blobs=parsed.blobs, evidence=evidence)
                )

    def _listed(self, subject: Digest, tag: str) -> Attachment | None:
        children = self.repository.referrers(subject)
        if children is None:
            data = self.repository.manifest(tag)
            if data is None:
                return None
            parsed, root = oci.parsed_manifest(self._named(tag), data)
            if parsed.media_type not in media.INDEXES:
                return None
            children = oci.children_of(self._named(tag), data)
            if children == self._readable(children):
                return self._with(Attachment(tag, subject, root), children)
        children = self._readable(children)
        if not children:
            return None
        children.sort(key=lambda child: str(child["digest"]))
        index = {"schemaVersion": 2, "mediaType": media.INDEX, "manifests": children}
        data = json.dumps(index, sort_keys=True).encode()
        digest = Digest(hashlib.sha256(data).hexdigest())
        root = Descriptor(media.INDEX, digest, len(data))
        return self._with(Attachment(tag, subject, root, made=data), children)

    def _named(self, tag: str) -> str:
        return f"{self.repository.reference.name}:{tag}"

    def _readable(self, children: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those that are manifests: artifacts of the specification before 1.1 have none."""
        kept = [child for child in children if child.get("mediaType") in media.MANIFESTS]
        for child in children:
            if child not in kept:
                log.warn(
                    f"{self.repository.reference}: {child['digest']} is attached to it as a "
                    f"{child.get('mediaType')}, which no registry inside can serve: left out"
                )
        return kept

    def _with(self, bare: Attachment, children: list[dict[str, Any]]) -> Attachment:
        """Read each child: what it is made of, and that it is attached to what it is listed for."""
        if len(children) > MAX_ATTACHED:
            raise self._too_many()
        manifests: list[Descriptor] = []
        blobs: dict[Digest, Descriptor] = {}
        pieces: list[Evidence] = []
        for name in (str(child["digest"]) for child in children):
            where = f"{self.repository.reference.name}@{name}"
            data = self.repository.manifest(name)
            if data is None:
                raise SourceError(f"{where}: listed as attached, and not there", hint=WITHOUT)
            parsed, root = oci.parsed_manifest(where, data)
            document = foreign_json.loads(data)
            if subject_of(document) != str(bare.subject):
                raise WrongContentError(
                    f"{where}: listed as attached to {bare.subject}, and does not say so itself",
                    hint=WITHOUT,
                )
            manifests.append(root)
            blobs.update((blob.digest, blob) for blob in parsed.blobs)
            pieces += _pieces(document)
        return replace(
            bare, manifests=tuple(manifests), blobs=tuple(blobs.values()), evidence=tuple(pieces)
        )

    def _keep(self, attachment: Attachment) -> None:
        self._count += 1 + len(attachment.manifests)
        if self._count > MAX_ATTACHED:
            raise self._too_many()
        self.found[attachment.tag] = attachment

    def _too_many(self) -> WrongContentError:
        return WrongContentError(
            f"{self.repository.reference}: more than {MAX_ATTACHED} things are attached to it",
            hint=WITHOUT,
        )


def subject_of(document: object) -> str:
    """The digest of what a manifest is attached to, as it says; "" for none."""
    subject = document.get("subject") if isinstance(document, dict) else None
    return str(subject.get("digest")) if isinstance(subject, dict) else ""


def _pieces(document: dict[str, Any]) -> Iterator[Evidence]:
    for layer in document.get("layers", []):
        if layer.get("mediaType") in cosign.SIGNATURE_TYPES:
            annotations = {str(k): str(v) for k, v in (layer.get("annotations") or {}).items()}
            described = Descriptor(
                str(layer["mediaType"]), Digest.parse(layer["digest"]), int(layer["size"])
            )
            yield Evidence(described, tuple(sorted(annotations.items())))
