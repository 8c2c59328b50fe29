"""Find the image references in Kubernetes objects, and where each one is.

Objects are parsed YAML or JSON: plain dicts, lists and scalars. What counts as a reference depends
on its place, so that ordinary text is never mistaken for one:

  container  `image` of a container in any pod spec, or an image volume: any image name
  image      a key, flag or variable for an image: a name with host, tag or digest
  text       any other string: only host/path:tag with a tag like a version, or a digest

`image_names` defines what a name is, `split_names` what keys mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from keystone.errors import SourceError
from keystone.packager.charts import arguments, config_files, image_names, split_names
from keystone.packager.charts.image_names import ImageName
from keystone.packager.charts.split_names import Context

CONTAINERS = re.compile(r".*[cC]ontainers|steps|sidecars")
"""Lists of containers in pods, Tekton tasks, Argo workflows, and additions of operators to pods."""
FILES = {"data", "stringData", "binaryData"}
_INSIDE = re.compile(r"\s*(?:[{\[]|[\"']?[\w.\-/]+[\"']?:\s)")
"""The start of YAML or JSON inside a string."""
_SPLIT = re.compile(r"[\s\"'`=,;|&()<>\[\]{}]+")
_PROSE = {"description", "message", "summary", "title", "notes"}
NO_YAML = (yaml.YAMLError, RecursionError, LookupError, AttributeError)
"""PyYAML's exceptions; the last two for `!!bool x`, `!!int ""`, `!!timestamp x`."""
_MAX_DEPTH = 100
"""Keys and indexes in the path of a place; deeper values are skipped."""
MAX_NESTED = 500
"""Nesting depth of one YAML text; without a limit libyaml's composer overflows the C stack."""
MAX_MERGED = 2_000_000
"""Total number of entries of all mappings in one YAML text, including those merged by `<<`."""
MAX_EFFORT = 5_000_000
"""Nodes to visit in all, 16 characters of text counting as one; YAML aliases can multiply both."""


@dataclass(frozen=True, order=True)
class Place:
    """The place of a value. path: JSONPath (RFC 9535) in the object, "$.spec.image"."""

    kind: str
    namespace: str
    name: str
    path: str

    def __str__(self) -> str:
        owner = "/".join(filter(None, (self.kind, self.namespace, self.name)))
        return f"{owner} {self.path}".strip()


@dataclass(frozen=True, order=True)
class Found:
    """One reference: the image, its place, the text as written, and the kind of place (how)."""

    image: ImageName
    place: Place
    text: str
    how: str


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML without dates and "=": Kubernetes reads manifests as JSON, which has neither.

    Its input is untrusted, so nesting and merging have limits.
    """

    nested = merged = 0

    def descend_resolver(self, parent: object, index: object) -> None:
        """Count nesting. The composer calls this before each node."""
        self.nested += 1
        if self.nested > MAX_NESTED:
            raise yaml.YAMLError(f"nested deeper than {MAX_NESTED}")
        super().descend_resolver(parent, index)

    def ascend_resolver(self) -> None:
        """Count nesting. The composer calls this after each node."""
        self.nested -= 1
        super().ascend_resolver()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Count entries. The constructor calls this for each mapping, also those merged by `<<`."""
        super().flatten_mapping(node)
        self.merged += len(node.value)
        if self.merged > MAX_MERGED:
            raise yaml.YAMLError(f"its mappings have more than {MAX_MERGED} entries")


_Loader.yaml_implicit_resolvers = {
    first: [entry for entry in entries if not entry[0].endswith((":timestamp", ":value"))]
    for first, entries in _Loader.yaml_implicit_resolvers.items()
}


def load(text: str) -> list[Any]:
    """Parse the documents of a YAML or JSON stream. Raises ValueError when it is neither."""
    try:
        return [value for value in yaml.load_all(text, _Loader) if value is not None]
    except NO_YAML as error:
        raise ValueError(str(error).replace("\n", " ")) from error


def find(objects: Sequence[Any]) -> Iterator[Found]:
    """Yield every image reference in these objects and in List objects, in order.

    Raises SourceError for objects that would take more than MAX_EFFORT.
    """
    yield from _find(objects, _Effort())


