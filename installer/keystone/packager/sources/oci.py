"""Read images from registries: the distribution API v2 (OCI distribution-spec v1.1)."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urljoin, urlsplit, urlunsplit

from keystone.bundle import media
from keystone.bundle.media import Descriptor
from keystone.bundle.model import Digest
from keystone.errors import KeystoneError, SourceError, StatusError, WrongContentError
from keystone.packager import foreign_json
from keystone.packager.charts.image_names import ImageName

if TYPE_CHECKING:
    from keystone.packager.sources.upstream import Sources

CONFIGURATIONS = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
)
MAX_CONFIGURATION = 4 << 20
MAX_PAGES = 16
MAX_CHILDREN = 256
"""Maximum number of manifests to read for one image."""
HINT_OTHER = "check what answers at this address: possibly a proxy's own page, or a wrong mirror"
NOT_FOUND = 404
NO_API = frozenset({400, 403, 404, 405, 406, 501})
"""Statuses of registries without the referrers API."""


@dataclass(frozen=True)
class Reference:
    """An upstream reference: host/repository:tag, host/repository@sha256:... or both."""

    host: str
    repository: str
    tag: str
    digest: str = ""
    """The digest that the tag must have, when a chart names both."""

    @property
    def name(self) -> str:
        """The reference without its tag."""
        return f"{self.host}/{self.repository}"

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse as a node does (`ImageName`): "docker.io/busybox:1" becomes library/busybox.

        Raises ValueError unless the text has host, repository and tag (or digest).
        """
        try:
            image = ImageName.parse(text)
        except ValueError as error:
            raise ValueError(f"{text!r} is not host/repository:tag") from error
        host, slash, _ = text.partition("/")
        has_tag = image.digest or text.endswith(f":{image.tag}")
        if not (slash and ("." in host or ":" in host) and has_tag):
            raise ValueError(f"{text!r} is not host/repository:tag")
        return cls.of(image)

    @classmethod
    def of(cls, image: ImageName) -> Reference:
        """Convert an image name; a name without tag gets its digest as tag."""
        if not image.tag:
            return cls(image.host, image.repository, image.digest)
        return cls(image.host, image.repository, image.tag, image.digest)

    def __str__(self) -> str:
        return f"{self.name}{'@' if ':' in self.tag else ':'}{self.tag}"


@dataclass(frozen=True)
class ResolvedImage:
    """An image by digest. manifests: below the root, to carry. blobs: configurations and layers."""

    reference: Reference
    root: Descriptor
    manifests: tuple[Descriptor, ...]
    blobs: tuple[Descriptor, ...]


class Repository(Protocol):
    """Contains the parts of one image: a repository in a registry, or a layout on this machine."""

    @property
    def reference(self) -> Reference:
        """The image to look up."""

    def manifest(self, name: str) -> bytes | None:
        """Read a manifest or index by tag or digest and verify it; None if it does not exist."""

    def referrers(self, subject: Digest) -> list[dict[str, Any]] | None:
        """Return descriptors of manifests with this subject; None if it cannot be queried."""

    def blob(self, blob: Descriptor, limit: int) -> bytes:
        """Read a small blob. Raises WrongContentError for a wrong digest or more than `limit`."""

    def source(self, blob: Descriptor) -> str:
        """Return a blob's source, as in a lock."""


