"""Parse image names (github.com/distribution/reference), and decide which texts are image names.

"busybox" is docker.io/library/busybox:latest. A rule takes a text and returns the image that it
names, or None. Which rule applies depends on where the text is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

HUB = "docker.io"
HUB_NAMES = frozenset({HUB, "index.docker.io", "registry-1.docker.io"})
"""All of these names are Docker Hub."""
OFFICIAL = "library/"
"""Docker Hub's namespace for images whose name has a single part."""
DIGEST = r"sha256:[0-9a-f]{64}"
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(
    rf"(?:(?P<host>{_LABEL}(?:\.{_LABEL})*(?::[0-9]+)?|\[[0-9a-fA-F:]+\](?::[0-9]+)?)/)?"
    rf"(?P<repository>{_PART}(?:/{_PART})*)"
    rf"(?::(?P<tag>\w[\w.-]{{0,127}}))?(?:@(?P<digest>{DIGEST}))?",
    re.ASCII,
)
_SHA512 = re.compile(r"sha512:[0-9a-f]{128}")
TRANSPORT = "docker://"
"""KubeVirt's and skopeo's prefix for an image in a registry (containers-transports(5))."""
_VERSION_WORDS = {"latest", "stable", "main", "master", "edge", "nightly"}
_LOCAL_NAMES = (".svc", ".local", ".internal", ".localdomain")
_TEMPLATE = re.compile(r"\{\{|\}\}|\$\(|\$\{|%s|<[a-zA-Z]")
_FILE = re.compile(r"\.(png|jpe?g|svg|gif|ico|webp|iso|img|raw|qcow2|vmdk|efi|[tg]z|xz|zst|zip)$")


@dataclass(frozen=True, order=True)
class ImageName:
    """An image as a node pulls it: with host and repository, and with tag, digest or both."""

    host: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """The name without tag and digest: "docker.io/library/busybox"."""
        return f"{self.host}/{self.repository}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return self.name + tag + (f"@{self.digest}" if self.digest else "")

    @classmethod
    def parse(cls, text: str) -> ImageName:
        """Parse a full or a short name. Raises ValueError when a node could not pull it."""
        match = _NAME.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text!r} is not the name of an image")
        host, repository = match["host"] or "", match["repository"]
        if not host and repository == "sha256":
            raise ValueError(f"{text!r} is not the name of an image: it is a digest")
        if host and not ("." in host or ":" in host or host == "localhost"):
            if host != host.lower():
                raise ValueError(f"{text!r} is not the name of an image: it has upper-case letters")
            host, repository = "", f"{host}/{repository}"
        host = of_hub(host or HUB)
        if host == HUB and "/" not in repository:
            repository = OFFICIAL + repository
        tag, digest = match["tag"] or "", match["digest"] or ""
        return cls(host, repository, tag if tag or digest else "latest", digest)


def of_hub(name: str) -> str:
    """Replace any of Docker Hub's names at the start of `name` by docker.io."""
    host, slash, rest = name.partition("/")
    return f"{HUB if host in HUB_NAMES else host}{slash}{rest}"


def spellings(name: str) -> frozenset[str]:
    """Return all spellings of a host/repository: "docker.io/busybox" for library/busybox."""
    host, _, repository = of_hub(name).partition("/")
    if host != HUB:
        return frozenset({name})
    short = repository.removeprefix(OFFICIAL)
    paths = {repository, f"{OFFICIAL}{short}", short} if "/" not in short else {repository}
    return frozenset(f"{hub}/{path}" for hub in HUB_NAMES for path in paths)


Rule = Callable[[str], ImageName | None]


def anything(text: str) -> ImageName | None:
    """Rule for a container's image: a node pulls whatever name is there."""
    if _TEMPLATE.search(text):
        return None
    name, at, digest = text.strip().partition("@")
    try:
        if at and _SHA512.fullmatch(digest):  # image_list reports that bundles do not support it
            found = ImageName.parse(name)
            return replace(
                found, tag=found.tag if name.endswith(f":{found.tag}") else "", digest=digest
            )
        return ImageName.parse(text)
    except ValueError:
        return None


def named(text: str) -> ImageName | None:
    """Rule under image keys: the text has a tag, a digest, or a registry and a path."""
    image = anything(text)
    if image is None:
        return None
    first, slash, _ = text.strip().partition("/")
    has_host = bool(slash) and ("." in first or ":" in first)
    tagged = bool(re.search(rf":\w[\w.-]*$|@{DIGEST}$", text.strip()))
    if not slash and (_FILE.search(first) or re.fullmatch(r"[\w-]*\.[\w.-]*:\d+", first)):
        return None  # "logo.png", "registry.example:5000"
    if not tagged and _FILE.search(image.repository):
        return None
    return image if tagged or has_host else None


def transported(text: str) -> ImageName | None:
    """Rule `named`, after an optional TRANSPORT."""
    return named(text.removeprefix(TRANSPORT))


def whole(text: str) -> ImageName | None:
    """Rule under base image keys: only with tag or digest; else an operator adds its own tag."""
    image = named(text)
    return image if image and re.search(r":\w[\w.-]*$|@", text.strip()) else None


def plain(text: str) -> ImageName | None:
    """Rule for any other text: registry, path, and a digest or a tag that looks like a version."""
    image = anything(text) if "/" in text else None
    if image is None or not text.strip().startswith(f"{image.host}/"):
        return None
    if image.digest:
        return image
    host = image.host.partition(":")[0]
    if image.host == "localhost" or re.fullmatch(r"[\d.]+", host) or host.endswith(_LOCAL_NAMES):
        return None
    tag = image.tag if text.strip().endswith(f":{image.tag}") else ""
    port = tag.isdigit() and (int(tag) in {80, 443} or 1000 <= int(tag) <= 65535)  # noqa: PLR2004 ports
    versioned = tag in _VERSION_WORDS or re.search(r"\d", tag)
    return image if versioned and not port else None
