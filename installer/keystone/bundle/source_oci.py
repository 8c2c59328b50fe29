"""Images from registries: the distribution API v2 and its token authentication."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone.bundle import media
from keystone.bundle.addresses import SourceError, require_private
from keystone.bundle.media import Descriptor
from keystone.bundle.model import Digest
from keystone.errors import KeystoneError

if TYPE_CHECKING:
    from keystone.bundle.sources import Sources

TIMEOUT = (20, 60)


@dataclass(frozen=True)
class Reference:
    """host/repository:tag, host/repository@sha256:... or both, as upstream writes it."""

    host: str
    repository: str
    tag: str
    digest: str = ""
    """What a tag has to mean, where a chart names both."""

    @property
    def name(self) -> str:
        """Without the tag."""
        return f"{self.host}/{self.repository}"

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Raises ValueError unless host, repository and tag (or digest) are all there."""
        match = re.fullmatch(
            r"(?P<host>[a-z0-9.-]+(?::\d+)?)/(?P<repo>[a-z0-9._/-]+?)"
            r"(?::(?P<tag>[\w][\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
            text,
        )
        if (
            not match
            or not (match["tag"] or match["digest"])
            or ("." not in match["host"] and ":" not in match["host"])
        ):
            raise ValueError(f"{text!r} is not host/repository:tag")
        tag, digest = match["tag"], match["digest"]
        return cls(match["host"], match["repo"], tag or digest, digest or "" if tag else "")


@dataclass(frozen=True)
class ResolvedImage:
    """An image by digest. manifests: what is carried below the root; blobs: config and layers."""

    reference: Reference
    root: Descriptor
    manifests: tuple[Descriptor, ...]
    blobs: tuple[Descriptor, ...]


def resolve(sources: Sources, reference: Reference, platforms: frozenset[str]) -> ResolvedImage:
    """Look an image up: its root, and what belongs to the wanted platforms ("linux/amd64").

    Raises SourceError when the registry has no image for one of them.
    """
    data, root = _manifest(sources, reference, reference.digest or reference.tag)
    parsed = media.parse(data)
    if not parsed.manifests:
        return ResolvedImage(reference, root, (), parsed.blobs)
    wanted = [child for child in parsed.manifests if _platform(child) in platforms]
    missing = platforms - {_platform(child) for child in wanted}
    if missing:
        raise SourceError(f"{reference.name}:{reference.tag}: no image for {', '.join(missing)}")
    blobs: dict[Digest, Descriptor] = {}
    for child in wanted:
        inner, _ = _manifest(sources, reference, str(child.digest))
        blobs.update((blob.digest, blob) for blob in media.parse(inner).blobs)
    return ResolvedImage(reference, root, tuple(wanted), tuple(blobs.values()))


def address(sources: Sources, name: str, digest: Digest, media_type: str) -> str:
    """Where a manifest or blob of the repository `name` (with its host) is."""
    host, _, repository = name.partition("/")
    kind = "manifests" if media_type in media.ACCEPTED else "blobs"
    return f"{sources.registry(host, repository)}/{kind}/{digest}"


def _platform(descriptor: Descriptor) -> str:
    return "/".join(descriptor.platform.split("/")[:2])


def _manifest(sources: Sources, reference: Reference, tag: str) -> tuple[bytes, Descriptor]:
    base = sources.registry(reference.host, reference.repository)
    url = f"{base}/manifests/{tag}"
    if not tag.startswith("sha256:"):
        require_private(url)
    headers = {"Accept": ", ".join(media.ACCEPTED)}
    data = b"".join(sources.download(url, headers))
    digest = Digest(hashlib.sha256(data).hexdigest())
    if tag.startswith("sha256:") and str(digest) != tag:
        raise SourceError(f"{url}: the registry answers with {digest}")
    try:
        parsed = media.parse(data)
    except KeystoneError as error:
        raise SourceError(f"{url}: {error.message}") from error
    return data, Descriptor(parsed.media_type, digest, len(data))
