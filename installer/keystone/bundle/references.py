"""Which images Kubernetes objects ask for, and where each one stands.

Objects are what YAML or JSON gives: plain dicts, lists and scalars. Three kinds of places differ in
what counts as a reference, so that ordinary text is never taken for one:

  container  `image` of a container in any pod spec, or an image volume: whatever is written there
  image      a key, flag or variable that speaks of an image: a name with host, tag or digest
  text       any other string: only host/path:tag with a tag like a version, or a digest

Names follow github.com/distribution/reference; "busybox" is docker.io/library/busybox:latest.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

CONTAINERS = ("containers", "initContainers", "ephemeralContainers")
SPLIT = ("registry", "hub", "repository", "image", "name", "version", "tag", "digest")
DIGEST = r"sha256:[0-9a-f]{64}"
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(
    rf"(?:(?P<host>{_LABEL}(?:\.{_LABEL})*(?::[0-9]+)?|\[[0-9a-fA-F:]+\](?::[0-9]+)?)/)?"
    rf"(?P<repository>{_PART}(?:/{_PART})*)"
    rf"(?::(?P<tag>\w[\w.-]{{0,127}}))?(?:@(?P<digest>{DIGEST}))?"
)
_IMAGE_KEY = re.compile(
    r"(?:^|[_.\-/])images?(?:$|[_-]?(?:name|ref|reference|url)$)"
    r"|(?:^|.*[a-z0-9])Images?(?:Name|Ref|Reference|U[Rr][Ll])?$"
    r"|^images?(?:Name|Ref|Reference|U[Rr][Ll])$"
)
_VERSION_WORDS = {"latest", "stable", "main", "master", "edge", "nightly"}
_LOCAL_NAMES = (".svc", ".local", ".internal", ".localdomain")
_TEMPLATE = re.compile(r"\{\{|\}\}|\$\(|\$\{|%s|<[a-zA-Z]")
_SPLIT = re.compile(r"[\s\"'`=,;|&()<>\[\]{}]+")
_IMAGE_LINE = re.compile(r"(?m)^[ \t-]*[\"']?image[\"']?[ \t]*:[ \t]*[\"']?([^\s\"'#{}]+)")
_PROSE = {"description", "message", "summary", "title", "notes"}
_MAX_DEPTH = 100


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
        if host and not ("." in host or ":" in host or host == "localhost"):
            if host != host.lower():
                raise ValueError(f"{text!r} is not the name of an image: upper case")
            host, repository = "", f"{host}/{repository}"
        if host in {"", "index.docker.io", "registry-1.docker.io"}:
            host = "docker.io"
        if host == "docker.io" and "/" not in repository:
            repository = f"library/{repository}"
        tag, digest = match["tag"] or "", match["digest"] or ""
        return cls(host, repository, tag if tag or digest else "latest", digest)


@dataclass(frozen=True, order=True)
class Place:
    """Where something stands. path: JSONPath (RFC 9535) from the object, "$.spec.image"."""

    kind: str
    namespace: str
    name: str
    path: str

    def __str__(self) -> str:
        owner = "/".join(filter(None, (self.kind, self.namespace, self.name)))
        return f"{owner} {self.path}".strip()


@dataclass(frozen=True, order=True)
class Asked:
    """One reference: the image, where it stands, as it is written, in what kind of place."""

    image: ImageName
    place: Place
    text: str
    how: str


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML without dates and "=": kube manifests are read as JSON, which has neither."""


_Loader.yaml_implicit_resolvers = {
    first: [entry for entry in entries if not entry[0].endswith((":timestamp", ":value"))]
    for first, entries in _Loader.yaml_implicit_resolvers.items()
}


def load(text: str) -> list[Any]:
    """The documents of a YAML or JSON stream. Raises ValueError when it is neither."""
    try:
        return [value for value in yaml.load_all(text, _Loader) if value is not None]
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error).replace("\n", " ")) from error


def find(objects: Sequence[Any]) -> Iterator[Asked]:
    """Every image reference in these objects, in their order; lists are opened."""
    for value in objects:
        if not isinstance(value, Mapping):
            continue
        if str(value.get("kind", "")).endswith("List") and isinstance(value.get("items"), list):
            yield from find(value["items"])
        elif value.get("kind") == "CustomResourceDefinition":
            yield from _Walk(_owner(value)).schema(value.get("spec"), "$.spec", "")
        else:
            yield from _Walk(_owner(value)).mapping(value, "$", "")


def in_text(text: str) -> Iterator[str]:
    """Full references that stand in prose or in a script, as they are written."""
    for word in _SPLIT.split(text):
        candidate = word.rstrip(".:")
        if _plain(candidate) is not None:
            yield candidate


