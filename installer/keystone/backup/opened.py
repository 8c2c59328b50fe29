"""A backup on the way back: read whole, checked, placed on a blank machine, forgotten at the end.

FOLDER holds the checked content of one backup from `place` until the installation that it led to is
complete: backup.json says which; `snapshot.db` is there until etcd was restored from it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING

from keystone import log
from keystone.backup import manifest as manifests
from keystone.backup import pack, seal
from keystone.backup.content import DESCRIPTION, PLACES, Places
from keystone.backup.manifest import SNAPSHOT, Entry, Manifest
from keystone.backup.seal import COPY
from keystone.bundle.trust import accepted
from keystone.cluster import etcdctl, snapshot_files, snapshots
from keystone.errors import ConfigurationError, DamagedBundleError, HostError, RefusedError
from keystone.files import create, free, settle, write_whole
from keystone.join import tokens
from keystone.pki import certificates, encryption, rotation
from keystone.pki import tree as pki
from keystone.pki.issue_log import IssueLog
from keystone.site import model as site

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography import x509

FOLDER = Path("/var/lib/keystone/opened")
RECORD = "backup.json"
PLACED = "placed"
MEMBER = Path("/var/lib/etcd/data/member")
ANCHOR = Path("/etc/keystone/pki/root.crt")
LIVES = (MEMBER, Path("/etc/kubernetes/manifests/kube-apiserver.yaml"), ANCHOR)
"""On a machine that belongs to a site."""
LOCK = ".lock"
"""In the tree's folder (keystone.pki.tree)."""
REQUIRED = ("sa.key", "sa.pub", encryption.FILE)
SPARE = 64 << 20


@dataclass(frozen=True)
class Opened:
    """The backup that this machine's site comes back from.

    placed: all files are in their places. pending: etcd was not restored from it yet. older: a
    person agreed to lose what newer snapshots have.
    """

    manifest: Manifest
    placed: bool
    pending: bool
    older: bool


