"""Make sealed backups: by hand, and as the chore of every Primer's timer.

The site's etcd remembers the last backup at each destination, so of several Primers one makes it:
the first that finds it due and reaches the destination (a stick is in one machine only). Two at the
same moment make two backups, which harms nothing.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import log
from keystone.backup import content, manifest, places
from keystone.cluster import etcdctl, snapshot_files, snapshots
from keystone.errors import ConfigurationError, HostError, KeystoneError
from keystone.files import require_room
from keystone.lockfile import only_one
from keystone.pki import rotation
from keystone.pki import tree as pki
from keystone.site import model as site

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from keystone.backup.content import Sealed
    from keystone.site.backup import Backup, Destination

SPOOL = Path("/var/lib/keystone/backup")
"""Holds the sealed file until it is at every destination."""
LOCK = Path("/run/keystone-backup.lock")
PREFIX = "/keystone/backup/"
"""Keys in etcd: the last backup at each destination, by a hash of its address."""
GRACE = dt.timedelta(hours=1)
"""So long another Primer may be the one that reaches a destination, before this one complains."""
OVERHEAD = 1 << 20


@dataclass(frozen=True)
class Last:
    """The last good backup at a destination: it was read back there, byte by byte.

    taken: UTC. size: bytes of the sealed file. host: who made it.
    """

    name: str
    taken: dt.datetime
    size: int
    sha256: str
    host: str


@dataclass(frozen=True)
class Outcome:
    """What was done for one destination: the last backup there, or why there is none."""

    to: str
    last: Last | None = None
    removed: int = 0
    error: str = ""
    hint: str = ""


def make(
    wanted: site.Site, recipients: Sequence[str], to: Iterable[Destination], keep: int
) -> tuple[Sealed, tuple[Outcome, ...]]:
    """Seal a backup of this moment and copy it to every destination.

    A destination that fails does not stop the others. Raises what `content.collect` and
    `seal.seal` raise, HostError when this Primer has no snapshot.
    """
    with only_one(LOCK, "the backup of this site"):
        SPOOL.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in SPOOL.iterdir():  # of a run that was killed
            old.unlink()
        found = content.collect(wanted.name, _snapshot())
        require_room(SPOOL / found.manifest.file_name, found.size + OVERHEAD)
        with log.step(f"seal {found.manifest.file_name} ({log.size(found.size)})"):
            sealed = content.seal_to(SPOOL, found, recipients)
        try:
            outcomes = tuple(_store(wanted, sealed, one, keep) for one in to)
        finally:
            sealed.file.unlink()
    return sealed, outcomes


def _snapshot() -> snapshots.Snapshot:
    """Take a snapshot; of the newest that exists when etcd does not answer."""
    try:
        snapshot_files.take(_site())
    except HostError as error:
        log.warn(f"no new snapshot: {error}; the newest that exists is taken")
    newest = snapshots.newest(snapshot_files.listed())
    if newest is None:
        raise HostError(
            f"{snapshot_files.FOLDER}: no snapshot of etcd", hint="look at: systemctl status etcd"
        )
    return newest


def _site() -> str:
    file = pki.DIRECTORY / "root.crt"
    if not file.exists():
        raise HostError(
            f"{file}: the trust tree of the site is not on this Primer",
            hint="run this on the Primer where keystone-install ran",
        )
    return rotation.site_fingerprint(pki.DIRECTORY)


@contextmanager
def _opened(wanted: site.Site, to: Destination) -> Iterator[places.Place]:
    """Open a destination; one of the site file must be on another disk, except of a trial site."""
    if to.path and not wanted.trial and wanted.backup and to in wanted.backup.to:
        places.require_other_disk(Path(to.path))
    with places.opened(to) as place:
        yield place


def _store(wanted: site.Site, sealed: Sealed, to: Destination, keep: int) -> Outcome:
    try:
        with log.step(f"copy it to {to} and read it back"), _opened(wanted, to) as place:
            removed = places.store(place, sealed, keep)
    except (KeystoneError, OSError) as error:
        hint = error.hint if isinstance(error, KeystoneError) else ""
        return Outcome(str(to), error=str(error), hint=hint)
    named = sealed.manifest
    last = Last(named.file_name, named.taken, sealed.size, sealed.sha256, named.host)
    _remember(str(to), last)
    return Outcome(str(to), last, len(removed))


def require(outcomes: Iterable[Outcome]) -> None:
    """Raise HostError when a destination did not get the backup."""
    failed = [one for one in outcomes if one.error]
    if failed:
        raise HostError(
            "\n".join(f"{one.to}: {one.error}" for one in failed),
            hint=failed[0].hint or "correct it, then run the same command again",
        )


# The chore ----------------------------------------------------------------------------------


def work(now: dt.datetime) -> str:
    """Make the backups that are due; return what was done, "" for nothing.

    Raises HostError when a destination has no recent backup and this Primer cannot make it.
    """
    if not site.INSTALLED.exists() or not (pki.DIRECTORY / "root.crt").exists():
        return ""
    wanted = site.load(site.INSTALLED)
    plan = wanted.backup
    if plan is None:
        return ""
    known = lasts()
    due = [to for to in plan.to if manifest.is_due(taken(known.get(str(to))), plan.every, now)]
    here = [to for to in due if _reachable(wanted, to, known.get(str(to)), now)]
    if not here:
        return ""
    sealed, outcomes = make(wanted, plan.recipients, here, plan.keep)
    require(outcomes)
    where = ", ".join(one.to for one in outcomes)
    return f"{sealed.manifest.file_name}, {log.size(sealed.size)}, to {where}"


def taken(last: Last | None) -> dt.datetime | None:
    """When the last backup was taken, None for never."""
    return last.taken if last else None


def _reachable(wanted: site.Site, to: Destination, last: Last | None, now: dt.datetime) -> bool:
    """Whether this Primer reaches the destination; complain only when no other did for long."""
    if to.s3 is not None:
        return True
    try:
        with _opened(wanted, to):
            return True
    except places.AbsentError:
        if last is None or now - last.taken > required(wanted).every + GRACE:
            raise
        return False


def lasts() -> dict[str, Last]:
    """Return the last backup at each destination, as the site's etcd remembers it.

    Raises HostError when etcd does not answer.
    """
    found = etcdctl.ask("get", PREFIX, "--prefix").get("kvs", [])
    entries = (_parsed(base64.b64decode(one["value"])) for one in found)
    return dict(one for one in entries if one is not None)


def _parsed(value: bytes) -> tuple[str, Last] | None:
    try:
        entry = json.loads(value)
        moment = dt.datetime.fromisoformat(entry["taken"]).astimezone(dt.UTC)
        fields = (str(entry["sha256"]), str(entry["host"]))
        return str(entry["to"]), Last(str(entry["name"]), moment, int(entry["size"]), *fields)
    except (ValueError, LookupError, TypeError) as error:
        log.warn(f"{PREFIX}: an entry in etcd is not ours, and is ignored: {error}")
        return None


def _remember(to: str, last: Last) -> None:
    value = {"to": to, **vars(last), "taken": last.taken.isoformat()}
    key = PREFIX + hashlib.sha256(to.encode()).hexdigest()[:16]
    try:
        etcdctl.ask("put", key, json.dumps(value))
    except HostError as error:
        log.warn(f"the site does not remember this backup: {error}")


def ages(wanted: site.Site, known: Mapping[str, Last], now: dt.datetime) -> list[str]:
    """Return one line for each destination: how old the last good backup there is. Pure."""
    plan = wanted.backup
    if plan is None:
        return []
    lines = []
    for to in plan.to:
        last = known.get(str(to))
        if last is None:
            lines.append(f"{to}: no backup yet")
            continue
        age = now - last.taken
        late = "" if age <= plan.every + GRACE else f"; one is due after {span(plan.every)}"
        lines.append(f"{to}: the last good backup is {span(age)} old{late}")
    return lines


def span(time: dt.timedelta) -> str:
    """Return a time in minutes, hours or days, rounded down."""
    minutes = int(time.total_seconds()) // 60
    for unit, size in (("day", 24 * 60), ("hour", 60)):
        if minutes >= 2 * size:
            return log.count(minutes // size, unit)
    return log.count(minutes, "minute")


def report() -> list[str]:
    """Say how old the last good backup at each destination is, as far as this Primer can know."""
    if not site.INSTALLED.exists():
        return []
    wanted = site.load(site.INSTALLED)
    try:
        known = lasts() if wanted.backup else {}
    except HostError as error:
        return [f"the age of the last backup is not known: {error}"]
    return ages(wanted, known, dt.datetime.now(dt.UTC))


def required(wanted: site.Site) -> Backup:
    """Return the site's plan of backups. Raises ConfigurationError when it has none."""
    if wanted.backup is None:
        raise ConfigurationError(
            f"site {wanted.name}: spec.backup is not set",
            hint="add recipients and to, or give --recipient and --to",
        )
    return wanted.backup
