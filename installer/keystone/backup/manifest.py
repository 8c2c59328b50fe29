"""What a backup contains, how its file is named, which ones are kept. Pure.

The manifest (JSON) is the first member of a backup and lists all others, in their order.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

FORMAT = 2
NAME = "manifest.json"
SNAPSHOT = "etcd/snapshot.db"
_FILE = re.compile(
    r"keystone-([a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)-([0-9a-f]{8})-(\d{8}T\d{6}Z)-r(\d{1,19})\.age"
)
_TIME = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class Entry:
    """A file in a backup. size: bytes. sha256: hex. mode: 0o600 or 0o644."""

    name: str
    size: int
    sha256: str
    mode: int


@dataclass(frozen=True)
class Manifest:
    """One backup. root: SHA-256 of the site's root certificate. taken: UTC. host: who made it.

    first_root: of its first one, which names the site also after the root was replaced. revision:
    of etcd in the snapshot. bundle: number of the newest bundle that the host accepted, 0 for none.
    issued: certificates in the trust tree's log.
    """

    site: str
    root: str
    first_root: str
    taken: dt.datetime
    host: str
    revision: int
    bundle: int
    issued: int
    files: tuple[Entry, ...]

    @property
    def file_name(self) -> str:
        """The name of the sealed file: sorts by time. A site made anew has the same name."""
        made = f"{self.taken.strftime(_TIME)}-r{self.revision}"
        return f"keystone-{self.site}-{self.first_root[:8]}-{made}.age"


@dataclass(frozen=True, order=True)
class Named:
    """What a file's name says. Ordered by revision: a clock that jumped makes no old one newest.

    root: the first 8 hexadecimal digits of the site's first root.
    """

    revision: int
    taken: dt.datetime
    site: str
    root: str
    name: str


def named(name: str) -> Named | None:
    """Parse the name of a sealed file; None for any other file."""
    found = _FILE.fullmatch(name)
    if found is None:
        return None
    try:
        taken = dt.datetime.strptime(found[3], _TIME).replace(tzinfo=dt.UTC)
    except ValueError:
        return None
    return Named(int(found[4]), taken, found[1], found[2], name)


def of_site(names: Iterable[str], own: Named) -> tuple[Named, ...]:
    """Return the backups of the site of `own` among the names, the newest first."""
    found = (named(name) for name in names)
    ours = (one for one in found if one and (one.site, one.root) == (own.site, own.root))
    return tuple(sorted(ours, reverse=True))


def to_remove(names: Iterable[str], written: str, keep: int) -> tuple[str, ...]:
    """Return the names of all but the newest `keep` backups of a site; others' are not ours.

    written: the one just made. It stays: after an older backup was opened, its revision may be
    below those of the backups that it gave up.
    """
    own = named(written)
    found = of_site(names, own) if own else ()
    return tuple(one.name for one in found if one != own)[keep - 1 :]


def is_due(newest: dt.datetime | None, every: dt.timedelta, now: dt.datetime) -> bool:
    """Whether the newest backup is older than `every`, or from the future: the clock was set."""
    return newest is None or not dt.timedelta() <= now - newest < every


def dump(manifest: Manifest) -> bytes:
    """Return the JSON that `load` reads."""
    document = {
        "format": FORMAT,
        **asdict(manifest),
        "taken": manifest.taken.isoformat(timespec="seconds"),
    }
    return (json.dumps(document, indent=1) + "\n").encode()


def load(data: bytes) -> Manifest:
    """Read a manifest; check the type of every field. Raises ValueError for anything else."""
    document = json.loads(data)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"not a manifest of format {FORMAT}: it needs another release of Keystone")
    taken = dt.datetime.fromisoformat(_of(document, "taken", str))
    listed = _of(document, "files", list)
    if taken.tzinfo is None:
        raise ValueError("taken: a time without a zone")
    return Manifest(
        **{key: _of(document, key, str) for key in ("site", "root", "first_root", "host")},
        **{key: _of(document, key, int) for key in ("revision", "bundle", "issued")},
        taken=taken.astimezone(dt.UTC),
        files=tuple(_entry(one) for one in listed),
    )


def _entry(document: object) -> Entry:
    if not isinstance(document, dict):
        raise ValueError("files: a list of objects is expected")  # noqa: TRY004 one error for all
    texts = {key: _of(document, key, str) for key in ("name", "sha256")}
    entry = Entry(**texts, size=_of(document, "size", int), mode=_of(document, "mode", int))
    if entry.size < 0 or entry.mode not in (0o600, 0o644):
        raise ValueError(f"{entry.name[:80]!r}: impossible size or mode")
    return entry


def _of(document: dict[str, Any], key: str, kind: type) -> Any:  # noqa: ANN401 JSON values
    value = document.get(key)
    if type(value) is not kind:
        raise ValueError(f"{key}: {kind.__name__} is expected")
    return value
