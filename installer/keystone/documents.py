"""Read the YAML files that people write, strictly, and report all mistakes at once with lines.

A document has apiVersion, kind, metadata and spec, as in Kubernetes; a file holds one or several.
Plain scalars follow the YAML 1.2 core schema, not 1.1: `no` is text, `010` is text, only `true`
and `false` are booleans. Anchors, aliases, tags and duplicate keys are refused: every tool must
read the same values from a file, and a file must not expand when it is read.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml
from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from keystone import log
from keystone.errors import ConfigurationError, Mistake
from keystone.mistakes import Mistakes, Position, dotted, explain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

API_VERSION = "keystone/v1alpha1"
MAX_BYTES = 4 << 20
"""Size limit of a file that a person writes: 4 MiB."""
MAX_DEPTH = 40
"""Limit of nested lists and mappings."""


_AMBIGUOUS = re.compile(r"(?i)[-+.]?[0-9][-+.\w]*|y|n|yes|no|on|off|true|false|null")
"""Plain scalars that may be a number or a boolean in YAML 1.1, and are text here."""


@dataclass(frozen=True)
class Document:
    """One document, valid against its schema.

    spec: plain dicts, lists, str, int, float, bool, None. lines: the line (from 1) of each
    position. path: the file, None for standard input; relative paths in the document are relative
    to the file's folder. written: the text of each scalar, and whether it was quoted.
    """

    kind: str
    name: str
    spec: Mapping[str, Any]
    lines: Mapping[Position, int]
    source: str
    path: Path | None = None
    written: Mapping[Position, tuple[str, bool]] = field(default_factory=dict)

    def line(self, at: Position) -> int:
        """Return the line of a position, or of its closest parent that is in the file."""
        return next((self.lines[at[:n]] for n in range(len(at), -1, -1) if at[:n] in self.lines), 1)

    def where(self, *at: str | int) -> str:
        """Return a position as messages show it: "site.yaml:12 spec.primers[1].address"."""
        line = self.line(at)
        place = dotted(at)
        return f"{self.source}:{line}" + (f" {place}" if place else "")


def load(
    source: Path | str,
    *,
    kind: str,
    schema: Mapping[str, Any],
    check: Callable[[Document, Mistakes], None] | None = None,
) -> Document:
    """Read the one document of this kind from a file, or from standard input ("-").

    schema: JSON Schema (2020-12) of the whole document, as published. check: adds mistakes that a
    schema cannot express; it also runs when the schema found mistakes, so that all are reported
    at once, and must accept a spec of any structure (see `mistakes.touches`).
    Raises ConfigurationError with every mistake.
    """
    text, name, path = _read(source)
    return loads(text, name=name, path=path, kind=kind, schema=schema, check=check)


def loads(
    text: bytes | str,
    *,
    kind: str,
    schema: Mapping[str, Any],
    name: str = "standard input",
    path: Path | None = None,
    check: Callable[[Document, Mistakes], None] | None = None,
) -> Document:
    """Read a document from text, as `load` does from a file. name: of the text, for messages."""
    trees = _parse(text, name)
    tree = _choose(trees, kind, name)
    value, document = tree.value, _document(tree, kind, name, path)
    mistakes = Mistakes(document)
    for error in _Validator(schema).iter_errors(value):
        explain(error, tree.written, mistakes)
    if check is not None:
        check(document, mistakes)
    if mistakes:
        raise _wrong(name, list(mistakes))
    return document


def as_written(document: Document, at: Position, value: object) -> str:
    """Return a part of a document as YAML for a program that reads YAML 1.1 (helm).

    The result is JSON, except for plain scalars that YAML 1.1 and 1.2 read differently (0640, yes,
    1e3): they stay as written, so the program reads them as it would in a file of its own.
    """
    if isinstance(value, dict):
        entries = (
            f"{_quoted(k)}: {as_written(document, (*at, k), value[k])}" for k in sorted(value)
        )
        return f"{{{', '.join(entries)}}}"
    if isinstance(value, list):
        entries = (as_written(document, (*at, n), entry) for n, entry in enumerate(value))
        return f"[{', '.join(entries)}]"
    text, quoted = document.written.get(at, ("", True))
    if isinstance(value, str) and not quoted and _AMBIGUOUS.fullmatch(text):
        return text
    return _quoted(value)


def _quoted(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def packaged_schema(name: str) -> dict[str, Any]:
    """Return the published schema keystone/schemas/<name>.schema.json."""
    file = resources.files("keystone").joinpath("schemas", f"{name}.schema.json")
    loaded: dict[str, Any] = json.loads(file.read_text())
    return loaded


def _pattern(
    _validator: object, pattern: str, value: object, _schema: object
) -> Iterator[ValidationError]:
    """Check the keyword `pattern` with the `$` of ECMA 262: only the end of the text matches it."""
    if not isinstance(value, str):
        return
    line_break = pattern.endswith("$") and value.endswith("\n")
    if line_break or not re.search(pattern, value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


_extend: Callable[..., type[Draft202012Validator]] = validators.extend
_Validator = _extend(Draft202012Validator, {"pattern": _pattern})


# Reading ------------------------------------------------------------------------------------


@dataclass
class _Tree:
    """One YAML document: its value, and for each position its line and its text as written."""

    value: Any = None
    line: int = 1
    lines: dict[Position, int] = field(default_factory=dict)
    written: dict[Position, tuple[str, bool]] = field(default_factory=dict)
    """Text of each scalar and whether it was quoted."""


def _read(source: Path | str) -> tuple[bytes, str, Path | None]:
    if str(source) == "-":
        data, name, path = sys.stdin.buffer.read(MAX_BYTES + 1), "standard input", None
    else:
        path, name = Path(source), str(source)
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise ConfigurationError(
                f"{name}: {error.strerror or error}",
                hint="give the path of a file, or - for standard input",
            ) from error
    if len(data) > MAX_BYTES:
        raise ConfigurationError(f"{name}: larger than {MAX_BYTES >> 20} MiB")
    return data, name, path


def _refuse_anchors_and_tags(text: bytes | str) -> None:
    """Refuse anchors, aliases, tags and deep nesting before anything is built from the text."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.BaseLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _refusal("anchors and aliases are not allowed", event, "write it out")
        if tag := getattr(event, "tag", None):
            raise _refusal(f"the tag {tag} is not allowed", event, "remove it")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise _refusal("nested too deeply", event, f"{MAX_DEPTH} levels at most")