def _find(objects: Sequence[Any], effort: _Effort) -> Iterator[Found]:
    for value in objects:
        owner = _owner(value if isinstance(value, Mapping) else {})
        effort.spend(owner, "$")
        if not isinstance(value, Mapping):
            continue
        if str(value.get("kind", "")).endswith("List") and isinstance(value.get("items"), list):
            yield from _find(value["items"], effort)
        elif value.get("kind") == "CustomResourceDefinition":
            yield from _Walk(owner, effort).schema(value.get("spec"), "$.spec", "")
        else:
            yield from _Walk(owner, effort).mapping(value, "$", "")


def in_text(text: str) -> Iterator[str]:
    """Yield the full references in prose or in a script, as written."""
    for word in _SPLIT.split(text):
        candidate = word.rstrip(".:")
        if image_names.plain(candidate) is not None:
            yield candidate


def _owner(value: Mapping[str, Any]) -> Place:
    metadata = value.get("metadata")
    named = metadata if isinstance(metadata, Mapping) else {}
    name = named.get("name") or named.get("generateName") or ""
    return Place(str(value.get("kind", "")), str(named.get("namespace") or ""), str(name), "")


class _Effort:
    """The remaining number of nodes to visit."""

    def __init__(self) -> None:
        self.left = MAX_EFFORT

    def spend(self, owner: Place, at: str, text: str = "") -> None:
        """Count a node or a text. Raises SourceError when the total exceeds MAX_EFFORT."""
        self.left -= 1 + len(at) // 64 + len(text) // 16
        if self.left < 0:
            raise SourceError(
                f"{owner} {at[:90]}: too large: more than {MAX_EFFORT} values to search",
                hint="inspect the object: YAML aliases can multiply a few lines; tell its authors",
            )


