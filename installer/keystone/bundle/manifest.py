"""keystone.json, the table of contents inside a bundle, to and from the frozen types."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import Any

from keystone.bundle.model import Digest, Item, Manifest
from keystone.errors import DamagedBundleError

API_VERSION = "keystone/v1alpha1"


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
    """One item. Raises KeyError, TypeError or ValueError for anything else."""
    return Item(
        kind=str(value["kind"]),
        name=str(value["name"]),
        version=str(value["version"]),
        digest=Digest.parse(value["digest"]),
        size=int(value["size"]),
        labels=MappingProxyType({str(k): str(v) for k, v in value["labels"].items()}),
        blobs=tuple(Digest.parse(text) for text in value.get("blobs", ())),
    )


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
    """From verified bytes. Raises DamagedBundleError when they are no manifest we know."""
    try:
        document = json.loads(data)
        if (document["apiVersion"], document["kind"]) != (API_VERSION, "BundleManifest"):
            raise ValueError(f"{document['apiVersion']} {document['kind']}")
        return Manifest(
            name=str(document["metadata"]["name"]),
            number=int(document["number"]),
            items=tuple(item_from_json(value) for value in document["items"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedBundleError(
            f"keystone.json: not a table of contents this version understands ({error})",
            hint="use the keystone-install that the bundle carries",
        ) from error