class _Into:
    """Receives the members as files below a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, manifest: Manifest) -> None:
        needed = sum(entry.size for entry in manifest.files) + SPARE
        if (left := free(self._folder / "x")) < needed:
            raise HostError(
                f"{self._folder}: {log.size(needed)} are needed, {log.size(left)} are free",
                hint="make room, then run the same command again",
            )

    def open(self, entry: Entry) -> IO[bytes]:
        path = self._folder / entry.name
        for parent in reversed(PurePath(entry.name).parents):  # mkdir -p sets the last mode only
            (self._folder / parent).mkdir(mode=0o700, exist_ok=True)
        return os.fdopen(create(path, entry.mode), "wb")


def unpack(file: Path, identity: str, folder: Path) -> Manifest:
    """Open a sealed file into a folder of ours, which is empty, and check all that is in it.

    identity: the private key. Raises RefusedError for another key or another site's parts,
    DamagedBundleError for a file that is truncated or changed.
    """
    unpacker = pack.Unpacker(file, _Into(folder))
    seal.unseal(file, unpacker, identity)
    manifest = unpacker.finish()
    try:
        _check(file, manifest, folder)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        missing = Path(str(error.filename)).name
        raise DamagedBundleError(f"{file}: a part is missing: {missing}", hint=COPY) from error
    return manifest


def _check(file: Path, manifest: Manifest, folder: Path) -> None:
    """Require that snapshot, tree and site file fit together, and that the tree is whole.

    Anybody can seal to a public key. But only who has the keys of the CAs can make a tree whose
    keys belong to certificates of this root; so the root's fingerprint, which a person compares,
    vouches for everything in the file.
    """
    snapshot = _snapshot(file, folder)
    here = (_root_of(folder / "pki/root.crt"), rotation.site_fingerprint(folder / "pki"))
    if here != (manifest.root, manifest.first_root) or snapshot.site != manifest.first_root:
        raise RefusedError(
            f"{file}: trust tree, snapshot and list are of different sites",
            hint="take another backup, and find out who made this one",
        )
    _, digest = snapshot_files.check(folder / SNAPSHOT)
    if (digest, manifest.revision) != (snapshot.sha256, snapshot.revision):
        raise DamagedBundleError(f"{file}: its snapshot is not the one it describes", hint=COPY)
    try:
        wanted = site.load(folder / "site.yaml")
    except ConfigurationError as error:
        raise DamagedBundleError(f"{file}: {error}", hint=COPY) from error
    wrong = [*_mismatches(folder / "pki"), *IssueLog(folder / "pki/issued.jsonl").problems()]
    if wanted.name != manifest.site:
        raise RefusedError(f"{file}: its site file is of site {wanted.name}", hint=COPY)
    if wrong:
        raise RefusedError(
            f"{file}: its trust tree is not valid: {'; '.join(wrong)}",
            hint="take an older backup, and compare: keystone-install backup verify",
        )


def _mismatches(tree: Path) -> list[str]:
    """Return which parts of a tree do not belong together or are missing, whatever the time is."""
    missing = [f"{one}: missing" for one in REQUIRED if not (tree / one).exists()]
    return [*pki.authority_problems(tree), *missing]


def _certificate(file: Path) -> x509.Certificate:
    return certificates.load_certificate(file.read_bytes(), str(file))


def _snapshot(file: Path, folder: Path) -> snapshots.Snapshot:
    try:
        return snapshots.load((folder / DESCRIPTION).read_text())
    except ValueError as error:
        raise DamagedBundleError(f"{file}: {DESCRIPTION}: {error}", hint=COPY) from error


@contextmanager
def scratch(file: Path, identity: str, at: Path) -> Iterator[tuple[Manifest, Path]]:
    """Open a sealed file into a new folder in `at`, which is removed after the block."""
    with tempfile.TemporaryDirectory(prefix="keystone-backup-", dir=at) as name:
        yield unpack(file, identity, Path(name)), Path(name)


def try_snapshot(folder: Path, site: str) -> int | None:
    """Restore the snapshot into a scratch member; return its keys, None without etcd's programs.

    site: what names it, `Manifest.first_root`.
    """
    if not Path(etcdctl.SERVER).exists():
        return None
    return snapshot_files.try_restore(folder / SNAPSHOT, folder / ".trial", site)


# The way back -------------------------------------------------------------------------------


def newer(folder: Path, manifest: Manifest) -> str:
    """Return the name of a newer backup of the same site in a folder, "" if there is none."""
    own = manifests.named(manifest.file_name)
    beside = manifests.of_site((one.name for one in folder.iterdir()), own) if own else ()
    return beside[0].name if own and beside and beside[0] > own else ""


def observe(folder: Path = FOLDER) -> Opened | None:
    """Return the backup that is opened on this machine; None if there is none."""
    record = folder / RECORD
    if not record.exists():
        return None
    try:
        document = json.loads(record.read_text())
        manifest = manifests.load(json.dumps(document["manifest"]).encode())
        older = document["older"] is True
    except (ValueError, LookupError, TypeError) as error:
        raise RefusedError(
            f"{record}: not written by Keystone: {error}",
            hint=f"remove {folder}, and open the backup again",
        ) from error
    placed = (folder / PLACED).exists()
    return Opened(manifest, placed, (folder / SNAPSHOT).exists(), older)


def read_in(file: Path, identity: str, *, older: bool, folder: Path = FOLDER) -> Opened:
    """Read and check a sealed file into FOLDER; nothing else is changed on this machine.

    older: agree to a backup that is not the newest. Raises RefusedError when this machine belongs
    to a site, when another backup is opened here, or when a newer one lies beside the file.
    """
    require_blank(folder)
    before = observe(folder)
    half = folder.with_name(f"{folder.name}.next")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(mode=0o700, parents=True)
    try:
        manifest = unpack(file, identity, half)
        if before is not None and before.manifest != manifest:
            raise RefusedError(
                f"another backup is opened here: {before.manifest.file_name}",
                hint=f"go on with that one; or, to give it up: rm -r {folder}",
            )
        if not older and (found := newer(file.parent, manifest)):
            raise RefusedError(
                f"{file}: {found} beside it is newer",
                hint="open that one; to lose what was written since on purpose, add --older",
            )
        if before is None:
            record = {"manifest": json.loads(manifests.dump(manifest)), "older": older}
            write_whole(half / RECORD, json.dumps(record).encode(), 0o600)
            shutil.rmtree(folder, ignore_errors=True)
            settle(half, folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return before or Opened(manifest, placed=False, pending=True, older=older)


def require_blank(folder: Path = FOLDER, places: Places = PLACES) -> None:
    """Raise RefusedError on a machine of a site, except of the one that is being brought back."""
    ours = observe(folder)
    lives = [path for path in LIVES if path.exists()]
    if lives:
        raise RefusedError(
            f"a site lives on this machine: {lives[0]}",
            hint="to bring etcd back on a site's own Primers: keystone-install backup open "
            "--into DIR, then keystone-install etcd restore --snapshot DIR/etcd/snapshot.db",
        )
    there = places.pki / "root.crt"
    own = ours is not None and there.exists() and _root_of(there) == ours.manifest.root
    if not own and _tree_files(places.pki):
        raise RefusedError(
            f"{places.pki}: this machine has the trust tree of a site already",
            hint="open the backup on a blank machine; or, if nobody needs that tree, move it away",
        )


def _tree_files(folder: Path) -> list[str]:
    """Return the names in a tree's folder; a command that only looked may have left its lock."""
    names = (path.name for path in folder.iterdir()) if folder.exists() else ()
    return [name for name in names if name != LOCK]


