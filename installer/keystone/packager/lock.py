"""X.lock.json: the digests of all bytes in a bundle and their sources. Same lock, same bundle.

A blob's source is one of
  registry:<host>/<repository>   a manifest or blob of that repository, by its digest
  https://... (or http)          a URL
  file:/<path>                   a file in an apt archive on this machine, as apt writes it
  local:<path>                   a file, relative to the lock's folder
  archive:<path>#<member>        a member of a tar file; its path is relative to the lock's folder
  built:<what>                   built on this machine by `bundle lock` and kept in the cache
  inline:<text>                  the text itself
  base64:<text>                  the bytes themselves: a chart that was packed from a folder
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from keystone.bundle.manifest import API_VERSION, ITEM, item_from_json, item_to_json, require_kind
from keystone.bundle.model import BY_TAG, Digest, Item
from keystone.errors import ConfigurationError
from keystone.packager import foreign_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

KIND = "BundleLock"
BLOB = frozenset({"digest", "size", "source", "mediaType"})
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LockedBlob:
    """One blob: digest, size in bytes, source (see the module), media type of OCI content."""

    digest: Digest
    size: int
    source: str
    media_type: str = "application/octet-stream"


@dataclass(frozen=True)
class Lock:
    """A resolved definition. created: when it was locked; it dates everything in the bundle."""

    name: str
    number: int
    created: datetime
    valid_days: int
    architectures: tuple[str, ...]
    items: tuple[Item, ...]
    blobs: tuple[LockedBlob, ...]

    def blob(self, digest: Digest) -> LockedBlob:
        """Return the blob with this digest. Raises KeyError when the lock has none."""
        for blob in self.blobs:
            if blob.digest == digest:
                return blob
        raise KeyError(str(digest))


def dump(lock: Lock) -> bytes:
    """Serialize a lock for its file: indented JSON with sorted keys."""
    return (json.dumps(_document(lock), indent=1, sort_keys=True) + "\n").encode()


def digest(lock: Lock) -> str:
    """SHA-256 (hex) of what `dump` returns, computed without all of it in memory."""
    seen = hashlib.sha256()
    for text in json.JSONEncoder(indent=1, sort_keys=True).iterencode(_document(lock)):
        seen.update(text.encode())
    seen.update(b"\n")
    return seen.hexdigest()


def _document(lock: Lock) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": lock.name},
        "number": lock.number,
        "created": lock.created.isoformat(),
        "validDays": lock.valid_days,
        "architectures": list(lock.architectures),
        "items": [item_to_json(item) for item in lock.items],
        "blobs": [
            {
                "digest": str(blob.digest),
                "size": blob.size,
                "source": blob.source,
                "mediaType": blob.media_type,
            }
            for blob in lock.blobs
        ],
    }


def load(path: Path) -> Lock:
    """Read a lock. Raises ConfigurationError when the file is not a lock of this version."""
    try:
        document = foreign_json.loads(path.read_bytes(), _object)
        require_kind(document, KIND)
        return _parse(document)
    except OSError as error:
        raise ConfigurationError(
            f"{path}: {error.strerror}", hint="create it: keystone-install bundle lock"
        ) from error
    except foreign_json.WRONG as error:
        raise ConfigurationError(
            f"{path}: not a lock that this version understands: {error}",
            hint="lock again: keystone-install bundle lock",
        ) from error


def _object(value: dict[str, Any]) -> Any:  # noqa: ANN401 any JSON value
    """Convert items and blobs while parsing: 20,000 of them as dictionaries take 15 MiB more."""
    if value.keys() == BLOB:
        return LockedBlob(
            Digest.parse(value["digest"]), int(value["size"]), value["source"], value["mediaType"]
        )
    return item_from_json(value) if value.keys() | {"blobs"} == ITEM else value


def _parse(document: Mapping[str, Any]) -> Lock:
    return Lock(
        name=str(document["metadata"]["name"]),
        number=int(document["number"]),
        created=datetime.fromisoformat(document["created"]),
        valid_days=int(document["validDays"]),
        architectures=tuple(document["architectures"]),
        items=tuple(_require(Item, value) for value in document["items"]),
        blobs=tuple(_require(LockedBlob, value) for value in document["blobs"]),
    )


def _require(kind: type[T], value: object) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r:.90} does not have the fields of a {kind.__name__}")
    return value


def differences(old: Lock | None, new: Lock) -> Iterator[str]:
    """Yield one line per change: "+" added, "-" removed, "~" other version or other bytes."""
    before = {_key(item): item for item in old.items} if old else {}
    after = {_key(item): item for item in new.items}
    for key in sorted(before.keys() | after.keys()):
        was, now = before.get(key), after.get(key)
        name = " ".join(filter(None, key if key[0] not in BY_TAG else key[:2]))
        if was is None and now is not None:
            why = now.labels.get("why")
            yield f"+ {name} {now.version}" + (f" because {why}" if why else "")
        elif now is None and was is not None:
            yield f"- {name} {was.version}"
        elif was is not None and now is not None and was.version != now.version:
            yield f"~ {name} {was.version} -> {now.version}"
        elif was is not None and now is not None and was.digest != now.digest:
            yield f"~ {name} {now.version}: same version, other bytes: {was.digest} -> {now.digest}"


def same_content(old: Lock, new: Lock) -> bool:
    """Whether two locks are equal except for the time at which they were made."""
    first, second = _document(old), _document(new)
    del first["created"], second["created"]
    return first == second


def numbered(new: Lock, old: Lock | None) -> Lock:
    """Return the new lock with a number that the old lock does not use for other content.

    The number is at least the definition's. When the content changed since the old lock, the number
    is greater than the old one: a host refuses a number that it accepted with other content.
    """
    if old is None or new.number > old.number:
        return new
    same = replace(new, number=old.number)
    return same if same_content(old, same) else above(new, old)


def above(new: Lock, old: Lock | None) -> Lock:
    """Return the new lock with a number greater than the old one's: it makes another bundle."""
    if old is None or new.number > old.number:
        return new
    return replace(new, number=old.number + 1)


def _key(item: Item) -> tuple[str, ...]:
    where = item.version if item.kind in BY_TAG else item.labels.get("suite", "")
    labels = item.labels
    return (item.kind, item.name, where, labels.get("kernel", ""), labels.get("architecture", ""))