def _owner(value: Mapping[str, Any]) -> Place:
    metadata = value.get("metadata")
    named = metadata if isinstance(metadata, Mapping) else {}
    name = named.get("name") or named.get("generateName") or ""
    return Place(str(value.get("kind", "")), str(named.get("namespace") or ""), str(name), "")


class _Walk:
    """Goes through one object and remembers whose it is."""

    def __init__(self, owner: Place) -> None:
        self.owner = owner

    def mapping(self, value: Mapping[str, Any], at: str, key: str) -> Iterator[Asked]:
        """A dict: first what its shape says, then what is in it."""
        if at.count(".") + at.count("[") > _MAX_DEPTH:
            return
        done: set[object] = set()
        joined = _joined(value, key)
        if joined is not None:
            done = {key for key in SPLIT if not isinstance(value.get(key), Mapping | list)}
            yield from self._give(joined, at, "image", _named)
        for inner, child in value.items():
            name = str(inner)
            # What stands in a status was asked for elsewhere.
            if name in done or name in _PROSE or (at == "$" and name == "status"):
                continue
            yield from self._member(name, child, _step(at, name))

    def _member(self, key: str, child: object, at: str) -> Iterator[Asked]:
        """One entry of a dict, by what its key says about it."""
        if key in CONTAINERS and isinstance(child, list):
            yield from self._containers(child, at)
        elif key in {"args", "command"} and isinstance(child, list):
            yield from self._arguments(child, at)
        elif key == "env" and isinstance(child, list):
            yield from self._environment(child, at)
        elif key in {"data", "stringData"} and self.owner.kind in {"ConfigMap", "Secret"}:
            yield from self._files(child, at, coded=key == "data" and self.owner.kind == "Secret")
        elif key == "image" and isinstance(child, Mapping) and "reference" in child:
            yield from self._give(child["reference"], f"{at}.reference", "container", _any)
        elif key != "labels" and not key.endswith("last-applied-configuration"):
            yield from self._value(child, at, key)

    def _value(self, value: object, at: str, key: str) -> Iterator[Asked]:
        if isinstance(value, Mapping):
            yield from self.mapping(value, at, key)
        elif isinstance(value, list):
            for index, entry in enumerate(value):
                yield from self._value(entry, f"{at}[{index}]", key)
        elif isinstance(value, str) and _IMAGE_KEY.search(key):
            yield from self._give(value, at, "image", _named)
        elif isinstance(value, str):
            # `images: {proxy: quay.io/x:v1}`: the name of the dict speaks for its entries.
            about = re.search(r"(?i)images$", at.rsplit(".", 1)[0])
            yield from self._give(value, at, "image" if about else "text", _plain)

    def _containers(self, value: Sequence[Any], at: str) -> Iterator[Asked]:
        for index, container in enumerate(value):
            here = f"{at}[{index}]"
            if not isinstance(container, Mapping):
                continue
            image = container.get("image")
            # Istio's webhook puts its own image where a chart writes "auto".
            if isinstance(image, str) and image != "auto":
                yield from self._give(image, f"{here}.image", "container", _any)
            rest = {k: v for k, v in container.items() if k != "image" or not isinstance(v, str)}
            yield from self.mapping(rest, here, "")

    def _arguments(self, value: Sequence[Any], at: str) -> Iterator[Asked]:
        """Flags, "--x=value" or "--x", "value", and scripts behind `sh -c`."""
        before = ""
        for index, word in enumerate(map(str, value)):
            here = f"{at}[{index}]"
            flag, equals, rest = word.partition("=")
            about_image = "image" in (flag if equals else before).lower()
            if flag.startswith("-") and equals:
                yield from self._give(rest, here, "argument", _named if about_image else _plain)
            elif before.startswith("-") and about_image and not word.startswith("-"):
                yield from self._give(word, here, "argument", _named)
            else:
                for text in in_text(word):
                    yield from self._give(text, here, "argument", _plain)
            before = word

    def _environment(self, value: Sequence[Any], at: str) -> Iterator[Asked]:
        for index, entry in enumerate(value):
            if not isinstance(entry, Mapping) or not isinstance(entry.get("value"), str):
                continue
            name, text, here = str(entry.get("name", "")), entry["value"], f"{at}[{index}].value"
            if "\n" in text or text.lstrip()[:1] in {"{", "["}:
                yield from self._embedded(text, here)
            elif re.search(r"(?i)image", name):
                yield from self._give(text, here, "environment", _named)
            else:
                yield from self._give(text, here, "environment", _plain)

    def _files(self, value: object, at: str, *, coded: bool) -> Iterator[Asked]:
        """What a ConfigMap or Secret carries: a value, a YAML or JSON file, a script."""
        for key, content in value.items() if isinstance(value, Mapping) else ():
            here, text = _step(at, str(key)), content
            if not isinstance(text, str):
                continue
            if coded:
                try:
                    text = base64.b64decode(text, validate=True).decode()
                except (binascii.Error, UnicodeDecodeError):
                    continue
            if "\n" in text or text.lstrip()[:1] in {"{", "["}:
                yield from self._embedded(text, here)
            else:
                about_image = _IMAGE_KEY.search(str(key))
                yield from self._give(text, here, "image", _named if about_image else _plain)

    def _embedded(self, text: str, at: str) -> Iterator[Asked]:
        """A file inside an object. What does not parse is looked through line by line."""
        try:
            documents = load(text)
        except ValueError:
            documents = [text]
        for value in documents:
            if isinstance(value, Mapping | list):
                yield from self._value(value, at, "")
                continue
            seen = {match[1] for match in _IMAGE_LINE.finditer(str(value)) if _named(match[1])}
            for found in sorted(seen | set(in_text(str(value)))):
                yield from self._give(found, at, "image", _named)

    def schema(self, value: object, at: str, key: str) -> Iterator[Asked]:
        """A custom resource's schema asks for an image only by a default."""
        if isinstance(value, list):
            for index, entry in enumerate(value):
                yield from self.schema(entry, f"{at}[{index}]", key)
        if not isinstance(value, Mapping):
            return
        default = value.get("default")
        if isinstance(default, str) and _IMAGE_KEY.search(key):
            yield from self._give(default, f"{at}.default", "image", _named)
        elif isinstance(default, Mapping):
            yield from self.mapping(default, f"{at}.default", key)
        for inner, child in value.items():
            if inner not in {"default", "example", "enum", "description"}:
                yield from self.schema(child, _step(at, str(inner)), str(inner))

    def _give(self, text: object, at: str, how: str, rule: _Rule) -> Iterator[Asked]:
        image = rule(text) if isinstance(text, str) else None
        if image is not None:
            owner = self.owner
            place = Place(owner.kind, owner.namespace, owner.name, at)
            yield Asked(image, place, str(text).strip(), how)


