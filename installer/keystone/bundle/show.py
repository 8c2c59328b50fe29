"""A bundle at a glance: sizes by kind and group, every item, and why images are inside."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from keystone import log
from keystone.bundle.manifest import item_to_json

if TYPE_CHECKING:
    from keystone.bundle.model import Item
    from keystone.bundle.opened import Bundle


def as_document(bundle: Bundle) -> dict[str, Any]:
    """For --json."""
    return {
        "name": bundle.manifest.name,
        "number": bundle.manifest.number,
        "digest": bundle.digest,
        "fingerprint": bundle.fingerprint,
        "created": bundle.verified.created.isoformat(),
        "size": sum(target.size for target in bundle.verified.targets.values()),
        "items": [item_to_json(item) for item in bundle.manifest.items],
    }


def print_tables(bundle: Bundle) -> None:
    """On standard output."""
    manifest = bundle.manifest
    total = sum(target.size for target in bundle.verified.targets.values())
    log.out(f"{manifest.name} number {manifest.number}, {log.size(total)}")
    log.out(f"locked   {bundle.verified.created.isoformat()}")
    log.out(f"digest   {bundle.digest}")
    log.out(f"root     {bundle.fingerprint}\n")
    counts: Counter[tuple[str, str]] = Counter()
    sizes: Counter[tuple[str, str]] = Counter()
    for item in manifest.items:
        key = (item.kind, item.labels.get("group", ""))
        counts[key] += 1
        sizes[key] += size_of(bundle, item)
    rows = [(*key, counts[key], log.size(sizes[key])) for key in sorted(counts)]
    log.table(("kind", "group", "items", "size"), rows)
    log.out("")
    log.table(
        ("kind", "name", "version", "group", "size", "digest"),
        [
            (
                item.kind, item.name, item.version, item.labels.get("group", ""),
                log.size(size_of(bundle, item)), str(item.digest)[:19],
            )
            for item in manifest.items
        ],
    )  # fmt: skip
    reasons = [
        (f"{item.name}{'@' if ':' in item.tag else ':'}{item.tag}", item.labels["why"])
        for item in manifest.items
        if item.labels.get("why")
    ]
    if reasons:
        log.out("")
        log.table(("image", "why it is inside"), reasons)


def size_of(bundle: Bundle, item: Item) -> int:
    """Bytes of everything that belongs to an item; what two share counts for both."""
    targets = bundle.verified.targets
    names = [f"blobs/sha256/{digest.hex}" for digest in item.blobs]
    return item.size + sum(targets[name].size for name in names if name in targets)
