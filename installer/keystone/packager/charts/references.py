"""Which images Kubernetes objects ask for, and where each one stands.

Objects are what YAML or JSON gives: plain dicts, lists and scalars. Three kinds of places differ in
what counts as a reference, so that ordinary text is never taken for one:

  container  `image` of a container in any pod spec, or an image volume: whatever is written there
  image      a key, flag or variable that speaks of an image: a name with host, tag or digest
  text       any other string: only host/path:tag with a tag like a version, or a digest

What is a name says `image_names`, what keys mean `split_names`.
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
from keystone.packager.charts.split_names import Around

CONTAINERS = re.compile(r".*[cC]ontainers|steps|sidecars")
"""Of pods, of Tekton's tasks and Argo's workflows, and what operators add to pods."""
FILES = {"data", "stringData", "binaryData"}
_INSIDE = re.compile(r"\s*(?:[{\[]|[\"']?[\w.\-/]+[\"']?:\s)")
"""How YAML or JSON inside a string begins."""
_SPLIT = re.compile(r"[\s\"'`=,;|&()<>\[\]{}]+")
_PROSE = {"description", "message", "summary", "title", "notes"}
NO_YAML = (yaml.YAMLError, RecursionError, LookupError, AttributeError)
"""What PyYAML raises; the last two for `!!bool x`, `!!int ""`, `!!timestamp x`."""
_MAX_DEPTH = 100
"""Keys and indexes of a place that is looked at."""
MAX_NESTED = 500
"""Mappings and lists in each other in one YAML text; libyaml's composer overflows the C stack."""
MAX_MERGED = 2_000_000
"""Entries that mappings of one YAML text have in all, with what `<<` brings them."""
MAX_EFFORT = 5_000_000
"""Nodes, and 16 characters of text each, in all: 10 MB; YAML aliases make any number."""


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
    """YAML without dates and "=": kube manifests are read as JSON, which has neither.

    Strangers write it, so it neither nests nor merges without bounds.
    """

    nested = merged = 0

    def descend_resolver(self, parent: object, index: object) -> None:
        """The composer calls this before each node."""
        self.nested += 1
        if self.nested > MAX_NESTED:
            raise yaml.YAMLError(f"nested deeper than {MAX_NESTED}")
        super().descend_resolver(parent, index)

    def ascend_resolver(self) -> None:
        """And this after it."""
        self.nested -= 1
        super().ascend_resolver()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """The constructor calls this for each mapping, and for each that one takes in by `<<`."""
        super().flatten_mapping(node)
        self.merged += len(node.value)
        if self.merged > MAX_MERGED:
            raise yaml.YAMLError(f"mappings of more than {MAX_MERGED} entries")


_Loader.yaml_implicit_resolvers = {
    first: [entry for entry in entries if not entry[0].endswith((":timestamp", ":value"))]
    for first, entries in _Loader.yaml_implicit_resolvers.items()
}


def load(text: str) -> list[Any]:
    """The documents of a YAML or JSON stream. Raises ValueError when it is neither."""
    try:
        return [value for value in yaml.load_all(text, _Loader) if value is not None]
    except NO_YAML as error:
        raise ValueError(str(error).replace("\n", " ")) from error


def find(objects: Sequence[Any]) -> Iterator[Asked]:
    """Every image reference in these objects, in their order; lists are opened.

    Raises SourceError for what is made to be looked through for ever.
    """
    yield from _find(objects, _Effort())


def _find(objects: Sequence[Any], effort: _Effort) -> Iterator[Asked]:
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
    """Full references that stand in prose or in a script, as they are written."""
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
    """What may still be looked through."""

    def __init__(self) -> None:
        self.left = MAX_EFFORT

    def spend(self, owner: Place, at: str, text: str = "") -> None:
        """One node, or a text, at this place. Raises SourceError when it is too much in all."""
        self.left -= 1 + len(at) // 64 + len(text) // 16
        if self.left < 0:
            raise SourceError(
                f"{owner} {at[:90]}: more to look through than in any honest chart",
                hint="look at the object: YAML aliases make much of a few lines; tell its authors",
            )


