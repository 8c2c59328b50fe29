"""keystone.json, the table of contents inside a bundle, to and from the frozen types."""

from __future__ import annotations

import json
import re
from types import MappingProxyType
from typing import Any

from keystone.bundle.formats import strict_json
from keystone.bundle.formats.tar import MAX_SIZE
from keystone.bundle.model import Digest, Item, Manifest
from keystone.errors import DamagedBundleError

API_VERSION = "keystone/v1alpha1"
KIND = re.compile(r"[a-z][a-z0-9-]{0,62}")
SEGMENT = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._+@][A-Za-z0-9._+~:@%=-]*"
NAME = re.compile(rf"(?:{SEGMENT}/)*{SEGMENT}")
"""A relative path of plain segments: none is empty, ".", ".." or starts with a dash."""
ARCHITECTURES = re.compile(r"[a-z0-9-]+(?: [a-z0-9-]+)*")
"""Of a package list there may be several."""
VERSION = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._+~:@%=-]{0,254})?")
KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,126}")
PATHS = frozenset({"filename", "suite", "kernel", "repository"})
"""Labels that become parts of paths."""
ITEM = frozenset({"kind", "name", "version", "digest", "size", "labels", "blobs"})
FIELDS = frozenset({"apiVersion", "kind", "metadata", "number", "items"})
OWN = "use the keystone-install that the bundle carries"
MAX_NAME = 255
MAX_LABEL = 4096
MAX_NUMBER = 10**12
"""Room for a date with minutes. Beyond it a number can only be meant to lock later ones out."""


def item_to_json(item: Item) -> dict[str, Any]:
    """The JSON object of one item; `blobs` only where there are any."""
    value: dict[str, Any] = {
        "kind": item.kind,
        "name": item.name,
        "version": item.version,
        "digest": str(item.digest),
        "size": item.size,
        "labels": dict(sorted(item.labels.items())),
    }
    if item.blobs:
        value["blobs"] = [str(digest) for digest in item.blobs]
    return value


def item_from_json(value: dict[str, Any]) -> Item:
    """One item. Raises KeyError, TypeError or ValueError for anything else.

    Names become parts of paths and of addresses, so they hold what a name needs and no more.
    """
    if value.keys() - ITEM:
        raise ValueError(f"{min(value.keys() - ITEM)!r:.90} is nothing that an item has")
    labels = {_text(key, KEY): _label(key, text) for key, text in value["labels"].items()}
    return Item(
        kind=_text(value["kind"], KIND),
        name=_path(value["name"]),
        version=_text(value["version"], VERSION),
        digest=Digest.parse(value["digest"]),
        size=_count(value["size"], MAX_SIZE),
        labels=MappingProxyType(labels),
        blobs=tuple(Digest.parse(text) for text in value.get("blobs", ())),
    )


def _number(value: object) -> int:
    try:
        return _count(value, MAX_NUMBER)
    except ValueError as error:
        raise DamagedBundleError(
            f"keystone.json: number: {error}", hint=OWN, code="KSB-28"
        ) from error


def _text(value: object, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{value!r:.90} is not a name that a bundle may hold")
    return value


def _path(value: object) -> str:
    text = _text(value, NAME)
    if len(text) > MAX_NAME:
        raise ValueError(f"{text[:90]!r}... is longer than {MAX_NAME}")
    return text


def _label(key: str, value: object) -> str:
    if key == "architecture":
        return _text(value, ARCHITECTURES)
    if key in PATHS:
        return _path(value)
    if not isinstance(value, str) or len(value) > MAX_LABEL or not value.isprintable():
        raise ValueError(f"label {key}: not a line of text")
    return value


def _count(value: object, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{value!r:.90} is not a number from 0 to {most}")
    return value


def dump(manifest: Manifest) -> bytes:
    """The file: JSON, UTF-8, sorted keys, so equal manifests are equal bytes."""
    document = {
        "apiVersion": API_VERSION,
        "kind": "BundleManifest",
        "metadata": {"name": manifest.name},
        "number": manifest.number,
        "items": [item_to_json(item) for item in manifest.items],
    }
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def load(data: bytes) -> Manifest:
    """From verified bytes. Raises DamagedBundleError (KSB-23, KSB-14) when they are no manifest."""
    try:
        document = strict_json.loads(data)
    except ValueError as error:
        raise DamagedBundleError(
            f"keystone.json: not plain JSON ({strict_json.brief(error)})", hint=OWN, code="KSB-23"
        ) from error
    try:
        require_kind(document, "BundleManifest")
        if document.keys() != FIELDS or document["metadata"].keys() != {"name"}:
            raise ValueError("fields of another version")
        return Manifest(
            name=_path(document["metadata"]["name"]),
            number=_number(document["number"]),
            items=tuple(item_from_json(value) for value in document["items"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedBundleError(
            "keystone.json: not a table of contents this version understands "
            f"({strict_json.brief(error)})",
            hint=OWN,
            code="KSB-14",
        ) from error


def require_kind(document: dict[str, Any], kind: str) -> None:
    """Raises ValueError unless the document is of this kind and of a version we know."""
    if (document["apiVersion"], document["kind"]) != (API_VERSION, kind):
        raise ValueError(f"{document['apiVersion']!s:.90} {document['kind']!s:.90}")
