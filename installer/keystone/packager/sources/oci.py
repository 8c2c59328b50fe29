"""Images from registries: the distribution API v2 (OCI distribution-spec v1.1)."""

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
"""Manifests of one image that are read, however they name each other."""
HINT_OTHER = "look at what answers there: a proxy with a page of its own, another mirror?"
NOT_FOUND = 404
NO_API = frozenset({400, 403, 404, 405, 406, 501})
"""How registries without the referrers API answer."""


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
        """As a node reads it (`ImageName`), so "docker.io/busybox:1" is library/busybox there.

        Raises ValueError unless host, repository and tag (or digest) are all there.
        """
        try:
            image = ImageName.parse(text)
        except ValueError as error:
            raise ValueError(f"{text!r} is not host/repository:tag") from error
        host, slash, _ = text.partition("/")
        said = image.digest or text.endswith(f":{image.tag}")
        if not (slash and ("." in host or ":" in host) and said):
            raise ValueError(f"{text!r} is not host/repository:tag")
        return cls.of(image)

    @classmethod
    def of(cls, image: ImageName) -> Reference:
        """The same, as it is asked for: by tag where there is one."""
        if not image.tag:
            return cls(image.host, image.repository, image.digest)
        return cls(image.host, image.repository, image.tag, image.digest)

    def __str__(self) -> str:
        return f"{self.name}{'@' if ':' in self.tag else ':'}{self.tag}"


@dataclass(frozen=True)
class ResolvedImage:
    """An image by digest. manifests: what is carried below the root; blobs: config and layers."""

    reference: Reference
    root: Descriptor
    manifests: tuple[Descriptor, ...]
    blobs: tuple[Descriptor, ...]


class Repository(Protocol):
    """Where the parts of one image are: a registry's repository, or a layout on this machine."""

    @property
    def reference(self) -> Reference:
        """What is looked for."""

    def manifest(self, name: str) -> bytes | None:
        """The bytes of a manifest or index by tag or digest, checked; None when there is none."""

    def referrers(self, subject: Digest) -> list[dict[str, Any]] | None:
        """Descriptors of what names `subject` as its subject; None where nobody can say."""

    def blob(self, blob: Descriptor, limit: int) -> bytes:
        """A small blob, checked. Raises WrongContentError when it is larger or another one."""

    def source(self, blob: Descriptor) -> str:
        """Where it is from, as a lock says it."""


