"""The etcd member on this host while a quorum is restored. Each step may be repeated.

RESTORE holds snapshot.db, data (the restored data folder) and, written last, order.json: with it
the host is prepared. `swap` puts data in place, `finish` writes the id to FINISHED and removes
RESTORE.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO

from keystone import log
from keystone.cluster import etcdctl, kubeadm_leaves, snapshot_files
from keystone.cluster.recovery import MemberState, Order
from keystone.errors import DamagedBundleError, HostError, RefusedError
from keystone.files import settle, sync_directory, write_chunks, write_whole
from keystone.run import run

ETCD = Path("/var/lib/etcd")
DATA = ETCD / "data"
RESTORE = ETCD / "restore"
FINISHED = ETCD / "restored"
LIVE = snapshot_files.FOLDER / "live.db"


def state() -> MemberState:
    """Return what this host has to restore from; change nothing.

    Raises HostError on a host without etcd.
    """
    etcdctl.require_certificates()
    revision, serves = _running()
    return MemberState(revision, serves, _order(), _last(), snapshot_files.listed())


def _running() -> tuple[int | None, bool]:
    try:
        status = etcdctl.ask("endpoint", "status", seconds=3)[0]["Status"]
    except HostError:
        return None, False
    # A read through the quorum: for a moment a member still names a leader that is gone.
    words = etcdctl.words("endpoint", "health", timeout="5s")
    return status["header"]["revision"], run(words, check=False, timeout=60).returncode == 0


def source(what: str, name: str) -> Path:
    """Return the file to send: "live", "unfinished", or "snapshot" by its name.

    Raises RefusedError when there is none of that name.
    """
    if what == "live":
        snapshot_files.save(LIVE)
        return LIVE
    if what == "unfinished":
        return RESTORE / "snapshot.db"
    for one in snapshot_files.listed():
        if one.name == name:
            return snapshot_files.path(one)
    raise RefusedError(
        f"no snapshot {name!r} on this host", hint="keystone-install etcd snapshot list"
    )


def stage(name: str, order: Order, stream: IO[bytes]) -> None:
    """Restore the snapshot on `stream` beside the data of member `name`; the member keeps running.

    Raises DamagedBundleError when the bytes are not those of the order, RefusedError when another
    restore is not finished here.
    """
    found = _order()
    if found == order or _last() == order.id:
        return
    if found is not None:
        raise RefusedError(
            f"{RESTORE}: restore {found.id} is not finished here",
            hint=f"finish that one, or remove {RESTORE}",
        )
    shutil.rmtree(RESTORE, ignore_errors=True)
    RESTORE.mkdir(mode=0o700)
    file = RESTORE / "snapshot.db"
    write_chunks(file, iter(lambda: stream.read(1 << 20), b""), RESTORE / ".snapshot.db", 0o600)
    size, digest = snapshot_files.check(file)
    if digest != order.sha256:
        raise DamagedBundleError(
            f"{file}: {size} bytes that are not the snapshot that was sent",
            hint="run the same command again",
        )
    snapshot_files.restore(file, RESTORE / "data", name, order)
    _give_to_etcd(RESTORE / "data")
    write_whole(RESTORE / "order.json", json.dumps(asdict(order)).encode(), 0o600)


def swap(identity: str) -> None:
    """Stop the member, move its data aside, put the restored data in its place, start it.

    Returns before the member serves: it waits for the others. Raises RefusedError when this restore
    was not prepared here.
    """
    if _last() == identity:
        return
    order = _order()
    if order is None or order.id != identity:
        raise RefusedError(f"{RESTORE}: restore {identity} was not prepared on this host")
    run(["systemctl", "stop", "etcd"], timeout=300)
    if (RESTORE / "data").exists():
        if DATA.exists():
            settle(DATA, ETCD / f"data.before-{identity}", synced=True)
        settle(RESTORE / "data", DATA)
        sync_directory(RESTORE)
    run(["systemctl", "start", "--no-block", "etcd"])


def finish(identity: str) -> None:
    """Restart the programs that cached answers of the old cluster, then forget the restore.

    The old data folder stays: a person removes it.
    """
    if _last() == identity:
        return
    for name, argument, _ in kubeadm_leaves.PODS:
        for process in kubeadm_leaves.processes(name, argument):
            with suppress(ProcessLookupError):
                # Not SIGTERM: it would go on from its cache of the old cluster while it ends.
                os.kill(process, signal.SIGKILL)
    # A node that the snapshot does not know registers again. When a site comes back from a backup,
    # there is no kubelet yet.
    if run(["systemctl", "cat", "kubelet"], check=False).returncode == 0:
        run(["systemctl", "try-restart", "kubelet"], timeout=300)
    write_whole(FINISHED, identity.encode(), 0o600)
    shutil.rmtree(RESTORE, ignore_errors=True)
    LIVE.unlink(missing_ok=True)
    log.info(f"the data from before is in {ETCD}/data.before-{identity}")


def _last() -> str:
    return FINISHED.read_text() if FINISHED.exists() else ""


def _order() -> Order | None:
    """The restore that is prepared here and not finished."""
    file = RESTORE / "order.json"
    order = Order(**json.loads(file.read_text())) if file.exists() else None
    return order if order and order.id != _last() else None


def _give_to_etcd(folder: Path) -> None:
    user = pwd.getpwnam("etcd")
    for one in (folder, *folder.rglob("*")):
        shutil.chown(one, user.pw_uid, user.pw_gid)
