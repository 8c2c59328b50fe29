"""The maintenance of a Primer: the regular work of a site, run by a timer without a person.

Each chore acts only if something is due. A chore that fails does not stop the others. REPORT holds
the results.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from keystone import log
from keystone.cluster import defragment, etcdctl, metrics, snapshot_files, snapshots, timing
from keystone.errors import HostError, KeystoneError
from keystone.files import write_whole
from keystone.hosts import observe
from keystone.install import backups
from keystone.lockfile import only_one
from keystone.pki import host_files, rotation
from keystone.pki.lives import NEVER
from keystone.site import model as site_file

REPORT = Path("/var/lib/keystone/maintain.json")
LOCK = Path("/run/keystone-maintain.lock")
ROOT = Path("/etc/keystone/pki/root.crt")
TIMING = Path("/var/lib/keystone/timing.json")
"""What the etcd member here measured; the installer decides from it (keystone.cluster.timing)."""
TREE = Path(host_files.TREE)
TRIAL_EVERY = dt.timedelta(days=1)
HISTORY = dt.timedelta(minutes=5)
"""History that the API server keeps too; nothing younger is removed while writes work."""


@dataclass(frozen=True)
class Record:
    """The result of a chore. Times are in UTC, ISO 8601, "" for never.

    looked: time of the newest run. done, done_at: what the last run with work to do did, and when.
    error: why the newest run failed, "" if it did not; failing_since: time of the first failure
    since the last success.
    """

    looked: str = ""
    done: str = ""
    done_at: str = ""
    error: str = ""
    hint: str = ""
    failing_since: str = ""


@dataclass(frozen=True)
class Chore:
    """One kind of regular work. work: does what is due; returns what it did, "" for nothing."""

    name: str
    sentence: str
    work: Callable[[Record, dt.datetime], str]


def take_snapshot(_last: Record, _now: dt.datetime) -> str:
    """Take a snapshot of etcd if the database changed since the last one; remove old ones."""
    taken = snapshot_files.take(site_fingerprint())
    removed = snapshot_files.prune()
    if taken is None:
        return ""
    return f"{taken.name}, {log.size(taken.size)}; old ones removed: {len(removed)}"


def try_snapshot(last: Record, now: dt.datetime) -> str:
    """Restore the newest snapshot into a scratch member once a day, to prove that it can be."""
    newest = snapshots.newest(snapshot_files.listed())
    if newest is None or (last.done_at and not last.error and _younger(last.done_at, now)):
        return ""
    file, scratch = snapshot_files.path(newest), snapshot_files.FOLDER / ".trial"
    keys = snapshot_files.try_restore(file, scratch, site_fingerprint())
    return f"{newest.name} restored for trial: {keys} keys"


def renew_certificates(_last: Record, now: dt.datetime) -> str:
    """Renew this Primer's certificates after two thirds of their life."""
    from keystone.install import renewal  # noqa: PLC0415 it needs Ansible, which is slow to import

    return renewal.renew(now)


def note_certificates(_last: Record, now: dt.datetime) -> str:
    """Note in etcd which certificates this Primer has, for the day when it is lost."""
    from keystone.install import renewal  # noqa: PLC0415 it needs Ansible, which is slow to import

    node = renewal.this_primer(site_file.load(site_file.installed()))
    return renewal.note(node, observe.certificates(), now)


def seal_keys(_last: Record, _now: dt.datetime) -> str:
    """Seal keys that something has written in plain text since."""
    return host_files.seal_tree()


def make_room(_last: Record, now: dt.datetime) -> str:
    """Remove old history and defragment when a database fills its quota; the leader's host acts."""
    header = etcdctl.ask("endpoint", "status")[0]["Status"]["header"]
    cluster = f"{header['cluster_id']:x}"
    return defragment.make_room(snapshots.revision_before(
        snapshot_files.listed(), cluster, now - HISTORY))  # fmt: skip


def defragment_member(_last: Record, _now: dt.datetime) -> str:
    """Defragment the member here if it has much free space; one Primer after another."""
    return defragment.defragment_here()


