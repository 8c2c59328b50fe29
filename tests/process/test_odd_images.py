"""Unusual but valid forms of images: the blobs that lock selects, and the gaps that check finds."""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest

from keystone.bundle import media
from keystone.bundle.model import Digest, Item, Manifest
from keystone.closure.content import Content
from keystone.closure.images import complete
from keystone.errors import KeystoneError
from keystone.packager.sources.oci import Reference, Remote, ResolvedImage, resolve, resolve_in
from keystone.packager.sources.referrers import attached
from keystone.packager.sources.upstream import Sources

from .faulty import Answer, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow

CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+zstd"
AMD, ARM = ({"os": "linux", "architecture": name} for name in ("amd64", "arm64"))
UNKNOWN = {"os": "unknown", "architecture": "unknown"}


@dataclass
class Parts:
    """Blobs by digest. wanted: needed for linux/amd64. spare: wanted, but not needed to run."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    wanted: set[str] = field(default_factory=set)
    spare: set[str] = field(default_factory=set)

    def put(self, data: bytes, kind: str, *, wanted: bool = True, **more: Any) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.blobs[digest] = data
        if wanted:
            self.wanted.add(digest)
        return {"mediaType": kind, "digest": digest, "size": len(data), **more}

    def image(
        self, name: str, machine: str = "amd64", *, kind: str = media.MANIFEST, wanted: bool = True,
        **more: Any,
    ) -> dict[str, Any]:  # fmt: skip
        system = "unknown" if machine == "unknown" else "linux"
        config = json.dumps({"architecture": machine, "os": system, "name": name}).encode()
        document = {
            "schemaVersion": 2, "mediaType": kind,
            "config": self.put(config, CONFIG, wanted=wanted),
            "layers": [self.put(name.encode(), LAYER, wanted=wanted)],
        }  # fmt: skip
        return self.put(json.dumps(document).encode(), kind, wanted=wanted, **more)

    def index(
        self, *children: dict[str, Any], kind: str = media.INDEX, wanted: bool = True, **more: Any
    ) -> dict[str, Any]:
        document = {"schemaVersion": 2, "mediaType": kind, "manifests": list(children)}
        return self.put(json.dumps(document).encode(), kind, wanted=wanted, **more)

    def about(self, image: dict[str, Any], **more: Any) -> dict[str, Any]:
        notes = {"vnd.docker.reference.digest": image["digest"]}
        before = set(self.blobs)
        made = self.image("about", "unknown", platform=UNKNOWN, annotations=notes, **more)
        self.spare |= self.blobs.keys() - before
        return made


def plain(parts: Parts) -> None:
    other = parts.image("b", "arm64", wanted=False, platform=ARM)
    parts.index(parts.image("a", platform=AMD), other)


def without_platform(parts: Parts) -> None:
    parts.index(parts.image("a"), parts.image("b", "arm64", wanted=False))


def attested(parts: Parts) -> None:
    image = parts.image("a", platform=AMD)
    parts.index(image, parts.about(image))


def nested(parts: Parts) -> None:
    image = parts.image("a", platform=AMD)
    parts.index(parts.index(image, parts.about(image), platform=AMD))


def nested_without_platform(parts: Parts) -> None:
    arm = parts.index(parts.image("b", "arm64", wanted=False), wanted=False)
    parts.index(parts.index(parts.index(parts.image("a"))), arm)


def of_docker(parts: Parts) -> None:
    image = parts.image("a", kind=media.DOCKER_MANIFEST, platform=AMD)
    parts.index(image, kind=media.DOCKER_LIST)


def names_of_uname(parts: Parts) -> None:
    parts.index(parts.image("a", platform={"os": "linux", "architecture": "x86_64"}))


def incomplete_platform(parts: Parts) -> None:
    parts.index(parts.image("a", platform={"architecture": "amd64"}))


def with_missing_manifests(parts: Parts) -> None:
    gone = {"mediaType": media.MANIFEST, "digest": f"sha256:{'0' * 64}", "size": 1}
    parts.index(gone, {**gone, "platform": ARM}, parts.image("a"))


def with_unknown_media_type(parts: Parts) -> None:
    first = "application/vnd.docker.distribution.manifest.v1+prettyjws"
    parts.index(parts.put(b"{}", first, wanted=False), parts.image("a", platform=AMD))


GOOD = [
    plain, without_platform, attested, nested, nested_without_platform, of_docker, names_of_uname,
    incomplete_platform, with_missing_manifests, with_unknown_media_type,
]  # fmt: skip


def found(parts: Parts) -> ResolvedImage:
    """Resolve the image whose root was added last, like `lock`."""
    root = list(parts.blobs)[-1]
    with serving() as server:
        for name in [*parts.blobs, "v1"]:
            data = parts.blobs[root if name == "v1" else name]
            server.says(f"/v2/team/app/manifests/{name}", Answer(data))
            server.says(f"/v2/team/app/blobs/{name}", Answer(data))
        sources = Sources({"registry.example": server.address}, pause=lambda _: None)
        reference = Reference.parse("registry.example/team/app:v1")
        return resolve(sources, reference, frozenset({"linux/amd64"}))


def carried(image: ResolvedImage) -> list[str]:
    return [str(one.digest) for one in (image.root, *image.manifests, *image.blobs)]


@pytest.mark.parametrize("build", GOOD, ids=lambda build: build.__name__)
def test_resolve_selects_exactly_the_blobs_of_the_platform(build: Callable[..., None]) -> None:
    parts = Parts()
    build(parts)
    assert set(carried(found(parts))) == parts.wanted


@pytest.mark.parametrize("build", GOOD, ids=lambda build: build.__name__)
def test_check_reports_each_missing_blob(build: Callable[..., None]) -> None:
    parts = Parts()
    build(parts)
    image = found(parts)
    root, *inner = [Digest.parse(text) for text in carried(image)]
    labels = {"mediaType": image.root.media_type}
    item = Item("image", "registry.example/team/app", "v1", root, image.root.size, labels,
                tuple(inner))  # fmt: skip

    @contextmanager
    def opener(digest: Digest) -> Iterator[BytesIO]:
        yield BytesIO(parts.blobs[str(digest)])

    def missing(inside: set[str]) -> list[str]:
        digests = frozenset(map(Digest.parse, inside))
        content = Content(Manifest("made", 1, (item,)), digests, ("amd64",), opener)
        return [one.missing for one in complete(content)]

    assert missing(parts.wanted) == []
    for lost in parts.wanted - parts.spare:
        assert missing(parts.wanted - {lost}), lost


def empty(parts: Parts) -> None:
    parts.index()


def only_another_platform(parts: Parts) -> None:
    parts.index(parts.index(parts.image("a", "arm64"), platform=ARM))


def endless(parts: Parts) -> None:
    inner = parts.image("a")
    for _ in range(4):
        inner = parts.index(inner)


def crowd(parts: Parts) -> None:
    parts.index(*(parts.image(str(number), "arm64") for number in range(300)))


def of_the_first_schema(parts: Parts) -> None:
    first = {"schemaVersion": 1, "name": "team/app", "tag": "v1", "fsLayers": [], "history": []}
    parts.put(json.dumps(first).encode(), "")


def configured_without_end(parts: Parts) -> None:
    config = parts.put(b"[" * 100_000, CONFIG)
    document = {"schemaVersion": 2, "mediaType": media.MANIFEST, "config": config, "layers": []}
    parts.put(json.dumps(document).encode(), media.MANIFEST)


@pytest.mark.parametrize(
    ("build", "code", "words"),
    [
        (empty, 8, "no image for linux/amd64"),
        (only_another_platform, 8, "no image for linux/amd64"),
        (endless, 5, "more than 3 deep"),
        (crowd, 5, "more than 256 manifests"),
        (of_the_first_schema, 5, "schema 1"),
        (configured_without_end, 5, "its configuration: nested too deep"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_unusable_image_is_refused_with_a_reason(
    build: Callable[..., None], code: int, words: str
) -> None:
    parts = Parts()
    build(parts)
    with pytest.raises(KeystoneError, match=words) as caught:
        found(parts)
    assert caught.value.exit_code == code


def attached_to(parts: Parts, image: dict[str, Any], answers: dict[str, bytes]) -> list[str]:
    """Tags of an image's attachments. answers: more manifests of the registry, by name."""
    with serving() as server:
        for name, data in [*parts.blobs.items(), *answers.items()]:
            server.says(f"/v2/team/app/manifests/{name}", Answer(data))
            server.says(f"/v2/team/app/blobs/{name}", Answer(data))
        server.says("/v2/team/app/manifests/v1", Answer(parts.blobs[image["digest"]]))
        sources = Sources({"registry.example": server.address}, pause=lambda _: None)
        remote = Remote(sources, Reference.parse("registry.example/team/app:v1"))
        found = attached(remote, resolve_in(remote, frozenset({"linux/amd64"})))
    return [one.tag for one in found]


