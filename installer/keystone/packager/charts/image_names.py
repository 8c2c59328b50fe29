"""Names of images, and what counts as one where: github.com/distribution/reference.

"busybox" is docker.io/library/busybox:latest. A rule takes a text and gives the image that it
names there, or None.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

HUB = "docker.io"
HUB_NAMES = frozenset({HUB, "index.docker.io", "registry-1.docker.io"})
"""Docker Hub; what goes by one of these names is there, whichever it was."""
OFFICIAL = "library/"
"""Where Docker Hub keeps images whose name has one part."""
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
"""How KubeVirt's importer and skopeo write "a registry's image" (containers-transports(5))."""
_VERSION_WORDS = {"latest", "stable", "main", "master", "edge", "nightly"}
_LOCAL_NAMES = (".svc", ".local", ".internal", ".localdomain")
_TEMPLATE = re.compile(r"\{\{|\}\}|\$\(|\$\{|%s|<[a-zA-Z]")
_FILE = re.compile(r"\.(png|jpe?g|svg|gif|ico|webp|iso|img|raw|qcow2|vmdk|efi|[tg]z|xz|zst|zip)$")


@dataclass(frozen=True, order=True)
class ImageName:
    """An image as a node would pull it: host and repository always there, tag or digest or both."""

    host: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """Without tag and digest: "docker.io/library/busybox"."""
        return f"{self.host}/{self.repository}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return self.name + tag + (f"@{self.digest}" if self.digest else "")

    @classmethod
    def parse(cls, text: str) -> ImageName:
        """From a full or a short name. Raises ValueError when no node could pull it."""
        match = _NAME.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text!r} is not the name of an image")
        host, repository = match["host"] or "", match["repository"]
        if not host and repository == "sha256":
            raise ValueError(f"{text!r} is not the name of an image, but a digest")
        if host and not ("." in host or ":" in host or host == "localhost"):
            if host != host.lower():
                raise ValueError(f"{text!r} is not the name of an image: upper case")
            host, repository = "", f"{host}/{repository}"
        host = of_hub(host or HUB)
        if host == HUB and "/" not in repository:
            repository = OFFICIAL + repository
        tag, digest = match["tag"] or "", match["digest"] or ""
        return cls(host, repository, tag if tag or digest else "latest", digest)


def of_hub(name: str) -> str:
    """A registry's name, or what begins with it; Docker Hub's by the one that is used here."""
    host, slash, rest = name.partition("/")
    return f"{HUB if host in HUB_NAMES else host}{slash}{rest}"


def spellings(name: str) -> frozenset[str]:
    """Every host/repository that means this one: "docker.io/busybox" for library/busybox."""
    host, _, repository = of_hub(name).partition("/")
    if host != HUB:
        return frozenset({name})
    short = repository.removeprefix(OFFICIAL)
    paths = {repository, f"{OFFICIAL}{short}", short} if "/" not in short else {repository}
    return frozenset(f"{hub}/{path}" for hub in HUB_NAMES for path in paths)


Rule = Callable[[str], ImageName | None]


def anything(text: str) -> ImageName | None:
    """The image of a container: whatever is written there will be pulled."""
    if _TEMPLATE.search(text):
        return None
    name, at, digest = text.strip().partition("@")
    try:
        if at and _SHA512.fullmatch(digest):  # for whoever says that it cannot be carried
            found = ImageName.parse(name)
            return replace(
                found, tag=found.tag if name.endswith(f":{found.tag}") else "", digest=digest
            )
        return ImageName.parse(text)
    except ValueError:
        return None


def named(text: str) -> ImageName | None:
    """Something that is called an image: it names a tag, a digest or a registry with a path."""
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
    """The same behind TRANSPORT."""
    return named(text.removeprefix(TRANSPORT))


def whole(text: str) -> ImageName | None:
    """What is called the base of an image: an operator adds its own tag where there is none."""
    image = named(text)
    return image if image and re.search(r":\w[\w.-]*$|@", text.strip()) else None


def plain(text: str) -> ImageName | None:
    """Any text: a registry's name, a path, and a tag that reads like a version, or a digest."""
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
