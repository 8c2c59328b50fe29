"""Make the report of a bundle that `bundle show` gives as text, HTML page or JSON. Pure."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keystone.bundle.format import INSTALLER
from keystone.bundle.manifest import item_to_json
from keystone.bundle.referrers import DESCRIBING
from keystone.bundle.report.compare import Comparison, compare
from keystone.errors import DamagedBundleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from keystone.bundle.model import Digest, Item
    from keystone.bundle.report.preview import Preview

NOT_STATED = "not stated"
OWN_INDEX = "table of contents"


@dataclass(frozen=True)
class Row:
    """A share of the bundle. size: bytes that no earlier row counts, so all rows add up to 100%."""

    kind: str
    group: str
    items: int
    size: int


@dataclass(frozen=True)
class Shared:
    """One blob that several items share. size: in bytes."""

    digest: str
    size: int
    owners: tuple[str, ...]

    @property
    def saved(self) -> int:
        """Bytes that the bundle does not carry again."""
        return self.size * (len(self.owners) - 1)


@dataclass(frozen=True)
class Line:
    """One item. size: bytes of all its blobs; shared: bytes that other items have too."""

    item: Item
    size: int
    shared: int
    licence: str

    @property
    def why(self) -> str:
        """The reason to carry it, if the definition or a chart states one."""
        return self.item.labels.get("why", "")


@dataclass(frozen=True)
class Report:
    """All data of a report.

    licences: each licence and the number of components that state it; components: the number of
    all of them. installer: SHA-256 of its keystone-install in hex, "" when it has none.
    """

    name: str
    number: int
    digest: str
    fingerprint: str
    created: str
    expires: str
    keys: tuple[str, ...]
    size: int
    rows: tuple[Row, ...]
    shared: tuple[Shared, ...]
    lines: tuple[Line, ...]
    licences: tuple[tuple[str, int], ...]
    components: int
    against: Comparison | None = None
    installer: str = ""

    def as_document(self) -> dict[str, Any]:
        """For --json."""
        return {
            "name": self.name,
            "number": self.number,
            "digest": self.digest,
            "fingerprint": self.fingerprint,
            "installer": self.installer,
            "created": self.created,
            "expires": self.expires,
            "keys": list(self.keys),
            "size": self.size,
            "groups": [
                {"kind": row.kind, "group": row.group, "items": row.items, "size": row.size}
                for row in self.rows
            ],
            "shared": [
                {"digest": one.digest, "size": one.size, "owners": list(one.owners)}
                for one in self.shared
            ],
            "licences": dict(self.licences),
            "items": [{**item_to_json(line.item), "licence": line.licence} for line in self.lines],
            **({"against": self.against.as_document()} if self.against else {}),
        }


def make(preview: Preview, against: Preview | None = None) -> Report:
    """Make a report. against: an older bundle to compare with.

    Raises DamagedBundleError when the bundle's SBOM is invalid.
    """
    bundle = preview.bundle
    sizes = {target.digest: target.size for target in bundle.verified.targets.values()}
    stated = _stated(preview.document("sbom.cdx.json"))
    items = bundle.manifest.items
    owners = _owners(items)
    first = bundle.verified.targets.get(INSTALLER)
    return Report(
        name=bundle.manifest.name,
        number=bundle.manifest.number,
        digest=bundle.digest,
        fingerprint=bundle.fingerprint,
        created=bundle.verified.created.isoformat(),
        expires=preview.expires,
        keys=preview.keys,
        size=sum(target.size for target in bundle.verified.targets.values()),
        rows=tuple(_rows(items, sizes, sum(sizes.values()))),
        shared=tuple(_shared(owners, sizes)),
        lines=tuple(_line(item, sizes, owners, stated) for item in items),
        licences=tuple(_licences(stated.values())),
        components=len(stated),
        against=compare(against.bundle, bundle) if against else None,
        installer=first.digest.hex if first else "",
    )


def _blobs(item: Item) -> tuple[Digest, ...]:
    return tuple(dict.fromkeys((item.digest, *item.blobs)))


def _owners(items: tuple[Item, ...]) -> dict[Digest, list[str]]:
    owners: dict[Digest, list[str]] = {}
    for item in items:
        for digest in _blobs(item):
            owners.setdefault(digest, []).append(f"{item.name} {item.version}".rstrip())
    return owners


def _rows(items: tuple[Item, ...], sizes: dict[Digest, int], total: int) -> Iterator[Row]:
    counts: Counter[tuple[str, str]] = Counter()
    bytes_of: Counter[tuple[str, str]] = Counter()
    taken: set[Digest] = set()
    for item in items:
        key = ("sbom" if item.kind in DESCRIBING else item.kind, item.labels.get("group", ""))
        own = set(_blobs(item)) - taken
        taken |= own
        counts[key] += 1
        bytes_of[key] += sum(sizes.get(digest, 0) for digest in own)
    for key in sorted(counts, key=lambda key: (-bytes_of[key], key)):
        yield Row(*key, counts[key], bytes_of[key])
    yield Row("index", OWN_INDEX, 0, total - sum(bytes_of.values()))


def _shared(owners: dict[Digest, list[str]], sizes: dict[Digest, int]) -> list[Shared]:
    found = [
        Shared(str(digest), sizes.get(digest, 0), tuple(names))
        for digest, names in owners.items()
        if len(names) > 1
    ]
    return sorted(found, key=lambda one: (-one.saved, one.digest))


def _line(
    item: Item, sizes: dict[Digest, int], owners: dict[Digest, list[str]], stated: dict[str, str]
) -> Line:
    blobs = _blobs(item)
    return Line(
        item=item,
        size=sum(sizes.get(digest, 0) for digest in blobs),
        shared=sum(sizes.get(digest, 0) for digest in blobs if len(owners[digest]) > 1),
        licence=stated.get(str(item.digest), ""),
    )


def _stated(sbom: bytes | None) -> dict[str, str]:
    """Licences from CycloneDX, by an item's digest or by the bom-ref of a component inside."""
    if sbom is None:
        return {}
    try:
        found = {}
        for component in json.loads(sbom)["components"]:
            properties = {one["name"]: one["value"] for one in component.get("properties", ())}
            if properties.get("keystone:kind") != "blob":
                hashes = [f"sha256:{one['content']}" for one in component.get("hashes", ())]
                found[(hashes or [component["bom-ref"]])[0]] = _licence(component)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedBundleError(f"sbom.cdx.json: not a CycloneDX document: {error}") from error
    return found


def _licences(texts: Iterable[str]) -> list[tuple[str, int]]:
    """Licences by number of components; a component with three licences counts for each."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update({one for part in text.split("; ") for one in _names(part)})
    return sorted(counts.items(), key=lambda found: (-found[1], found[0]))


def _names(text: str) -> list[str]:
    """The licences of an SPDX expression; any other text is returned unchanged."""
    return [one.strip() for one in re.split(r" AND | OR |[()]", text) if one.strip()]


def _licence(component: dict[str, Any]) -> str:
    names = [
        one.get("expression") or one["license"].get("id") or one["license"]["name"]
        for one in component.get("licenses", ())
    ]
    return "; ".join(map(str, names)) or NOT_STATED