@dataclass(frozen=True)
class Remote:
    """A repository in a registry."""

    sources: Sources
    reference: Reference

    @property
    def base(self) -> str:
        """URL of the repository in the distribution API."""
        return self.sources.registry(self.reference.host, self.reference.repository)

    def manifest(self, name: str) -> bytes | None:
        """GET manifests/<name> (distribution-spec, end-3); None if it does not exist."""
        digest = Digest.parse(name) if name.startswith("sha256:") else None
        headers = {"Accept": ", ".join(media.ACCEPTED)}
        try:
            return self.sources.read(
                f"{self.base}/manifests/{name}", limit=media.MAX_OCI_MANIFEST, headers=headers,
                digest=digest,
            )  # fmt: skip
        except StatusError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    def referrers(self, subject: Digest) -> list[dict[str, Any]] | None:
        """GET referrers/<digest>, all pages (end-12a); None without this API."""
        url = f"{self.base}/referrers/{subject}"
        children: list[dict[str, Any]] = []
        for _ in range(MAX_PAGES):
            try:
                data, link = self.sources.page(
                    url, limit=media.MAX_OCI_MANIFEST, headers={"Accept": media.INDEX}
                )
            except StatusError as error:
                if error.status in NO_API and not children:
                    return None
                raise
            children += children_of(url, data)
            following = next_page(url, link)
            if not following:
                return children
            url = following
        raise WrongContentError(f"{url}: more than {MAX_PAGES} pages of referrers")

    def blob(self, blob: Descriptor, limit: int) -> bytes:
        """GET blobs/<digest> (end-2)."""
        url = address(self.sources, self.reference.name, blob.digest, blob.media_type)
        if blob.size > limit:
            raise WrongContentError(f"{url}: {blob.size} bytes, but at most {limit} are allowed")
        return self.sources.read(url, limit=limit, digest=blob.digest)

    def source(self, blob: Descriptor) -> str:
        """Return the source, which is the same for all blobs of the repository."""
        return f"registry:{self.reference.name}"


def resolve(sources: Sources, reference: Reference, platforms: frozenset[str]) -> ResolvedImage:
    """Call `resolve_in` with the registry that the reference names."""
    return resolve_in(Remote(sources, reference), platforms)


def resolve_in(repository: Repository, platforms: frozenset[str]) -> ResolvedImage:
    """Look up an image: its root, and what belongs to the platforms (such as "linux/amd64").

    An index can contain other indexes. BuildKit stores attestations inside the index; they are
    carried with the image that they describe. Raises SourceError when a platform has no image.
    """
    reference = repository.reference
    parsed, root = read_manifest(repository, reference.digest or reference.tag)
    if parsed.media_type not in media.INDEXES:
        found = single_platform(repository, parsed)
        if found and platforms - {found}:
            missing = ", ".join(sorted(platforms - {found}))
            raise SourceError(
                f"{reference}: is only for {found}, not for {missing}",
                hint="set its architectures in the definition: architectures: [...] beside ref",
            )
        return ResolvedImage(reference, root, (), parsed.blobs)
    search = _IndexSearch(repository, platforms)
    manifests = search.index(parsed.manifests, 1)
    lacking = ", ".join(sorted(platforms - search.platforms))
    if lacking:
        raise SourceError(f"{reference}: no image for {lacking}")
    return ResolvedImage(
        reference, root, tuple(dict.fromkeys(manifests)), tuple(search.blobs.values())
    )


@dataclass
class _IndexSearch:
    """Searches nested indexes for the images of some platforms, as containerd does."""

    repository: Repository
    wanted: frozenset[str]
    platforms: set[str] = field(default_factory=set)
    blobs: dict[Digest, Descriptor] = field(default_factory=dict)
    left: int = MAX_CHILDREN

    def index(self, children: tuple[Descriptor, ...], depth: int) -> list[Descriptor]:
        """Return wanted manifests of an index and of nested ones, and attestations, in order."""
        selected = {child.digest: self._select(child, depth) for child in children}
        digests = {str(digest) for digest, found in selected.items() if found}
        for child in children:
            if child.describes in digests:
                self._read(child)
                selected[child.digest] = [child]
        return [found for child in children for found in selected[child.digest]]

    def _select(self, child: Descriptor, depth: int) -> list[Descriptor]:
        where = media.platform(child.platform)
        if child.describes or child.media_type not in media.ACCEPTED:
            return []
        if where and where not in self.wanted:
            return []
        if not where and self.repository.manifest(str(child.digest)) is None:
            return []  # the registry may lack manifests that an index lists (distribution-spec)
        parsed = self._read(child)
        if parsed.media_type in media.INDEXES:
            if depth == media.MAX_NESTED:
                raise self._too_many()
            below = self.index(parsed.manifests, depth + 1)
            return [child, *below] if below else []
        # When the index has no platform for an image, use the one in its configuration.
        where = where or single_platform(self.repository, parsed)
        if where not in self.wanted:
            return []
        self.platforms.add(where)
        self.blobs.update((blob.digest, blob) for blob in parsed.blobs)
        return [child]

    def _read(self, child: Descriptor) -> media.Parsed:
        self.left -= 1
        if self.left < 0:
            raise self._too_many()
        parsed, _ = read_manifest(self.repository, str(child.digest))
        if child.describes:
            self.blobs.update((blob.digest, blob) for blob in parsed.blobs)
        return parsed

    def _too_many(self) -> WrongContentError:
        return WrongContentError(
            f"{self.repository.reference}: more than {MAX_CHILDREN} manifests, or indexes nested "
            f"more than {media.MAX_NESTED} deep"
        )


