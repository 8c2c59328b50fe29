"""Read what a backup contains on a Primer: enough to bring the site back on blank machines.

    pki/...                     the trust tree, with the log of issued certificates, the keys of the
                                issuing CAs, sa.key and the key for secrets in etcd
    site.yaml, known_hosts      the installed site file; the ssh host keys that were confirmed
    trust/root.json, accepted.json   the pinned root of bundles, and the newest accepted bundle
    join/tokens, join/claims    the join tokens of this Primer
    etcd/snapshot.db, .json     a snapshot of etcd with its description

The key of the offline root is never in it: it is not on a Primer's trust tree.
"""

from __future__ import annotations

import datetime as dt
import errno
import hashlib
import os
import socket
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import log
from keystone.ansible.roles.maintain import KNOWN_HOSTS
from keystone.backup import pack
from keystone.backup.manifest import SNAPSHOT, Entry, Manifest
from keystone.bundle.formats import tar
from keystone.bundle.trust import accepted
from keystone.bundle.trust import verify as bundle_trust
from keystone.cluster import snapshot_files, snapshots
from keystone.errors import HostError, RefusedError
from keystone.files import LOOK, replacing, write_all
from keystone.join import tokens
from keystone.lockfile import only_one
from keystone.pki import certificates, rotation
from keystone.pki import seal as sealed_tree
from keystone.pki import tree as pki
from keystone.site import model as site

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from io import FileIO

    from keystone.cluster.snapshots import Snapshot

DESCRIPTION = "etcd/snapshot.json"
SMALL = 16 << 20
"""Bytes of the largest file but the snapshot; a log of 20,000 certificates has 10 MiB."""
ROOT_KEY = b"ENCRYPTED PRIVATE KEY"
"""Only the operator's file of the offline root's key has this; keys of issuing CAs are plain."""


@dataclass(frozen=True)
class Places:
    """Where the parts are on a Primer. In tests: below another folder."""

    pki: Path = pki.DIRECTORY
    site: Path = site.INSTALLED
    known_hosts: Path = Path(KNOWN_HOSTS)
    trust: Path = bundle_trust.TRUST
    join: Path = tokens.DIRECTORY
    snapshots: Path = snapshot_files.FOLDER
    sealed: sealed_tree.Places = sealed_tree.PLACES


PLACES = Places()


@dataclass(frozen=True)
class Content:
    """What is sealed. small: contents by name; snapshot: the file of the database."""

    manifest: Manifest
    small: Mapping[str, bytes] = field(repr=False)
    snapshot: Path

    def of(self, entry: Entry) -> Iterator[bytes]:
        """Yield the content of an entry."""
        if entry.name != SNAPSHOT:
            yield self.small[entry.name]
            return
        with self.snapshot.open("rb") as stream:
            while chunk := stream.read(pack.CHUNK):
                yield chunk

    def stream(self) -> pack.Packed:
        """Return the archive."""
        return pack.Packed(self.manifest, self.of)

    @property
    def size(self) -> int:
        """Bytes of all files: a sealed file is larger by a few thousandths."""
        return sum(entry.size for entry in self.manifest.files)


def collect(
    name: str, snapshot: Snapshot, places: Places = PLACES, now: dt.datetime | None = None
) -> Content:
    """Read everything but the snapshot into memory. name: of the site. now: for tests.

    Raises RefusedError when the tree or the snapshot is of another site, or holds the root's key,
    DamagedBundleError for a damaged snapshot, HostError when a part is missing.
    """
    small = {}
    with only_one(places.pki / ".lock", f"the trust tree in {places.pki}"):
        small.update(_tree(places.pki, places.sealed))
        root, named = _fingerprint(small), rotation.site_fingerprint(places.pki)
    if snapshot.site != named:
        raise RefusedError(
            f"{snapshot.name}: a snapshot of another site than the trust tree in {places.pki}",
            hint="look at: keystone-install etcd snapshot list; keystone-install trust show",
        )
    small["site.yaml"] = _needed(places.site)
    small.update(_optional({
        "known_hosts": places.known_hosts,
        **{f"trust/{one}": places.trust / one for one in ("root.json", accepted.FILE)},
        **{f"join/tokens/{one.name}": one for one in places.join.glob("tokens/*.json")},
        **{f"join/claims/{one.name}": one for one in places.join.glob("claims/*.json")},
    }))  # fmt: skip
    small[DESCRIPTION] = snapshots.dump(snapshot).encode()
    file = snapshot_files.path(snapshot, places.snapshots)
    size, digest = snapshot_files.check(file)
    entries = [
        Entry(one, len(data), hashlib.sha256(data).hexdigest(), _mode(one))
        for one, data in sorted(small.items())
    ]
    remembered = accepted.load(places.trust)
    manifest = Manifest(
        site=name,
        root=root,
        first_root=named,
        taken=(now or dt.datetime.now(dt.UTC)).replace(microsecond=0),
        host=socket.gethostname(),
        revision=snapshot.revision,
        bundle=remembered.number if remembered else 0,
        issued=small.get("pki/issued.jsonl", b"").count(b"\n"),
        # The snapshot last: a reader learns that the small files are wrong before the large one.
        files=(*entries, Entry(SNAPSHOT, size, digest, 0o600)),
    )
    return Content(manifest, small, file)


