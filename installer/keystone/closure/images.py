"""Check that all needed images are in the bundle, and that the images in it are complete."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keystone.bundle import media
from keystone.bundle.model import Digest
from keystone.closure.content import describe
from keystone.closure.finding import Finding
from keystone.errors import DamagedBundleError
from keystone.packager import foreign_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from keystone.bundle.model import Item
    from keystone.closure.content import Content
    from keystone.packager.charts.image_names import ImageName

CONFIGS = {
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
}
LOCK_AGAIN = "lock and create the bundle again; nothing in the definition is wrong"


@dataclass(frozen=True)
class Question:
    """An image that something in the bundle needs. asks: the referrer and its place, for people."""

    image: ImageName
    asks: str
    kind: str = "image"


def missing(content: Content, questions: Iterable[Question]) -> Iterator[Finding]:
    """Find needed images that the bundle lacks, by tag or by digest."""
    tags, digests = _names(content)
    for question in questions:
        image = question.image
        wrong = ""
        if image.digest and image.digest not in digests[image.name]:
            wrong = f"{image}"
            here = tags[image.name].get(image.tag)
            if here:
                wrong += f" (in the bundle, {image.tag} is {here})"
        elif not image.digest and image.tag not in tags[image.name]:
            wrong = f"{image}"
            others = ", ".join(sorted(tags[image.name]))
            if others:
                wrong += f" (in the bundle: {others})"
        if wrong:
            yield Finding(question.kind, wrong, question.asks, f"spec.images: - ref: {_ref(image)}")


def _ref(image: ImageName) -> str:
    """The reference for a definition: by digest if there is one, else by tag."""
    return f"{image.name}@{image.digest}" if image.digest else str(image)


def _names(content: Content) -> tuple[dict[str, dict[str, str]], dict[str, set[str]]]:
    """By name: each tag with its digest, and all digests that the registry will serve."""
    tags: dict[str, dict[str, str]] = defaultdict(dict)
    digests: dict[str, set[str]] = defaultdict(set)
    for item in content.manifest.items:
        if item.kind not in {"image", "attachment", "chart"}:
            continue
        if not item.tag.startswith("sha256:"):
            tags[item.repository][item.tag] = str(item.digest)
        digests[item.repository] |= {str(item.digest), *map(str, item.blobs)}
    return tags, digests


def complete(content: Content) -> Iterator[Finding]:
    """Find missing configurations, layers and manifests of images, for the bundle's platforms."""
    for item in content.manifest.items:
        if item.kind in {"image", "attachment"} or (item.kind == "chart" and item.blobs):
            yield from _Image(content, item).root()


class _Image:
    """Checks one image, starting at its root manifest."""

    def __init__(self, content: Content, item: Item) -> None:
        self.content = content
        self.item = item
        self.name = describe(item)
        # A definition may select fewer architectures for an image than for the bundle.
        own = item.labels.get("architectures", "").split()
        self.wanted = {f"linux/{name}" for name in own or content.architectures}
        self.seen: set[tuple[Digest, str]] = set()

    def root(self) -> Iterator[Finding]:
        document, problem = self._document(self.item.digest, "its manifest")
        if document is None:
            yield problem
            return
        if "manifests" not in document:
            yield from self._manifest(document)
            yield from self._platforms([self._platform(document)])
            return
        found: list[str] = []
        yield from self._index(document, found, 1)
        yield from self._platforms(found)

    def _index(self, document: dict[str, Any], found: list[str], depth: int) -> Iterator[Finding]:
        """Check the entries of an index for the wanted platforms, at any depth.

        found: receives the platforms of all manifests.
        """
        for child in document["manifests"]:
            where = media.platform(media.describe(child).platform)
            digest = Digest.parse(child["digest"])
            if self.item.kind == "image" and (
                where not in self.wanted if where else digest not in self.content.inside
            ):
                continue  # the bundle leaves out other platforms on purpose
            if (digest, where if where in self.wanted else "") in self.seen:
                continue
            self.seen.add((digest, where if where in self.wanted else ""))
            inner, problem = self._document(
                digest, f"its manifest for {where}".removesuffix(" for ")
            )
            if inner is None:
                found.append(where)
                yield problem
            elif "manifests" not in inner:
                found.append(where or self._platform(inner))
                yield from self._manifest(inner)
            elif depth < media.MAX_NESTED:
                yield from self._index(inner, found, depth + 1)
            else:
                raise DamagedBundleError(
                    f"{self.name}: nested indexes exceed the limit of {media.MAX_NESTED} levels"
                )

    def _document(self, digest: Digest, what: str) -> tuple[dict[str, Any] | None, Finding]:
        """A manifest as JSON, or None and the reason as a finding."""
        problem = self._finding(f"{what} {digest}")
        if digest not in self.content.inside:
            return None, problem
        try:
            data = self.content.read(digest)
            media.parse(data)
        except DamagedBundleError as error:
            return None, self._finding(f"{what} {digest}: {error.message}")
        document: dict[str, Any] = json.loads(data)
        return document, problem

    def _manifest(self, document: dict[str, Any]) -> Iterator[Finding]:
        for what, part in [("its config", document["config"])] + [
            (f"its layer {number}", layer) for number, layer in enumerate(document["layers"], 1)
        ]:
            if Digest.parse(part["digest"]) not in self.content.inside:
                yield self._finding(f"{what} {part['digest']}")

    def _platform(self, document: dict[str, Any]) -> str:
        """The platform in an image's configuration ("linux/amd64"); "" for other artifacts."""
        config = document["config"]
        digest = Digest.parse(config["digest"])
        if config.get("mediaType") not in CONFIGS or digest not in self.content.inside:
            return ""
        try:
            parsed = foreign_json.loads(self.content.read(digest))
            return media.platform(f"{parsed.get('os', '')}/{parsed.get('architecture', '')}")
        except foreign_json.WRONG as error:
            raise DamagedBundleError(f"{self.name}: its config is not a JSON object") from error

    def _platforms(self, found: Iterable[str]) -> Iterator[Finding]:
        here = set(found)
        if here == {""} or self.item.kind != "image":
            return
        for platform in sorted(self.wanted - here):
            yield Finding(
                "platform", platform, self.name,
                f"use an image for {platform}, or remove it from spec.architectures",
            )  # fmt: skip

    def _finding(self, what: str) -> Finding:
        return Finding("image-content", what, self.name, LOCK_AGAIN)