def measure(_last: Record, _now: dt.datetime) -> str:
    """Note how fast network and disk of the member are. It changes nothing, and is never due."""
    write_whole(TIMING, timing.dump(timing.measure(metrics.read())).encode(), 0o600)
    return ""


def back_up(_last: Record, now: dt.datetime) -> str:
    """Make the sealed backups that the site file asks for, where they are due."""
    return backups.work(now)


CHORES = (
    # First: when all certificates have expired, etcd answers only once they are renewed.
    Chore("certificates", "renew certificates", renew_certificates),
    Chore("seal", "seal keys that are in plain text on the disk", seal_keys),
    Chore("certificate notes", "note in etcd which certificates it has", note_certificates),
    Chore("snapshot", "take a snapshot of etcd", take_snapshot),
    Chore("trial restore", "restore the newest snapshot for trial", try_snapshot),
    Chore("room", "make room when etcd's database fills its quota", make_room),
    Chore("defragment", "defragment etcd's database", defragment_member),
    Chore("measure", "measure network and disk for etcd's timing", measure),
    Chore("backup", "seal a backup and carry it out of the site", back_up),
)


def run(chores: tuple[Chore, ...] = CHORES, report: Path = REPORT, lock: Path = LOCK) -> None:
    """Run all chores, then raise a HostError that names those that failed."""
    with only_one(lock, "the maintenance of this machine"):
        records = read(report)
        for chore in chores:
            now = dt.datetime.now(dt.UTC)
            records[chore.name] = _run_one(chore, records.get(chore.name, Record()), now)
            write_whole(report, _dump(records), 0o600)
        failed = {name: one for name, one in records.items() if one.error}
    if failed:
        raise HostError(
            "\n".join(f"{name}: {one.error}" for name, one in failed.items()),
            hint=next(iter(failed.values())).hint or "look at: journalctl -u keystone-maintain",
        )


def read(report: Path = REPORT) -> dict[str, Record]:
    """Return the report. A report that is invalid is replaced, with a warning."""
    if not report.exists():
        return {}
    try:
        return parse(report.read_text())
    except ValueError as error:
        log.warn(f"{report}: invalid, and will be replaced: {error}")
        return {}


def parse(text: str) -> dict[str, Record]:
    """Return the report in a text. Raises ValueError for any other text."""
    try:
        return {str(name): Record(**entry) for name, entry in json.loads(text).items()}
    except (TypeError, AttributeError) as error:
        raise ValueError(f"not a report of the maintenance: {error}") from error


def site_fingerprint() -> str:
    """Return what names the site in etcd and snapshots. Raises HostError without a root."""
    if not ROOT.exists():
        raise HostError(f"{ROOT}: not here", hint="run this on a Primer, after the installation")
    return rotation.site_fingerprint(TREE, ROOT)


def moment(text: str) -> dt.datetime:
    """Return a time of a Record; 1970 for one that is no time."""
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        return NEVER
    return found if found.tzinfo else NEVER


def _run_one(chore: Chore, last: Record, now: dt.datetime) -> Record:
    moment = now.isoformat(timespec="seconds")
    try:
        done = chore.work(last, now)
    except (KeystoneError, OSError) as error:
        hint = error.hint if isinstance(error, KeystoneError) else ""
        since = last.failing_since or moment
        log.warn(f"{chore.name}: {error}", event="chore", chore=chore.name)
        return replace(last, looked=moment, error=str(error), hint=hint, failing_since=since)
    fine = replace(last, looked=moment, error="", hint="", failing_since="")
    if not done:
        log.info(f"= {chore.name}: nothing to do", event="chore", chore=chore.name)
        return fine
    log.info(f"{chore.name}: {done}", event="chore", chore=chore.name)
    return replace(fine, done=done, done_at=moment)


def _younger(since: str, now: dt.datetime) -> bool:
    """Return whether it was less than a day ago; no if it is in the future: the clock was set."""
    age = now - moment(since)
    return dt.timedelta() <= age < TRIAL_EVERY


def _dump(records: dict[str, Record]) -> bytes:
    return (json.dumps({k: asdict(v) for k, v in records.items()}, indent=1) + "\n").encode()