def read_manifest(repository: Repository, name: str) -> tuple[media.Parsed, Descriptor]:
    """Read a manifest or index and its descriptor. Raises SourceError when it does not exist."""
    where = f"{repository.reference.name} {name}"
    data = repository.manifest(name)
    if data is None:
        raise SourceError(f"{where}: no such image", hint="check the name and the mirrors")
    return parsed_manifest(where, data)


def parsed_manifest(where: str, data: bytes) -> tuple[media.Parsed, Descriptor]:
    """Parse a manifest or index and make its descriptor. Raises WrongContentError.

    where: the address or name of the bytes, for error messages.
    """
    try:
        parsed = media.parse(data)
    except KeystoneError as error:
        raise WrongContentError(f"{where}: {error.message}", hint=HINT_OTHER) from error
    digest = Digest(hashlib.sha256(data).hexdigest())
    return parsed, Descriptor(parsed.media_type, digest, len(data))


def address(sources: Sources, name: str, digest: Digest, media_type: str) -> str:
    """Return the URL of a manifest or blob. name: host/repository."""
    host, _, repository = name.partition("/")
    kind = "manifests" if media_type in media.ACCEPTED else "blobs"
    return f"{sources.registry(host, repository)}/{kind}/{digest}"


def single_platform(repository: Repository, parsed: media.Parsed) -> str:
    """Return the platform in an image's configuration; "" if it is not an image (but a chart)."""
    config = parsed.blobs[0]
    if config.media_type not in CONFIGURATIONS:
        return ""
    try:
        document = foreign_json.loads(repository.blob(config, MAX_CONFIGURATION))
        found = "/".join(filter(None, (document.get("os"), document.get("architecture"))))
        return media.platform(found)
    except foreign_json.WRONG as error:
        raise WrongContentError(f"{repository.reference}: its configuration: {error}") from error


def next_page(url: str, link: str) -> str:
    """Return the URL of the next page from a Link header (RFC 8288); "" for the last page.

    A registry behind a proxy can give http or another port, so only its path and query are used.
    Raises SourceError when the page is on another host.
    """
    following = re.search(r'<([^<>]+)>\s*;[^,<]*rel="?next', link)
    if not following:
        return ""
    try:
        here, target = urlsplit(url), urlsplit(urljoin(url, str(following[1])))
    except ValueError as error:
        raise SourceError(f"{url}: its next page has an invalid URL: {error}") from error
    if target.hostname != here.hostname:
        raise SourceError(f"{url}: its next page is on another server: {target.geturl()}")
    page: str = urlunsplit((here.scheme, here.netloc, target.path, target.query, ""))
    return page


def children_of(where: str, data: bytes) -> list[dict[str, Any]]:
    """Return the descriptors in an index, unchanged. Raises WrongContentError."""
    try:
        listed = foreign_json.loads(data)["manifests"]
        for child in listed:
            Digest.parse(child["digest"])
    except foreign_json.WRONG as error:
        raise WrongContentError(f"{where}: not an index: {error}") from error
    return list(listed)