class _Walk:
    """Goes through one object and remembers whose it is, and what holds where it is."""

    def __init__(self, owner: Place, effort: _Effort) -> None:
        self.owner = owner
        self.effort = effort
        self.around = Around()

    def _too_deep(self, at: str) -> bool:
        self.effort.spend(self.owner, at)
        return at.count(".") + at.count("[") > _MAX_DEPTH

    def mapping(self, value: Mapping[str, Any], at: str, key: str) -> Iterator[Asked]:
        """A dict: first what its shape says, then what is in it."""
        if self._too_deep(at):
            return
        fields, before = arguments.scalars(value), self.around
        shared = value.get("global")
        if isinstance(shared, Mapping):
            self.around = split_names.under(arguments.scalars(shared), before)
        done: set[str] = set()
        for joined in split_names.joined(fields, key, self.around):
            done |= joined.keys
            yield from self._give(joined.text, at, "image", image_names.named)
        self.around = split_names.inside(fields, key, self.around)
        for inner, child in value.items():
            name = str(inner)
            # What stands in a status was asked for elsewhere.
            if name in done or name in _PROSE or (at == "$" and name == "status"):
                continue
            yield from self._member(name, child, _step(at, name), key)
        self.around = before

    def _member(self, key: str, child: object, at: str, parent: str) -> Iterator[Asked]:
        """One entry of a dict, by what its key says about it."""
        if CONTAINERS.fullmatch(key) and isinstance(child, list):
            yield from self._containers(child, at)
        elif key in {"args", "command"} and isinstance(child, list):
            yield from self._arguments(
                list(map(str, child)), [f"{at}[{n}]" for n in range(len(child))]
            )
        elif isinstance(child, Mapping) and arguments.is_container(key, child):
            yield from self._container(child, at)
        elif key in FILES and self.owner.kind in {"ConfigMap", "Secret"}:
            coded = key == "binaryData" or (key == "data" and self.owner.kind == "Secret")
            yield from self._files(child, at, coded=coded)
        elif key == "image" and isinstance(child, Mapping) and "reference" in child:
            yield from self._give(
                child["reference"], f"{at}.reference", "container", image_names.anything
            )
        elif isinstance(child, str) and split_names.words(parent)[-1:] == ["images"]:
            # `images: {proxy: quay.io/x:v1}`: the name of the dict speaks for its entries.
            yield from self._text(child, at, "image", image_names.named)
        elif key != "labels" and not key.endswith("last-applied-configuration"):
            yield from self._value(child, at, key)

    def _value(self, value: object, at: str, key: str) -> Iterator[Asked]:
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
            speaks = split_names.speaks(key)
            rule = _rule(key, speaks)
            if (speaks or key == "url") and value.startswith(image_names.TRANSPORT):
                rule = image_names.transported
            yield from self._text(value, at, "image" if speaks else "text", rule)

    def _text(self, text: str, at: str, how: str, rule: image_names.Rule) -> Iterator[Asked]:
        """A value, a list of values, or a file."""
        self.effort.spend(self.owner, at, text)
        found = list(self._give(text, at, how, rule))
        inside = not found and ("\n" in text or _INSIDE.match(text))
        for word in _SPLIT.split(text) if not found else ():
            if word != text and (rule is not image_names.plain or not inside):
                found += self._give(word, at, how, rule)
        found += self._embedded(text, at) if inside else ()
        yield from {asked.image: asked for asked in found}.values()

    def _containers(self, value: Sequence[Any], at: str) -> Iterator[Asked]:
        for index, container in enumerate(value):
            if isinstance(container, Mapping):
                yield from self._container(container, f"{at}[{index}]")

    def _container(self, container: Mapping[str, Any], at: str) -> Iterator[Asked]:
        image = container.get("image")
        # Istio's webhook puts its own image where a chart writes "auto".
        if isinstance(image, str) and image != "auto":
            yield from self._give(image, f"{at}.image", "container", image_names.anything)
        rest = {k: v for k, v in container.items() if k != "image" or not isinstance(v, str)}
        yield from self.mapping(arguments.expanded(rest), at, "")

    def _arguments(self, argv: Sequence[str], places: Sequence[str]) -> Iterator[Asked]:
        """Flags, "--x=value" or "--x", "value"; assignments; and scripts behind `sh -c`.

        places: where each word stands.
        """
        flags = dict(arguments.flags(argv))
        done: set[str] = set()
        for joined in split_names.joined(flags, "", self.around):
            done |= joined.keys
            at = next(
                p for w, p in zip(argv, places, strict=True) if arguments.flag(w) in joined.keys
            )
            yield from self._give(joined.text, at, "argument", image_names.named)
        before = ""
        for word, at in zip(argv, places, strict=True):
            flag, equals, rest = word.partition("=")
            if arguments.flag(word) in done or (
                before.startswith("-") and before.lstrip("-") in done
            ):
                pass
            elif re.fullmatch(r"-*[A-Za-z_][\w.-]*", flag) and equals:
                rule = _rule(flag, split_names.mentions(flag))
                yield from self._text(rest, at, "argument", rule)
            elif arguments.takes_image(before) and not word.startswith("-"):
                yield from self._text(word, at, "argument", _rule(before, True))
            elif re.search(r"\s", word):
                yield from self._embedded(word, at)
            else:
                for text in in_text(word):
                    yield from self._give(text, at, "argument", image_names.plain)
            before = word

    def _environment(self, value: Sequence[Any], at: str) -> Iterator[Asked]:
        """Variables of a container, parameters of a pipeline: name, and value or default."""
        texts = {str(entry["name"]): arguments.given(entry) for entry in value}
        places = {str(entry["name"]): index for index, entry in reversed([*enumerate(value)])}
        done: set[str] = set()
        for joined in split_names.joined(texts, "", self.around):
            done |= joined.keys
            index = min(places[key] for key in joined.keys)
            yield from self._give(
                joined.text, f"{at}[{index}].value", "environment", image_names.named
            )
        for index, entry in enumerate(value):
            name, text = str(entry["name"]), arguments.given(entry)
            if name in done or not text:
                continue
            rule = _rule(name, split_names.mentions(name))
            yield from self._text(text, f"{at}[{index}].value", "environment", rule)

    def _files(self, value: object, at: str, *, coded: bool) -> Iterator[Asked]:
        """What a ConfigMap or Secret carries: a value, a YAML or JSON file, a script."""
        texts = config_files.texts(value, coded=coded)
        done: set[str] = set()
        lines = {key: text for key, text in texts.items() if "\n" not in text}
        for joined in split_names.joined(lines, "", self.around):
            done |= joined.keys
            yield from self._give(joined.text, at, "image", image_names.named)
        for key, text in texts.items():
            if key not in done:
                rule = _rule(key, split_names.speaks(key) or split_names.mentions(key))
                yield from self._text(text, _step(at, key), "image", rule)

    def _embedded(self, text: str, at: str) -> Iterator[Asked]:
        """A file inside an object. What does not parse is looked through line by line."""
        self.effort.spend(self.owner, at, text)
        try:
            documents = load(text)
        except ValueError:
            documents = [config_files.toml(text) or text]
        for value in documents:
            if isinstance(value, Mapping | list):
                yield from self._value(value, at, "")
            elif isinstance(value, str):
                # One name often stands in a line and among a script's words.
                found = [*self._lines(text, at), *self._script(text, at)]
                yield from {asked.image: asked for asked in found}.values()

    def _lines(self, text: str, at: str) -> Iterator[Asked]:
        for fields in config_files.assignments(text):
            done: set[str] = set()
            for joined in split_names.joined(fields, "", self.around):
                done |= joined.keys
                yield from self._give(joined.text, at, "image", image_names.named)
            for key, value in fields.items():
                if key not in done and split_names.speaks(key):
                    yield from self._give(value, at, "image", _rule(key, True))

    def _script(self, text: str, at: str) -> Iterator[Asked]:
        argv = config_files.tokens(text)
        argv = [word for word in argv if not re.search(r"\s", word)]
        yield from self._arguments(argv, [at] * len(argv))
        for word in in_text(text):
            yield from self._give(word, at, "image", image_names.plain)

    def schema(self, value: object, at: str, key: str) -> Iterator[Asked]:
        """A custom resource's schema asks for an image only by a default."""
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
        for joined in split_names.joined(arguments.scalars(defaults), key, self.around):
            done |= joined.keys
            yield from self._give(joined.text, at, "image", image_names.named)
        if "default" in value:
            yield from self._member(key, value["default"], f"{at}.default", "")
        for inner, child in value.items():
            name = key if inner in {"properties", "items"} else str(inner)
            if inner in done and isinstance(child, Mapping):
                continue
            if inner not in {"default", "example", "enum", "description"}:
                yield from self.schema(child, _step(at, str(inner)), name)

    def _give(self, text: object, at: str, how: str, rule: image_names.Rule) -> Iterator[Asked]:
        image = rule(text) if isinstance(text, str) else None
        if image is not None:
            owner = self.owner
            place = Place(owner.kind, owner.namespace, owner.name, at)
            yield Asked(image, place, str(text).strip(), how)


def _rule(key: str, speaks: bool) -> image_names.Rule:
    """What counts under a key, flag or variable that speaks of an image, or does not."""
    if not speaks:
        return image_names.plain
    return image_names.whole if "base" in split_names.words(key) else image_names.named


def _step(at: str, key: str) -> str:
    return f"{at}.{key}" if re.fullmatch(r"[A-Za-z_]\w*", key) else f"{at}['{key}']"
