"""Read and write keystone.json, the table of contents inside a bundle."""

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
"""A relative path; no segment is empty, ".", ".." or starts with a dash."""
ARCHITECTURES = re.compile(r"[a-z0-9-]+(?: [a-z0-9-]+)*")
"""A package list may name several, separated by spaces."""
VERSION = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._+~:@%=-]{0,254})?")
KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,126}")
PATHS = frozenset({"filename", "suite", "kernel", "repository"})
"""Labels whose values become parts of paths."""
ITEM = frozenset({"kind", "name", "version", "digest", "size", "labels", "blobs"})
FIELDS = frozenset({"apiVersion", "kind", "metadata", "number", "items"})
USE_BUNDLED = "use the keystone-install that the bundle carries"
MAX_NAME = 255
MAX_LABEL = 4096
MAX_NUMBER = 10**12
"""Enough for a date with minutes. A larger number could only serve to block all later bundles."""


def item_to_json(item: Item) -> dict[str, Any]:
    """The JSON object of one item; `blobs` is omitted when empty."""
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
    """Parse one item. Raises KeyError, TypeError or ValueError when it is not a valid item.

    Names become parts of paths and addresses, so only a restricted character set is allowed.
    """
    if value.keys() - ITEM:
        raise ValueError(f"{min(value.keys() - ITEM)!r:.90} is not a field of an item")
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
            f"keystone.json: number: {error}", hint=USE_BUNDLED, code="KSB-28"
        ) from error


def _text(value: object, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{value!r:.90} is not a valid name in a bundle")
    return value


def _path(value: object) -> str:
    text = _text(value, NAME)
    if len(text) > MAX_NAME:
        raise ValueError(f"{text[:90]!r}... is longer than {MAX_NAME} characters")
    return text


def _label(key: str, value: object) -> str:
    if key == "architecture":
        return _text(value, ARCHITECTURES)
    if key in PATHS:
        return _path(value)
    if not isinstance(value, str) or len(value) > MAX_LABEL or not value.isprintable():
        raise ValueError(f"label {key}: not one line of text of at most {MAX_LABEL} characters")
    return value


def _count(value: object, maximum: int) -> int:
    if type(value) is not int or not 0 <= value <= maximum:
        raise ValueError(f"{value!r:.90} is not a number from 0 to {maximum}")
    return value


def dump(manifest: Manifest) -> bytes:
    """Encode as JSON, UTF-8, with sorted keys: equal manifests give equal bytes."""
    document = {
        "apiVersion": API_VERSION,
        "kind": "BundleManifest",
        "metadata": {"name": manifest.name},
        "number": manifest.number,
        "items": [item_to_json(item) for item in manifest.items],
    }
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def load(data: bytes) -> Manifest:
    """Parse verified bytes. Raises DamagedBundleError (KSB-23, KSB-14, KSB-28) when invalid."""
    try:
        document = strict_json.loads(data)
    except ValueError as error:
        raise DamagedBundleError(
            f"keystone.json: not valid JSON ({strict_json.brief(error)})",
            hint=USE_BUNDLED,
            code="KSB-23",
        ) from error
    try:
        require_kind(document, "BundleManifest")
        if document.keys() != FIELDS or document["metadata"].keys() != {"name"}:
            raise ValueError("unknown or missing fields")
        return Manifest(
            name=_path(document["metadata"]["name"]),
            number=_number(document["number"]),
            items=tuple(item_from_json(value) for value in document["items"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedBundleError(
            "keystone.json: this version cannot read the table of contents "
            f"({strict_json.brief(error)})",
            hint=USE_BUNDLED,
            code="KSB-14",
        ) from error


def require_kind(document: dict[str, Any], kind: str) -> None:
    """Raise ValueError unless the document has this kind and a supported apiVersion."""
    version, found = document["apiVersion"], document["kind"]
    if (version, found) != (API_VERSION, kind):
        raise ValueError(f"{version!s:.90} {found!s:.90}, not {API_VERSION} {kind}")