def _root_of(file: Path) -> str:
    return certificates.fingerprint(_certificate(file))


def place(found: Opened, folder: Path = FOLDER, places: Places = PLACES) -> None:
    """Put the files in their places, the tree last; may be repeated."""
    _place_bundle_trust(folder / "trust", places.trust)
    write_whole(places.site, (folder / "site.yaml").read_bytes(), 0o600)
    if (folder / "pki").exists():
        places.pki.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        (places.pki / LOCK).unlink(missing_ok=True)
        # Renamed, not copied: its keys are nowhere twice. An empty folder is replaced (rename(2)).
        settle(folder / "pki", places.pki)
    write_whole(folder / PLACED, b"", 0o600)
    log.debug(f"{found.manifest.file_name}: in place")


def _place_bundle_trust(source: Path, target: Path) -> None:
    """Place the pinned root, unless the medium of this machine brought one; the higher floor."""
    theirs, ours = source / "root.json", target / "root.json"
    if theirs.exists() and not ours.exists():
        write_whole(ours, theirs.read_bytes(), 0o644)
    floor, own = accepted.load(source), accepted.load(target)
    if floor is not None and (own is None or own.number < floor.number):
        accepted.save(floor, target)


def restored(folder: Path = FOLDER) -> None:
    """Note that etcd was restored from the snapshot: it is removed."""
    (folder / SNAPSHOT).unlink(missing_ok=True)


def forget(folder: Path = FOLDER, places: Places = PLACES) -> None:
    """Bring the join tokens back, then remove the opened backup."""
    _place_tokens(folder / "join", places.join)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == RECORD):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    folder.rmdir()


def _place_tokens(source: Path, target: Path) -> None:
    """Bring the tokens back that this Primer does not know; those that were used come revoked.

    The folder of claims belongs to the join service, so root writes nothing there. Without its
    claim a used token would admit a second machine.
    """
    if not target.is_dir():  # no join service on this Primer
        return
    theirs, ours = tokens.Tokens(source), tokens.Tokens(target)
    for record in theirs.all():
        if ours.find(record.id) is None:
            used = theirs.claimed(record.id) is not None
            ours.add(replace(record, revoked=record.revoked or used))


def give_up(folder: Path = FOLDER) -> None:
    """Remove an opened backup of which nothing was placed."""
    shutil.rmtree(folder, ignore_errors=True)