_Rule = Callable[[str], ImageName | None]


def _any(text: str) -> ImageName | None:
    """The image of a container: whatever is written there will be pulled."""
    if _TEMPLATE.search(text):
        return None
    try:
        return ImageName.parse(text)
    except ValueError:
        return None


def _named(text: str) -> ImageName | None:
    """Something that is called an image: it names a tag, a digest or a registry with a path."""
    image = _any(text)
    if image is None:
        return None
    first, slash, _ = text.strip().partition("/")
    has_host = bool(slash) and ("." in first or ":" in first)
    tagged = bool(re.search(rf":\w[\w.-]*$|@{DIGEST}$", text.strip()))
    return image if tagged or has_host else None


def _plain(text: str) -> ImageName | None:
    """Any text: a registry's name, a path, and a tag that reads like a version, or a digest."""
    image = _any(text) if "/" in text else None
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


def _joined(value: Mapping[str, Any], key: str) -> str | None:
    """A reference that is split over several keys, as Helm values and operators have it.

    {repository, tag}, {registry, repository, tag, digest}, {repository, image, version} (GPU
    operator), {hub, image, tag} (Istio), {image, version} (Prometheus).
    """
    text = {
        name: str(value[name])
        for name in SPLIT
        if isinstance(value.get(name), str | int | float) and str(value[name])
    }
    about_image = bool(re.search(r"(?i)image$", key))
    prefix = text.get("registry") or text.get("hub")
    # A name alone is a name: it is a repository only inside something that is called an image.
    parts = [prefix, text.get("repository"), text.get("image")]
    if len([part for part in parts if part]) == 0 and about_image:
        parts.append(text.get("name"))
    tag, digest = text.get("tag", ""), text.get("digest", "")
    name = "/".join(part.strip("/") for part in parts if part)
    if not tag and (about_image or ("image" in text and "/" in name)):
        tag = text.get("version", "")
    if not name or not (tag or digest) or re.search(r"[:@][^/]*$", name):
        return None
    # {repository, tag} alone may be a git repository, unless it starts with a registry.
    if not (about_image or prefix or "image" in text or "." in name.partition("/")[0]):
        return None
    if tag.startswith("sha256:"):
        tag, digest = "", tag
    return name + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")


def _step(at: str, key: str) -> str:
    return f"{at}.{key}" if re.fullmatch(r"[A-Za-z_]\w*", key) else f"{at}['{key}']"
