"""Take, list, check, restore for trial and remove snapshots of etcd on this Primer.

A snapshot gets its final name after its hash was checked and its bytes are on the disk. Its
description is written last; a snapshot without one is ignored.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import re
import shutil
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import log
from keystone.cluster import etcdctl, snapshots
from keystone.cluster.recovery import STEP, Order
from keystone.cluster.snapshots import DESCRIPTION, SUFFIX, Snapshot
from keystone.errors import DamagedBundleError, HostError, RefusedError
from keystone.files import free, settle, write_whole
from keystone.run import run, spawned

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path("/var/lib/keystone/snapshots")
SITE_KEY = "/keystone/site"
"""The key in etcd that names the site: the fingerprint of its root certificate."""
PAGE = 512
"""A database is a multiple of it; the rest is the hash (etcdutl, v3_snapshot.go)."""
HASH = hashlib.sha256().digest_size
TRIAL_SECONDS = 300
"""A scratch member is ready in seconds; on a loaded, emulated machine it takes minutes."""
SCRATCH, PEER = "scratch", "unix://localhost:2"
HEADROOM = 64 << 20
"""Bytes that stay free beside a new snapshot: etcd may lie on the same pool."""


def listed(folder: Path = FOLDER) -> tuple[Snapshot, ...]:
    """Return every complete snapshot, the oldest first; warn of descriptions that are invalid."""
    found = []
    for file in sorted(folder.glob(f"etcd-*{DESCRIPTION}")):
        try:
            snapshot = snapshots.load(file.read_text())
        except (ValueError, OSError) as error:
            log.warn(f"{file}: not the description of a snapshot: {error}")
            continue
        if file.stem == snapshot.name and path(snapshot, folder).is_file():
            found.append(snapshot)
    return tuple(sorted(found, key=lambda one: (one.revision, one.taken)))


def path(snapshot: Snapshot, folder: Path = FOLDER) -> Path:
    """Return the file of its database."""
    return folder / f"{snapshot.name}{SUFFIX}"


def take(site: str, folder: Path = FOLDER, *, always: bool = False) -> Snapshot | None:
    """Take a snapshot of the member on this host if one is due; return None if nothing changed.

    site: fingerprint of the site's root. always: take one although nothing changed. Removes the
    oldest snapshots if there is no room otherwise. Raises HostError when etcd does not answer
    or there is no room, RefusedError when etcd says that it belongs to another site.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = etcdctl.ask("endpoint", "status")[0]["Status"]
    header = status["header"]
    cluster, revision = f"{header['cluster_id']:x}", header["revision"]
    existing = listed(folder)
    own = [one for one in existing if one.cluster == cluster]
    if not always and not snapshots.is_due(snapshots.newest(own), revision, cluster):
        return None
    _name_site(site)
    _make_room(existing, status["dbSize"] + HEADROOM, folder)
    half = folder / ".new.db"
    try:
        size, digest = save(half)
        taken = dt.datetime.now(dt.UTC).replace(microsecond=0)
        # Not the revision from above: the database may have changed since.
        held = revision_of(half)
        snapshot = Snapshot(taken, held, size, digest, cluster, site, status["version"])
        settle(half, path(snapshot, folder))
    finally:
        _remove_temporary(half)
    write_whole(folder / f"{snapshot.name}{DESCRIPTION}", snapshots.dump(snapshot).encode(), 0o600)
    return snapshot


def save(file: Path) -> tuple[int, str]:
    """Save the database of the running member, without a majority too; return size and SHA-256.

    Raises HostError when etcd does not run, DamagedBundleError when the file is not whole.
    """
    _remove_temporary(file)
    etcdctl.tell("snapshot", "save", str(file), seconds=1800)
    return check(file)


def revision_of(file: Path) -> int:
    """Return the revision of the database in a snapshot. Raises HostError when it has none."""
    seen = json.loads(etcdctl.utility(["snapshot", "status", str(file), "-w", "json"]))
    revision: int = seen["revision"]
    return revision


def prune(folder: Path = FOLDER) -> tuple[str, ...]:
    """Remove the snapshots that the ladder does not keep; return their names."""
    existing = listed(folder)
    keep = snapshots.to_keep(existing)
    gone = tuple(one.name for one in existing if one.name not in keep)
    for name in gone:
        _remove(name, folder)
    return gone


def check(file: Path) -> tuple[int, str]:
    """Check the hash that etcd appended to a snapshot; return the file's size and SHA-256.

    `etcdutl snapshot status` does not check it. Raises DamagedBundleError.
    """
    database, whole = hashlib.sha256(), hashlib.sha256()
    size = file.stat().st_size
    if size <= HASH or size % PAGE != HASH:
        raise DamagedBundleError(
            f"{file}: incomplete, or no snapshot of etcd ({size} bytes)",
            hint="take another copy of it, or an older snapshot",
        )
    left = size - HASH
    with file.open("rb") as stream:
        while left:
            chunk = stream.read(min(left, 1 << 20))
            if not chunk:
                break
            database.update(chunk)
            whole.update(chunk)
            left -= len(chunk)
        appended = stream.read()
    whole.update(appended)
    if appended != database.digest():
        raise DamagedBundleError(
            f"{file}: the hash that etcd appended does not match: the file was changed or damaged",
            hint="take another copy of it, or an older snapshot",
        )
    return size, whole.hexdigest()