def _refusal(text: str, event: yaml.Event, hint: str) -> yaml.MarkedYAMLError:
    mark = cast("yaml.Mark | None", event.start_mark)
    return yaml.MarkedYAMLError(problem=text, problem_mark=mark, note=hint)


def _parse(text: bytes | str, name: str) -> list[_Tree]:
    mistakes: list[Mistake] = []
    trees: list[_Tree] = []
    try:
        _refuse_anchors_and_tags(text)
        for node in yaml.compose_all(text, Loader=yaml.BaseLoader):
            tree = _Tree(line=node.start_mark.line + 1)
            tree.value = _value(node, (), tree, mistakes, name)
            tree.lines[()] = tree.line
            trees.append(tree)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        problem = " ".join(filter(None, [error.context, error.problem]))
        hint = error.note or ("indent with spaces" if "'\\t'" in problem else "")
        mistakes.append(Mistake(where, problem, hint))
    except yaml.YAMLError as error:
        mistakes.append(Mistake(name, f"not a YAML text file: {str(error).splitlines()[0]}"))
    if mistakes:
        raise _wrong(name, mistakes)
    return trees


def _value(node: Node, at: Position, tree: _Tree, mistakes: list[Mistake], name: str) -> Any:  # noqa: ANN401 what YAML can hold
    tree.lines.setdefault(at, node.start_mark.line + 1)
    if isinstance(node, ScalarNode):
        tree.written[at] = (node.value, node.style is not None)
        return node.value if node.style is not None else _plain(node.value)
    if isinstance(node, SequenceNode):
        return [
            _value(item, (*at, index), tree, mistakes, name)
            for index, item in enumerate(node.value)
        ]
    result: dict[str, Any] = {}
    assert isinstance(node, MappingNode)
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, ScalarNode):
            mistakes.append(Mistake(f"{name}:{line} {dotted(at)}", "a key must be plain text"))
            continue
        key = key_node.value
        place = (*at, key)
        if key in result:
            first = tree.lines[place]
            where = f"{name}:{line} {dotted(place)}"
            mistakes.append(
                Mistake(where, f'duplicate key "{key}", first set in line {first}', "keep one")
            )
            continue
        tree.lines[place] = line
        result[key] = _value(value_node, place, tree, mistakes, name)
    return result


def _choose(trees: list[_Tree], kind: str, name: str) -> _Tree:
    trees = [tree for tree in trees if tree.value is not None]
    kinds = [tree.value.get("kind") if isinstance(tree.value, dict) else None for tree in trees]
    matching = [tree for tree, found in zip(trees, kinds, strict=True) if found == kind]
    if len(matching) == 1:
        return matching[0]
    if matching:
        lines = ", ".join(str(tree.line) for tree in matching)
        text = f"{len(matching)} documents of kind {kind}, in lines {lines}"
        raise _wrong(name, [Mistake(f"{name}:{matching[1].line}", text, "keep one")])
    if len(trees) == 1:
        return trees[0]
    seen = ", ".join(str(found) for found in kinds) or "nothing"
    text = f"no document of kind {kind}; found {seen}"
    raise _wrong(name, [Mistake(f"{name}:1", text, f"begin with apiVersion: {API_VERSION}")])


def _document(tree: _Tree, kind: str, name: str, path: Path | None) -> Document:
    value = tree.value if isinstance(tree.value, dict) else {}
    metadata, spec = value.get("metadata"), value.get("spec")
    called = metadata.get("name") if isinstance(metadata, dict) else None
    return Document(
        kind=kind,
        name=str(called or ""),
        spec=spec if isinstance(spec, dict) else {},
        lines=tree.lines,
        source=name,
        path=path,
        written=tree.written,
    )


def _wrong(name: str, mistakes: list[Mistake]) -> ConfigurationError:
    count = log.count(len(mistakes), "mistake")
    hint = f"correct {name}, then run the command again"
    return ConfigurationError(f"{name}: {count}", mistakes=mistakes, hint=hint)


_WORDS = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip


def _plain(text: str) -> str | int | float | bool | None:
    """Resolve a plain scalar by the YAML 1.2 core schema (10.3.2).

    Numbers that would not be printed as they were written stay text.
    """
    if text in _WORDS:
        return _WORDS[text]
    if re.fullmatch(r"0|-?[1-9][0-9]{0,17}", text):
        return int(text)
    if re.fullmatch(r"-?[0-9]{1,17}\.[0-9]{1,17}", text):
        return float(text)
    return text