@dataclass(frozen=True)
class Remote:
    """A repository of a registry."""

    sources: Sources
    reference: Reference

    @property
    def base(self) -> str:
        """The distribution API's address, without the last part."""
        return self.sources.registry(self.reference.host, self.reference.repository)

    def manifest(self, name: str) -> bytes | None:
        """GET manifests/<name> (distribution-spec, end-3)."""
        digest = Digest.parse(name) if name.startswith("sha256:") else None
        headers = {"Accept": ", ".join(media.ACCEPTED)}
        try:
            return self.sources.read(
                f"{self.base}/manifests/{name}", limit=media.MAX_MANIFEST, headers=headers,
                digest=digest,
            )  # fmt: skip
        except StatusError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    def referrers(self, subject: Digest) -> list[dict[str, Any]] | None:
        """GET referrers/<digest>, page after page (end-12a)."""
        url = f"{self.base}/referrers/{subject}"
        children: list[dict[str, Any]] = []
        for _ in range(MAX_PAGES):
            try:
                data, link = self.sources.page(
                    url, limit=media.MAX_MANIFEST, headers={"Accept": media.INDEX}
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
            raise WrongContentError(f"{url}: {blob.size} bytes, more than the {limit} it may have")
        return self.sources.read(url, limit=limit, digest=blob.digest)

    def source(self, blob: Descriptor) -> str:
        """The same for all of its blobs."""
        return f"registry:{self.reference.name}"


def resolve(sources: Sources, reference: Reference, platforms: frozenset[str]) -> ResolvedImage:
    """`resolve_in`, in the registry that the reference names."""
    return resolve_in(Remote(sources, reference), platforms)


def resolve_in(repository: Repository, platforms: frozenset[str]) -> ResolvedImage:
    """Look an image up: its root, and what belongs to the wanted platforms ("linux/amd64").

    An index may name other indexes. Attestations that BuildKit keeps inside the index go with the
    image that they describe. Raises SourceError when there is no image for one of the platforms.
    """
    reference = repository.reference
    parsed, root = read_manifest(repository, reference.digest or reference.tag)
    if parsed.media_type not in media.INDEXES:
        found = single_platform(repository, parsed)
        if found and platforms - {found}:
            missing = ", ".join(sorted(platforms - {found}))
            raise SourceError(
                f"{reference}: is for {found} alone, not for {missing}",
                hint="say which it is for: architectures: [...] beside its ref",
            )
        return ResolvedImage(reference, root, (), parsed.blobs)
    search = _Below(repository, platforms)
    manifests = search.index(parsed.manifests, 1)
    lacking = ", ".join(sorted(platforms - search.platforms))
    if lacking:
        raise SourceError(f"{reference}: no image for {lacking}")
    return ResolvedImage(
        reference, root, tuple(dict.fromkeys(manifests)), tuple(search.blobs.values())
    )


@dataclass
class _Below:
    """What an index names for these platforms, however deep: as containerd looks for an image."""

    repository: Repository
    wanted: frozenset[str]
    platforms: set[str] = field(default_factory=set)
    blobs: dict[Digest, Descriptor] = field(default_factory=dict)
    left: int = MAX_CHILDREN

    def index(self, children: tuple[Descriptor, ...], depth: int) -> list[Descriptor]:
        """What is wanted of one index and below it, and what describes that, in its order."""
        taken = {child.digest: self._take(child, depth) for child in children}
        digests = {str(digest) for digest, found in taken.items() if found}
        for child in children:
            if child.describes in digests:
                self._read(child)
                taken[child.digest] = [child]
        return [found for child in children for found in taken[child.digest]]

    def _take(self, child: Descriptor, depth: int) -> list[Descriptor]:
        where = media.platform(child.platform)
        if child.describes or child.media_type not in media.ACCEPTED:
            return []
        if where and where not in self.wanted:
            return []
        if not where and self.repository.manifest(str(child.digest)) is None:
            return []  # an index may name what its registry does not have (distribution-spec)
        parsed = self._read(child)
        if parsed.media_type in media.INDEXES:
            if depth == media.MAX_NESTED:
                raise self._endless()
            below = self.index(parsed.manifests, depth + 1)
            return [child, *below] if below else []
        # Without a platform beside it an image says itself what it is for.
        where = where or single_platform(self.repository, parsed)
        if where not in self.wanted:
            return []
        self.platforms.add(where)
        self.blobs.update((blob.digest, blob) for blob in parsed.blobs)
        return [child]

    def _read(self, child: Descriptor) -> media.Parsed:
        self.left -= 1
        if self.left < 0:
            raise self._endless()
        parsed, _ = read_manifest(self.repository, str(child.digest))
        if child.describes:
            self.blobs.update((blob.digest, blob) for blob in parsed.blobs)
        return parsed

    def _endless(self) -> WrongContentError:
        return WrongContentError(
            f"{self.repository.reference}: more than {MAX_CHILDREN} manifests, or indexes "
            f"more than {media.MAX_NESTED} deep in each other"
        )


def read_manifest(repository: Repository, name: str) -> tuple[media.Parsed, Descriptor]:
    """A manifest or index that must be there, and what it is. Raises SourceError."""
    where = f"{repository.reference.name} {name}"
    data = repository.manifest(name)
    if data is None:
        raise SourceError(f"{where}: there is no such image", hint="check the name and the mirrors")
    return parsed_manifest(where, data)


def parsed_manifest(where: str, data: bytes) -> tuple[media.Parsed, Descriptor]:
    """What these bytes, which were read there, are. Raises WrongContentError for no manifest."""
    try:
        parsed = media.parse(data)
    except KeystoneError as error:
        raise WrongContentError(f"{where}: {error.message}", hint=HINT_OTHER) from error
    digest = Digest(hashlib.sha256(data).hexdigest())
    return parsed, Descriptor(parsed.media_type, digest, len(data))


def address(sources: Sources, name: str, digest: Digest, media_type: str) -> str:
    """Where a manifest or blob of the repository `name` (with its host) is."""
    host, _, repository = name.partition("/")
    kind = "manifests" if media_type in media.ACCEPTED else "blobs"
    return f"{sources.registry(host, repository)}/{kind}/{digest}"


def single_platform(repository: Repository, parsed: media.Parsed) -> str:
    """What an image without an index says it is for; "" for what is no image (a chart, say)."""
    config = parsed.blobs[0]
    if config.media_type not in CONFIGURATIONS:
        return ""
    try:
        document = foreign_json.loads(repository.blob(config, MAX_CONFIGURATION))
        said = "/".join(filter(None, (document.get("os"), document.get("architecture"))))
        return media.platform(said)
    except foreign_json.WRONG as error:
        raise WrongContentError(f"{repository.reference}: its configuration: {error}") from error


def next_page(url: str, link: str) -> str:
    """Where the next page is, as a Link header says (RFC 8288); "" when this was the last.

    Behind a proxy a registry may call itself http or give another port: its host is what counts.
    Raises SourceError when the page is on another host.
    """
    following = re.search(r'<([^<>]+)>\s*;[^,<]*rel="?next', link)
    if not following:
        return ""
    try:
        here, target = urlsplit(url), urlsplit(urljoin(url, str(following[1])))
    except ValueError as error:
        raise SourceError(f"{url}: its next page has a bad address: {error}") from error
    if target.hostname != here.hostname:
        raise SourceError(f"{url}: its next page is on another server: {target.geturl()}")
    page: str = urlunsplit((here.scheme, here.netloc, target.path, target.query, ""))
    return page


def children_of(where: str, data: bytes) -> list[dict[str, Any]]:
    """The descriptors of an index, as they are. Raises WrongContentError for no index."""
    try:
        listed = foreign_json.loads(data)["manifests"]
        for child in listed:
            Digest.parse(child["digest"])
    except foreign_json.WRONG as error:
        raise WrongContentError(f"{where}: not an index: {error}") from error
    return list(listed)