def try_restore(file: Path, scratch: Path, site: str = "") -> int:
    """Restore a snapshot into a scratch member on unix sockets; return the number of its keys.

    scratch: a folder on a disk with room for the database; made and removed. site: fingerprint
    that the snapshot must name, "" for any. Raises DamagedBundleError when it cannot be restored,
    RefusedError when it is another site's.
    """
    with _folder(scratch):
        restore(file, scratch / "data", SCRATCH, Order(SCRATCH, "", {SCRATCH: PEER}, STEP))
        with _scratch_member(scratch) as client:
            answer = run([*client, "get", SITE_KEY, "--print-value-only"], cwd=scratch)
            counted = run(
                [*client, "get", "", "--prefix", "--count-only", "-w", "fields"], cwd=scratch
            )
    said = answer.stdout.strip()
    keys = re.search(r'^"Count" : (\d+)', counted.stdout, re.MULTILINE)
    if site and said != site:
        raise RefusedError(
            f"{file}: {'names no site' if not said else 'is of another site'}",
            hint="take a snapshot of this site: keystone-install etcd snapshot list",
        )
    return int(keys[1]) if keys else 0


def restore(file: Path, data: Path, name: str, order: Order) -> None:
    """Make the data folder of member `name` from a snapshot (etcdutl snapshot restore).

    Everything before the new revision counts as compacted, so caches are read again.
    """
    peers = order.peers
    etcdctl.utility(
        [
            "snapshot", "restore", str(file), "--data-dir", str(data), "--name", name,
            "--initial-cluster", ",".join(f"{one}={url}" for one, url in peers.items()),
            "--initial-advertise-peer-urls", peers[name],
            "--initial-cluster-token", f"keystone-{order.id}",
            "--bump-revision", str(order.bump), "--mark-compacted",
        ],
        seconds=1800,
    )  # fmt: skip


def _name_site(site: str) -> None:
    """Write the site into etcd, once, so that every snapshot contains it."""
    said = etcdctl.ask("get", SITE_KEY).get("kvs", [])
    if not said:
        etcdctl.ask("put", SITE_KEY, site)
        return
    found = base64.b64decode(said[0]["value"]).decode(errors="replace")
    if found != site:
        raise RefusedError(
            f"etcd on this host is of another site: {SITE_KEY} is {found}, not {site}",
            hint="compare the root's fingerprint: keystone-install trust show",
        )


def _make_room(existing: tuple[Snapshot, ...], needed: int, folder: Path) -> None:
    for name in snapshots.to_free(existing, needed, free(folder / "x")):
        log.warn(f"{folder}/{name}{SUFFIX}: removed to make room for a newer snapshot")
        _remove(name, folder)
    if (left := free(folder / "x")) < needed:
        raise HostError(
            f"{folder}: no room for a snapshot: {log.size(needed)} are needed, "
            f"{log.size(left)} are free",
            hint="make room on the pool: zfs list -o space",
        )


def _remove(name: str, folder: Path) -> None:
    """Remove the description first: without it the snapshot is ignored."""
    for suffix in (DESCRIPTION, SUFFIX):
        (folder / f"{name}{suffix}").unlink(missing_ok=True)


def _remove_temporary(file: Path) -> None:
    """Remove the file, and the one that etcdctl writes before."""
    for one in (file, file.with_name(f"{file.name}.part")):
        one.unlink(missing_ok=True)


@contextmanager
def _folder(scratch: Path) -> Iterator[None]:
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700, parents=True)
    try:
        yield
    finally:
        shutil.rmtree(scratch)


@contextmanager
def _scratch_member(scratch: Path) -> Iterator[list[str]]:
    """Run a member on the restored data, on unix sockets; yield the arguments of etcdctl."""
    client = "unix://localhost:1"
    argv = [
        etcdctl.SERVER, "--name", SCRATCH, "--data-dir", str(scratch / "data"),
        "--listen-client-urls", client, "--advertise-client-urls", client,
        "--listen-peer-urls", PEER, "--initial-advertise-peer-urls", PEER,
        "--initial-cluster", f"{SCRATCH}={PEER}",
        "--unsafe-no-fsync",
    ]  # fmt: skip
    with spawned(argv, log_file=scratch / "log", cwd=scratch) as process:
        words = [etcdctl.PROGRAM, "--endpoints", client]
        deadline = time.monotonic() + TRIAL_SECONDS
        while run([*words, "endpoint", "health"], cwd=scratch, check=False).returncode != 0:
            if process.poll() is not None or time.monotonic() > deadline:
                raise DamagedBundleError(
                    f"a member restored from the snapshot does not serve: "
                    f"{etcdctl.last_line((scratch / 'log').read_text())}",
                    hint="take an older snapshot",
                )
            time.sleep(0.2)
        yield words