class _Walk:
    """Walks through one object, with its owner and the context of the current mapping."""

    def __init__(self, owner: Place, effort: _Effort) -> None:
        self.owner = owner
        self.effort = effort
        self.context = Context()

    def _too_deep(self, at: str) -> bool:
        self.effort.spend(self.owner, at)
        return at.count(".") + at.count("[") > _MAX_DEPTH

    def mapping(self, value: Mapping[str, Any], at: str, key: str) -> Iterator[Found]:
        """Search a mapping: first for names split over its fields, then in its entries."""
        if self._too_deep(at):
            return
        fields, before = arguments.scalars(value), self.context
        shared = value.get("global")
        if isinstance(shared, Mapping):
            self.context = split_names.beside_global(arguments.scalars(shared), before)
        done: set[str] = set()
        for joined in split_names.joined(fields, key, self.context):
            done |= joined.keys
            yield from self._match(joined.text, at, "image", image_names.named)
        self.context = split_names.nested(fields, key, self.context)
        for inner, child in value.items():
            name = str(inner)
            # A status reports images; other fields ask for them.
            if name in done or name in _PROSE or (at == "$" and name == "status"):
                continue
            yield from self._member(name, child, _step(at, name), key)
        self.context = before

    def _member(self, key: str, child: object, at: str, parent: str) -> Iterator[Found]:
        """Search one entry of a mapping, by the meaning of its key."""
        if CONTAINERS.fullmatch(key) and isinstance(child, list):
            yield from self._containers(child, at)
        elif key in {"args", "command"} and isinstance(child, list):
            yield from self._arguments(
                list(map(str, child)), [f"{at}[{n}]" for n in range(len(child))]
            )
        elif isinstance(child, Mapping) and arguments.is_container(key, child):
            yield from self._container(child, at)
        elif key in FILES and self.owner.kind in {"ConfigMap", "Secret"}:
            encoded = key == "binaryData" or (key == "data" and self.owner.kind == "Secret")
            yield from self._files(child, at, encoded=encoded)
        elif key == "image" and isinstance(child, Mapping) and "reference" in child:
            yield from self._match(
                child["reference"], f"{at}.reference", "container", image_names.anything
            )
        elif isinstance(child, str) and split_names.words(parent)[-1:] == ["images"]:
            # `images: {proxy: quay.io/x:v1}`: the mapping's key says that its entries are images.
            yield from self._text(child, at, "image", image_names.named)
        elif key != "labels" and not key.endswith("last-applied-configuration"):
            yield from self._value(child, at, key)

    def _value(self, value: object, at: str, key: str) -> Iterator[Found]:
        if isinstance(value, Mapping):
            yield from self.mapping(value, at, key)
        elif self._too_deep(at):
            return
        elif isinstance(value, list) and value and all(map(arguments.is_variable, value)):
            yield from self._environment(value, at)
        elif isinstance(value, list):
            for index, entry in enumerate(value):
                yield from self._value(entry, f"{at}[{index}]", key)
        elif isinstance(value, str):
            about_image = split_names.is_image_key(key)
            rule = _rule(key, about_image)
            if (about_image or key == "url") and value.startswith(image_names.TRANSPORT):
                rule = image_names.transported
            yield from self._text(value, at, "image" if about_image else "text", rule)

    def _text(self, text: str, at: str, how: str, rule: image_names.Rule) -> Iterator[Found]:
        """Search a text: one value, a list of values, or an embedded file."""
        self.effort.spend(self.owner, at, text)
        found = list(self._match(text, at, how, rule))
        inside = not found and ("\n" in text or _INSIDE.match(text))
        for word in _SPLIT.split(text) if not found else ():
            if word != text and (rule is not image_names.plain or not inside):
                found += self._match(word, at, how, rule)
        found += self._embedded(text, at) if inside else ()
        yield from {one.image: one for one in found}.values()

    def _containers(self, value: Sequence[Any], at: str) -> Iterator[Found]:
        for index, container in enumerate(value):
            if isinstance(container, Mapping):
                yield from self._container(container, f"{at}[{index}]")

    def _container(self, container: Mapping[str, Any], at: str) -> Iterator[Found]:
        image = container.get("image")
        # Istio's webhook replaces the image "auto" by its own.
        if isinstance(image, str) and image != "auto":
            yield from self._match(image, f"{at}.image", "container", image_names.anything)
        rest = {k: v for k, v in container.items() if k != "image" or not isinstance(v, str)}
        yield from self.mapping(arguments.expanded(rest), at, "")

    def _arguments(self, argv: Sequence[str], places: Sequence[str]) -> Iterator[Found]:
        """Search flags, "--x=value" or "--x", "value"; assignments; and scripts after `sh -c`.

        places: the path of each word.
        """
        flags = dict(arguments.flags(argv))
        done: set[str] = set()
        for joined in split_names.joined(flags, "", self.context):
            done |= joined.keys
            at = next(
                p for w, p in zip(argv, places, strict=True) if arguments.flag(w) in joined.keys
            )
            yield from self._match(joined.text, at, "argument", image_names.named)
        before = ""
        for word, at in zip(argv, places, strict=True):
            flag, equals, rest = word.partition("=")
            if arguments.flag(word) in done or (
                before.startswith("-") and before.lstrip("-") in done
            ):
                pass
            elif re.fullmatch(r"-*[A-Za-z_][\w.-]*", flag) and equals:
                rule = _rule(flag, split_names.may_name_image(flag))
                yield from self._text(rest, at, "argument", rule)
            elif arguments.takes_image(before) and not word.startswith("-"):
                yield from self._text(word, at, "argument", _rule(before, True))
            elif re.search(r"\s", word):
                yield from self._embedded(word, at)
            else:
                for text in in_text(word):
                    yield from self._match(text, at, "argument", image_names.plain)
            before = word

    def _environment(self, value: Sequence[Any], at: str) -> Iterator[Found]:
        """Search a container's variables or a pipeline's parameters: name, and value or default."""
        texts = {str(entry["name"]): arguments.value_of(entry) for entry in value}
        places = {str(entry["name"]): index for index, entry in reversed([*enumerate(value)])}
        done: set[str] = set()
        for joined in split_names.joined(texts, "", self.context):
            done |= joined.keys
            index = min(places[key] for key in joined.keys)
            yield from self._match(
                joined.text, f"{at}[{index}].value", "environment", image_names.named
            )
        for index, entry in enumerate(value):
            name, text = str(entry["name"]), arguments.value_of(entry)
            if name in done or not text:
                continue
            rule = _rule(name, split_names.may_name_image(name))
            yield from self._text(text, f"{at}[{index}].value", "environment", rule)

    def _files(self, value: object, at: str, *, encoded: bool) -> Iterator[Found]:
        """Search the entries of a ConfigMap or Secret: values, YAML or JSON files, scripts."""
        texts = config_files.texts(value, encoded=encoded)
        done: set[str] = set()
        lines = {key: text for key, text in texts.items() if "\n" not in text}
        for joined in split_names.joined(lines, "", self.context):
            done |= joined.keys
            yield from self._match(joined.text, at, "image", image_names.named)
        for key, text in texts.items():
            if key not in done:
                rule = _rule(key, split_names.is_image_key(key) or split_names.may_name_image(key))
                yield from self._text(text, _step(at, key), "image", rule)

    def _embedded(self, text: str, at: str) -> Iterator[Found]:
        """Search a file inside an object; line by line if it does not parse."""
        self.effort.spend(self.owner, at, text)
        try:
            documents = load(text)
        except ValueError:
            documents = [config_files.toml(text) or text]
        for value in documents:
            if isinstance(value, Mapping | list):
                yield from self._value(value, at, "")
            elif isinstance(value, str):
                # The same name is often found by line and again among a script's words.
                found = [*self._lines(text, at), *self._script(text, at)]
                yield from {one.image: one for one in found}.values()

    def _lines(self, text: str, at: str) -> Iterator[Found]:
        for fields in config_files.assignments(text):
            done: set[str] = set()
            for joined in split_names.joined(fields, "", self.context):
                done |= joined.keys
                yield from self._match(joined.text, at, "image", image_names.named)
            for key, value in fields.items():
                if key not in done and split_names.is_image_key(key):
                    yield from self._match(value, at, "image", _rule(key, True))

    def _script(self, text: str, at: str) -> Iterator[Found]:
        argv = config_files.tokens(text)
        argv = [word for word in argv if not re.search(r"\s", word)]
        yield from self._arguments(argv, [at] * len(argv))
        for word in in_text(text):
            yield from self._match(word, at, "image", image_names.plain)

    def schema(self, value: object, at: str, key: str) -> Iterator[Found]:
        """Search a custom resource's schema: only its defaults can ask for an image."""
        if self._too_deep(at):
            return
        if isinstance(value, list):
            for index, entry in enumerate(value):
                yield from self.schema(entry, f"{at}[{index}]", key)
        if not isinstance(value, Mapping):
            return
        defaults = {
            str(name): field["default"]
            for name, field in value.items()
            if isinstance(field, Mapping) and isinstance(field.get("default"), str | int | float)
        }
        done: set[str] = set()
        for joined in split_names.joined(arguments.scalars(defaults), key, self.context):
            done |= joined.keys
            yield from self._match(joined.text, at, "image", image_names.named)
        if "default" in value:
            yield from self._member(key, value["default"], f"{at}.default", "")
        for inner, child in value.items():
            name = key if inner in {"properties", "items"} else str(inner)
            if inner in done and isinstance(child, Mapping):
                continue
            if inner not in {"default", "example", "enum", "description"}:
                yield from self.schema(child, _step(at, str(inner)), name)

    def _match(self, text: object, at: str, how: str, rule: image_names.Rule) -> Iterator[Found]:
        image = rule(text) if isinstance(text, str) else None
        if image is not None:
            owner = self.owner
            place = Place(owner.kind, owner.namespace, owner.name, at)
            yield Found(image, place, str(text).strip(), how)


def _rule(key: str, about_image: bool) -> image_names.Rule:
    """Return the rule for a key, flag or variable. about_image: whether it is for an image."""
    if not about_image:
        return image_names.plain
    return image_names.whole if "base" in split_names.words(key) else image_names.named


def _step(at: str, key: str) -> str:
    return f"{at}.{key}" if re.fullmatch(r"[A-Za-z_]\w*", key) else f"{at}['{key}']"