def _mode(name: str) -> int:
    return 0o644 if name.endswith((".crt", ".pub", "known_hosts")) else 0o600


def _fingerprint(small: Mapping[str, bytes]) -> str:
    pem = small.get("pki/root.crt")
    if pem is None:
        raise HostError(
            "the trust tree of the site is not on this Primer",
            hint="run this on the Primer where keystone-install ran",
        )
    return certificates.fingerprint(certificates.load_certificate(pem, "root.crt"))


def _tree(folder: Path, sealed: sealed_tree.Places) -> dict[str, bytes]:
    """Read the files of the trust tree, the sealed ones opened.

    Temporary files and locks begin with a dot. Raises HostError if nobody has opened the sealed.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if any(part.startswith(".") for part in relative.parts) or path.is_dir():
            continue
        name = f"pki/{relative}"
        sealed_tree.require_open(path)
        file = sealed_tree.content(path, sealed)
        if file.is_symlink() or not tar.NAME.fullmatch(name) or len(name) > tar.NAME_BYTES:
            log.warn(f"{path}: not a file of the trust tree; the backup does not have it")
            continue
        found[name] = _needed(file)
        if ROOT_KEY in found[name]:
            raise RefusedError(
                f"{path}: the offline root's key must not be in the trust tree, nor in a backup",
                hint="move it to a medium that you lock away",
            )
    return found


def _optional(files: Mapping[str, Path]) -> dict[str, bytes]:
    read = ((name, _read(path)) for name, path in files.items() if tar.NAME.fullmatch(name))
    return {name: data for name, data in read if data is not None}


def _needed(path: Path) -> bytes:
    data = _read(path)
    if data is None:
        raise HostError(f"{path}: not here", hint="run this on an installed Primer")
    return data


def _read(path: Path) -> bytes | None:
    """Read a small regular file; None if there is none.

    Follows no link: the join service writes some of them, and must not choose what root reads.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise RefusedError(f"{path}: is a link", hint=LOOK) from error
        raise
    with os.fdopen(handle, "rb") as stream:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_size > SMALL:
            raise RefusedError(
                f"{path}: not a file of at most {log.size(SMALL)}",
                hint=LOOK,
            )
        return stream.read(SMALL)


@dataclass(frozen=True)
class Sealed:
    """A sealed backup. size: bytes. sha256: of the sealed file."""

    manifest: Manifest
    file: Path
    size: int
    sha256: str


class _Hashing:
    def __init__(self, sink: FileIO) -> None:
        self._sink, self.digest, self.size = sink, hashlib.sha256(), 0

    def write(self, data: bytes, /) -> int:
        write_all(self._sink, data)
        self.digest.update(data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """Do nothing: the file has no buffer, and is synced at its end."""


def seal_to(folder: Path, content: Content, recipients: Sequence[str]) -> Sealed:
    """Write the sealed file into a folder under its name, whole or not at all."""
    from keystone.backup import seal  # noqa: PLC0415 slow to import, and most chores do not seal

    file = folder / content.manifest.file_name
    with replacing(file, folder / ".new.age", 0o600) as stream:
        sink = _Hashing(stream)
        seal.seal(content.stream(), sink, recipients)
    return Sealed(content.manifest, file, sink.size, sink.digest.hexdigest())