@pytest.mark.parametrize("suffix", ["", ".sig"])
@pytest.mark.parametrize(
    "body",
    [b"<html>log in</html>", b"[" * 100_000, b"[]", b'{"manifests": 3}', b'{"errors": []}'],
    ids=["page", "deep", "list", "number", "error"],
)
def test_invalid_answer_for_attachments_is_reported_with_its_tag(suffix: str, body: bytes) -> None:
    """A proxy that requires a login answers every request with status 200."""
    parts = Parts()
    image = parts.image("a")
    tag = image["digest"].replace(":", "-") + suffix
    with pytest.raises(KeystoneError) as caught:
        attached_to(parts, image, {tag: body})
    assert caught.value.exit_code == 5
    assert f"registry.example/team/app:{tag}" in caught.value.message


@pytest.mark.parametrize("subject", ["text", 3, [], {"digest": 3}, None])
def test_listed_attachment_with_an_invalid_subject_is_refused(subject: object) -> None:
    parts = Parts()
    image = parts.image("a")
    document = {"schemaVersion": 2, "mediaType": media.MANIFEST, "layers": [],
                "config": parts.put(b"{}", media.EMPTY_TYPE), "subject": subject}  # fmt: skip
    stray = parts.put(json.dumps(document).encode(), media.MANIFEST)
    index = {"schemaVersion": 2, "mediaType": media.INDEX, "manifests": [stray]}
    tag = image["digest"].replace(":", "-")
    with pytest.raises(KeystoneError, match="but its subject is not that") as caught:
        attached_to(parts, image, {tag: json.dumps(index).encode()})
    assert caught.value.exit_code == 5


