"""Resolve images to digests: each image, its attachments, and whether its signatures verify."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone import log
from keystone.bundle.model import Item
from keystone.errors import SourceError
from keystone.packager.lock import LockedBlob
from keystone.packager.sources import cosign, local_images, oci, referrers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from keystone.packager.definition import Image, SignaturePolicy
    from keystone.packager.sources.oci import Repository, ResolvedImage
    from keystone.packager.sources.referrers import Attachment
    from keystone.packager.sources.upstream import Sources

PARALLEL = 6
Locked = tuple[Item, tuple[LockedBlob, ...]]


@dataclass(frozen=True)
class ImageResolver:
    """Settings for all images of a definition. folder: of the lock. architectures: the bundle's."""

    sources: Sources
    folder: Path
    architectures: tuple[str, ...]
    policies: tuple[SignaturePolicy, ...] = ()

    def resolve_all(self, images: Sequence[Image]) -> list[Locked]:
        """Resolve every image and its attachments, several in parallel, in the definition's order.

        Raises SourceError, ConfigurationError, and UntrustedBundleError when an image lacks a
        signature that a policy requires.
        """
        keys = [(policy, [cosign.load_key(path) for path in policy.keys])
                for policy in self.policies]  # fmt: skip
        found: list[Locked] = []
        with (
            log.progress("look up images", len(images), in_bytes=False) as bar,
            ThreadPoolExecutor(PARALLEL) as pool,
        ):
            try:
                for locked in pool.map(lambda image: list(self._resolve(image, keys)), images):
                    found += locked
                    bar.advance(1)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return found

    def _resolve(
        self, image: Image, keys: list[tuple[SignaturePolicy, list[cosign.Key]]]
    ) -> Iterator[Locked]:
        repository: Repository = (
            local_images.open_layout(image.layout, self.folder, image.reference)
            if image.layout
            else oci.Remote(self.sources, image.reference)
        )
        names = image.architectures or self.architectures
        try:
            found = oci.resolve_in(repository, frozenset(f"linux/{name}" for name in names))
        except SourceError as error:
            if image.why:
                error.message = f"{image.reference}, because {image.why}: {error.message}"
                error.hint = (
                    error.hint or "if the site does not need it: excludeImages of that chart"
                )
            raise
        wanted = [each for policy, each in keys if policy.covers(image.reference.name)]
        attached: tuple[Attachment, ...] = ()
        if image.attachments or wanted:
            attached = referrers.attached(repository, found)
        labels = {"group": image.group}
        own = {"why": image.why, "architectures": " ".join(image.architectures)}
        own = {key: value for key, value in own.items() if value}
        if wanted:
            signatures = list(referrers.signatures(repository, attached, found.root.digest))
            for each in wanted:
                key = cosign.require(str(image.reference), found.root.digest, signatures, each)
                log.debug(f"{image.reference}: {found.root.digest} is signed by {key.name}")
        yield _image(repository, found, labels | own)
        for attachment in attached if image.attachments else ():
            yield _attachment(repository, attachment, labels)


def _image(repository: Repository, found: ResolvedImage, labels: dict[str, str]) -> Locked:
    parts = (found.root, *found.manifests, *found.blobs)
    reference = repository.reference
    item = Item(
        "image", reference.name, reference.tag, found.root.digest, found.root.size,
        {**labels, "mediaType": found.root.media_type}, tuple(part.digest for part in parts[1:]),
    )  # fmt: skip
    return item, tuple(
        LockedBlob(part.digest, part.size, repository.source(part), part.media_type)
        for part in parts
    )


def _attachment(repository: Repository, found: Attachment, labels: dict[str, str]) -> Locked:
    root = found.root
    inline = f"inline:{found.made.decode()}" if found.made else repository.source(root)
    parts = (*found.manifests, *found.blobs)
    labels = {**labels, "mediaType": root.media_type, "attachedTo": str(found.subject)}
    item = Item(
        "attachment", repository.reference.name, found.tag, root.digest, root.size, labels,
        tuple(part.digest for part in parts),
    )  # fmt: skip
    return item, (
        LockedBlob(root.digest, root.size, inline, root.media_type),
        *(LockedBlob(part.digest, part.size, repository.source(part), part.media_type)
          for part in parts),
    )  # fmt: skip
