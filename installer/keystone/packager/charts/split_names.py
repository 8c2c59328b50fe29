"""Recognize keys for images, and join names that are split over keys, such as repository and tag.

Keys are split into words in any style: "helperImage", "helper_image", "HELPER_IMAGE",
"spark.helper.image". Keys belong together when their other words are equal: controllerImage and
controllerImageVersion, AGENT_IMAGE_REPOSITORY and AGENT_IMAGE_TAG. All functions here are pure and
work on text only; `references` decides what is an image name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

IMAGE = ("image", "images")
CALLED = frozenset({"name", "names", "ref", "reference", "url", "uri", "default", "override"})
"""Words after "image" in keys whose value is still an image's name."""
SLOTS = {
    "registry": "prefix", "hub": "prefix",
    "repository": "repository", "repo": "repository", "name": "name",
    "ref": "image", "reference": "image", "url": "image", "uri": "image",
    "organization": "organization", "org": "organization",
    "tag": "tag", "version": "version", "digest": "digest", "sha": "digest", "sha256": "digest",
}  # fmt: skip
VERSIONS = frozenset({"tag", "version", "digest"})
KUBEADM = {"dns": "coredns", "local": "etcd"}
"""Names that kubeadm appends to imageRepository in `dns` and `etcd.local` of its configuration."""
OTHER = frozenset({
    "address", "dir", "endpoint", "format", "host", "hub", "path", "policy", "port", "prefix",
    "registries", "secret", "secrets", "server", "size", "threshold", "type", *SLOTS,
}) - CALLED  # fmt: skip
"""Last words of keys that are about images but whose value is not an image's name."""
_IMAGE = re.compile("(images$|image)")
_WORD = re.compile(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+")
_KUSTOMIZE = {"newName": "name", "newTag": "tag"}
_TAGGED = re.compile(r"[:@]")
_HOST = re.compile(r"[\w-]+(\.[\w-]+)*(:\d+)?(/[\w./-]+)?")


def words(key: str) -> list[str]:
    """Return the words of a key in lower case: "helperImageName" is helper, image, name."""
    found = (part for word in _WORD.findall(key) for part in _IMAGE.split(word.lower()))
    return [part for part in found if part]


def is_image_key(key: str) -> bool:
    """Whether the value of this key is an image: "workerImage", "image_name"."""
    found = words(key)
    while found and found[-1] in CALLED:
        found.pop()
    return bool(found) and found[-1] in IMAGE


def may_name_image(key: str) -> bool:
    """Whether a flag or variable may have an image as value: "RELATED_IMAGE_X", "--agent-image"."""
    found = words(key)
    if found[:2] == ["related", "image"]:
        return True
    return any(word in IMAGE for word in found) and found[-1] not in OTHER


@dataclass(frozen=True)
class Context:
    """Settings of the enclosing mappings.

    prefix, tag: the default registry and tag. images: whether all values are images. every: the
    registry of all images, overriding the one beside an image (global.imageRegistry).
    """

    prefix: str = ""
    tag: str = ""
    images: bool = False
    every: str = ""


@dataclass(frozen=True)
class Joined:
    """A name that was joined from several keys."""

    text: str
    keys: frozenset[str]


@dataclass
class _Group:
    """Keys with the same other words. values, keys: by slot. image: slots with an image key."""

    values: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    image: set[str] = field(default_factory=set)

    def put(self, slot: str, key: str, value: str, *, image: bool) -> None:
        if slot in self.values and not image:
            return
        self.values[slot], self.keys[slot] = value, key
        self.image |= {slot} if image else set()


def joined(fields: Mapping[str, str], key: str, context: Context) -> list[Joined]:
    """Return every name that is split over these fields. key: the mapping's own key.

    {repository, tag}, {registry, repository, tag, digest}, {repository, image, version} (GPU
    operator), {hub, image, tag} (Istio), {base, image, tag}, {image, version} (Prometheus),
    {image, imageTag}, {name, newName, newTag} (Kustomize).
    """
    about = is_image_key(key) or context.images
    if about and _KUSTOMIZE.keys() & fields.keys():
        renamed = joined(_kustomized(fields), key, context)
        return [Joined(one.text, one.keys | _KUSTOMIZE.keys()) for one in renamed]
    if key in KUBEADM and "imageRepository" in fields:
        whole = f"{fields['imageRepository']}/{KUBEADM[key]}"
        fields = {**fields, "imageRepository": whole}
    groups = _groups(fields)
    plain = groups.get((), _Group())
    if is_image_key(key):
        _addressed(plain, fields)
    _defaulted(groups, plain)
    named = [stem for stem, group in groups.items() if {"image", "repository"} & group.keys.keys()]
    made = []
    for stem, group in groups.items():
        if stem and named == [stem]:  # {operatorImage, tag}: the tag can only be for this image
            slots = {"tag", "digest", "version" if stem == ("base",) else "tag"}
            for slot in slots & plain.values.keys():
                group.put(slot, plain.keys[slot], plain.values[slot], image=slot in plain.image)
        prefix = group.values.get("prefix") or _registry(plain.values.get("prefix", ""))
        if not is_image_key(key) and "/" not in group.values.get("name", ""):
            group.values.pop("name", None)
        found = _join(group, prefix, context, about=about)
        if found:
            made.append(Joined(found, frozenset(group.keys.values())))
    return made


def _addressed(plain: _Group, fields: Mapping[str, str]) -> None:
    """Handle URLs: `image: {url: quay.io/a/b, tag: v1}`, `image: {registry: "https://quay.io"}`."""
    for key in ("url", "uri"):
        if key in fields and not {"image", "repository", "name"} & plain.values.keys():
            plain.put("image", key, fields[key], image=True)
    bare = re.fullmatch(r"https?://([^/]+)/?", plain.values.get("prefix", ""))
    if bare:
        plain.values["prefix"] = bare[1]


def _defaulted(groups: Mapping[tuple[str, ...], _Group], plain: _Group) -> None:
    """Handle default tags: `{image: kserve/explainer, defaultImageVersion: v1}`."""
    default = groups.get(("default",), _Group())
    if "image" in plain.values and not VERSIONS & plain.values.keys():
        for slot in default.image if default.values.keys() <= VERSIONS else ():
            plain.put(slot, default.keys[slot], default.values[slot], image=True)


def _kustomized(fields: Mapping[str, str]) -> dict[str, str]:
    """Return an entry of Kustomize's images with newName and newTag as name and tag."""
    kept = {key: value for key, value in fields.items() if key not in _KUSTOMIZE}
    return kept | {_KUSTOMIZE[key]: fields[key] for key in _KUSTOMIZE.keys() & fields.keys()}


def nested(fields: Mapping[str, str], key: str, context: Context) -> Context:
    """Return the context of the mappings inside this one."""
    plain = _groups(fields).get((), _Group()).values
    prefix = _registry(plain.get("prefix", ""))
    images = context.images or words(key)[-1:] == ["images"]
    if prefix:
        return Context(prefix, plain.get("tag", ""), images, context.every)
    return replace(context, images=images)


def beside_global(shared: Mapping[str, str], context: Context) -> Context:
    """Return the context beside `global`, whose imageRegistry applies to all images (Bitnami)."""
    plain = _groups(shared).get((), _Group())
    every = _registry(plain.values["prefix"]) if "prefix" in plain.image else ""
    return replace(context, every=every) if every else context


def _groups(fields: Mapping[str, str]) -> dict[tuple[str, ...], _Group]:
    groups: dict[tuple[str, ...], _Group] = {}
    for key, value in fields.items():
        for stem, slot, image in _slot(key):
            groups.setdefault(stem, _Group()).put(slot, key, value, image=image)
    return groups


def _slot(key: str) -> Iterator[tuple[tuple[str, ...], str, bool]]:
    """Yield a key's other words, its slot, and whether it is about an image."""
    found = words(key)
    core = [word for word in found if word not in IMAGE]
    image = len(core) < len(found)
    slot = SLOTS.get(core[-1], "") if core else "image"
    if key == "base":
        yield (), "prefix", False
    elif slot == "name" and image:
        yield tuple(core[:-1]), "image", True
    elif slot == "image" and not image:
        return
    elif slot:
        # "container" for Airflow's worker_container_repository.
        yield tuple(core[:-1]), slot, image or "container" in core
    elif image and found[-1] in IMAGE:
        yield tuple(core), "image", True


def _join(group: _Group, prefix: str, context: Context, *, about: bool) -> str:
    """Join the name of one group; "" if there is none, or a single key has the whole name."""
    values = group.values
    about = about or bool({"tag", "digest"} & group.image)
    parts = [part for part in (values.get("repository"), values.get("image")) if part]
    if not parts and about:
        parts = [values.get("name", "")]
    if any(parts):
        parts.insert(0, values.get("organization", ""))
    name = "/".join(part.strip("/") for part in parts if part)
    outer = ""
    sure = about or "image" in values or group.image
    if sure and context.every and not _hosted(name):
        prefix = context.every
    if name and not prefix and not _hosted(name):
        prefix = outer = context.prefix
    if prefix and not f"{name}/".startswith(f"{prefix.strip('/')}/"):
        name = name and f"{prefix.strip('/')}/{name}"
    # {repository, tag} without other signs may be a git repository, unless it has a registry.
    if not name or "://" in name or not (sure or prefix or _hosted(name)):
        return ""
    tag, digest = values.get("tag", ""), _digest(values.get("digest", ""))
    versioned = about or "version" in group.image or ("image" in values and "/" in name)
    tag = tag or (values.get("version", "") if versioned else "") or (context.tag if outer else "")
    if tag.startswith("sha256:"):
        tag, digest = "", tag
    if _TAGGED.search(name.rpartition("/")[2]):
        return f"{name}@{digest}" if digest and "@" not in name else ""
    if not (tag or digest):
        return ""
    return name + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")


def _digest(text: str) -> str:
    """Normalize a digest: Prometheus charts omit the algorithm."""
    bare = re.fullmatch(r"(?:sha256:)?([0-9a-f]{64})", text)
    return f"sha256:{bare[1]}" if bare else ""


def _hosted(name: str) -> bool:
    first, slash, _ = name.partition("/")
    return bool(slash) and ("." in first or ":" in first)


def _registry(text: str) -> str:
    """Return a registry, with or without a path; "" for values that are not one."""
    return text if _HOST.fullmatch(text) and re.search("[.:]", text) else ""