def test_image_at_the_tag_for_attachments_is_ignored() -> None:
    parts = Parts()
    image = parts.image("a")
    tag = image["digest"].replace(":", "-")
    assert attached_to(parts, image, {tag: parts.blobs[image["digest"]]}) == []


ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"


def test_attachment_of_an_obsolete_media_type_is_left_out() -> None:
    """Registries still contain artifact manifests from a draft of the specification."""
    parts = Parts()
    image = parts.image("a")
    config = parts.put(b"{}", media.EMPTY_TYPE)
    document = {"schemaVersion": 2, "mediaType": media.MANIFEST, "config": config, "layers": [],
                "subject": image}  # fmt: skip
    sbom = parts.put(json.dumps(document).encode(), media.MANIFEST)
    old = parts.put(json.dumps({"mediaType": ARTIFACT, "subject": image}).encode(), ARTIFACT)
    listed = {"schemaVersion": 2, "mediaType": media.INDEX, "manifests": [old, sbom]}
    with serving() as server:
        for name, data in parts.blobs.items():
            server.says(f"/v2/team/app/manifests/{name}", Answer(data))
            server.says(f"/v2/team/app/blobs/{name}", Answer(data))
        server.says("/v2/team/app/manifests/v1", Answer(parts.blobs[image["digest"]]))
        where = f"/v2/team/app/referrers/{image['digest']}"
        server.says(where, Answer(json.dumps(listed).encode()))
        sources = Sources({"registry.example": server.address}, pause=lambda _: None)
        remote = Remote(sources, Reference.parse("registry.example/team/app:v1"))
        found = attached(remote, resolve_in(remote, frozenset({"linux/amd64"})))
    assert [str(one.digest) for each in found for one in each.manifests] == [sbom["digest"]]
    assert old["digest"] not in found[0].made.decode()
