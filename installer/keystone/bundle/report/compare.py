"""Compare two bundles: changed items for a reviewer, and bytes to carry."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from keystone.bundle.referrers import DESCRIBING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from keystone.bundle.model import Digest, Item
    from keystone.bundle.read.bundle import Bundle


@dataclass(frozen=True)
class Change:
    """One difference between two bundles.

    mark: "+" added, "-" removed, "~" changed. before, after: versions, "" when there is none.
    new: bytes of this item that the old bundle does not contain. other_bytes: the version is the
    same, but the content differs.
    """

    mark: str
    kind: str
    name: str
    where: str
    before: str
    after: str
    new: int
    other_bytes: bool = False


@dataclass(frozen=True)
class Comparison:
    """The differences between two bundles.

    changes: sorted by kind and name. unchanged: items. carried: bytes of new members; kept: bytes
    of members that the old bundle contains too.
    """

    old: str
    new: str
    changes: tuple[Change, ...]
    unchanged: int
    carried: int
    kept: int

    def as_document(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def compare(old: Bundle, new: Bundle) -> Comparison:
    """Compare two verified tables of contents. Pure. Raises DamagedBundleError for a delta."""
    old.require_full()
    new.require_full()
    held = {target.digest for target in old.verified.targets.values()}
    sizes = {target.digest: target.size for target in new.verified.targets.values()}
    changes = tuple(_changes(old.manifest.items, new.manifest.items, held, sizes))
    after = [item for item in new.manifest.items if item.kind not in DESCRIBING]
    return Comparison(
        old=f"{old.manifest.name} {old.manifest.number} ({old.digest[:19]})",
        new=f"{new.manifest.name} {new.manifest.number} ({new.digest[:19]})",
        changes=changes,
        unchanged=len(after) - sum(change.mark != "-" for change in changes),
        carried=sum(size for digest, size in sizes.items() if digest not in held),
        kept=sum(size for digest, size in sizes.items() if digest in held),
    )


def _changes(
    old: Iterable[Item], new: Iterable[Item], held: set[Digest], sizes: Mapping[Digest, int]
) -> Iterator[Change]:
    before, after = _by_name(old), _by_name(new)
    for key in sorted(before.keys() | after.keys()):
        went = [item for item in before.get(key, ()) if not _same(item, after.get(key, ()))]
        came = [item for item in after.get(key, ()) if not _same(item, before.get(key, ()))]
        for was, now in _paired(went, came):
            item = now or was
            if item is None:
                continue
            yield Change(
                mark="~" if was and now else "+" if now else "-",
                kind=item.kind,
                name=item.name,
                where=" ".join(filter(None, key[2:])),
                before=was.version if was else "",
                after=now.version if now else "",
                new=_new_bytes(now, held, sizes) if now else 0,
                other_bytes=bool(was and now and was.version == now.version),
            )


def _paired(went: list[Item], came: list[Item]) -> Iterator[tuple[Item | None, Item | None]]:
    """Pair items of the same version first; then pair the rest in order, as changed versions."""
    for was in list(went):
        same = next((now for now in came if now.version == was.version), None)
        if same:
            went.remove(was)
            came.remove(same)
            yield was, same
    while went or came:
        yield (went.pop(0) if went else None), (came.pop(0) if came else None)


def _by_name(items: Iterable[Item]) -> dict[tuple[str, ...], list[Item]]:
    found: dict[tuple[str, ...], list[Item]] = {}
    for item in items:
        if item.kind not in DESCRIBING:
            labels = [item.labels.get(name, "") for name in ("suite", "architecture", "kernel")]
            found.setdefault((item.kind, item.name, *labels), []).append(item)
    return found


def _same(item: Item, others: Iterable[Item]) -> bool:
    return any((item.version, item.digest) == (one.version, one.digest) for one in others)


def _new_bytes(item: Item, held: set[Digest], sizes: Mapping[Digest, int]) -> int:
    blobs = {item.digest, *item.blobs}
    return sum(sizes.get(digest, 0) for digest in blobs if digest not in held)
