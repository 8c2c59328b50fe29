"""The chain of roots in a folder of keys: which keys may sign, the threshold, and the expiry.

N.root.json are TUF root files, each signed by the threshold of the previous root and its own.
N.root.pending.json is the next root while its holders sign it; it is not used before it is whole,
which means that both thresholds are met.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keystone.bundle.trust import tuf_shape
from keystone.errors import ConfigurationError
from keystone.lockfile import only_one
from keystone.packager.keys import keyfile
from keystone.packager.keys.keyfile import NAME

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from datetime import datetime
    from pathlib import Path

    from tuf.api.metadata import Metadata, Root

RELEASE_ROLES = ("timestamp", "snapshot", "targets")


@dataclass(frozen=True)
class Holder:
    """One key of a root. signed: whether the root has a valid signature of it.

    role: root, release, or leaving. A leaving key is a root key of the previous root only; it can
    still sign this change.
    """

    keyid: str
    name: str
    role: str
    signed: bool


@dataclass(frozen=True)
class State:
    """A root and its signatures, to show to people.

    threshold: of root keys. missing_old, missing_new: how many valid signatures it still needs by
    the rules of the previous root and by its own. payload: SHA-256 of the signed content, in hex,
    for holders to compare out of band. fingerprint: of the file; it changes with every signature.
    """

    version: int
    expires: datetime
    threshold: int
    holders: tuple[Holder, ...]
    missing_old: int
    missing_new: int
    payload: str
    fingerprint: str

    @property
    def whole(self) -> bool:
        """Whether both thresholds are met: of the previous root's holders and of its own."""
        return self.missing_old == self.missing_new == 0


def locked(folder: Path) -> AbstractContextManager[None]:
    """Lock a folder of keys: hold this from the first read to the last write of a change.

    Two concurrent runs would overwrite each other's keys. Raises ConfigurationError without the
    folder.
    """
    require(folder)
    return only_one(folder / ".lock", f"the keys in {folder}")


def require(folder: Path) -> None:
    """Raise ConfigurationError when there is no such folder."""
    if not folder.is_dir():
        raise ConfigurationError(
            f"{folder}: no such folder",
            hint=f"create it: keystone-install bundle keys init --dir {folder}; or name another",
        )


def chain(folder: Path) -> dict[str, bytes]:
    """Return all whole roots by file name, oldest first: hosts that pinned one follow the chain.

    Raises ConfigurationError when there is none.
    """
    found: dict[str, bytes] = {}
    while (path := folder / f"{len(found) + 1}.root.json").exists():
        found[path.name] = path.read_bytes()
    if not found:
        raise ConfigurationError(
            f"{folder}: no 1.root.json: it has no keys, or its first root is not signed yet",
            hint=f"make keys: keystone-install bundle keys init --dir {folder}",
        )
    return found


def newest(folder: Path) -> Metadata[Root]:
    """Return the newest whole root of a folder."""
    name, data = list(chain(folder).items())[-1]
    return parse(name, data)


def pending(folder: Path) -> Path | None:
    """Return the file of the root that waits for signatures; None without one."""
    return next(iter(sorted(folder.glob("*.root.pending.json"))), None)


def read(path: Path) -> Metadata[Root]:
    """Read a root file, whole or pending. Raises ConfigurationError, UntrustedBundleError."""
    try:
        return parse(str(path), path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error


def parse(name: str, data: bytes) -> Metadata[Root]:
    """Parse a root. Raises UntrustedBundleError for a structure that a verifier would refuse."""
    from tuf.api.metadata import Metadata  # noqa: PLC0415 slow to import

    tuf_shape.check(name, "root", data)
    found: Metadata[Any] = Metadata.from_bytes(data)
    return found


def before(path: Path, root: Root) -> Root | None:
    """Return the root before the one in `path`, from the same folder; None for the first."""
    if root.version == 1:
        return None
    return read(path.with_name(f"{root.version - 1}.root.json")).signed


def state(metadata: Metadata[Root], previous: Root | None) -> State:
    """Describe a root and its missing signatures. previous: the root before it; None if first."""
    root, payload = metadata.signed, metadata.signed_bytes
    old = (previous or root).get_verification_result("root", payload, metadata.signatures)
    new = root.get_verification_result("root", payload, metadata.signatures)
    return State(
        version=root.version,
        expires=root.expires,
        threshold=root.roles["root"].threshold,
        holders=tuple(_holders(root, previous, new.signed.keys() | old.signed.keys())),
        missing_old=old.missing,
        missing_new=new.missing,
        payload=hashlib.sha256(payload).hexdigest(),
        fingerprint=hashlib.sha256(metadata.to_bytes()).hexdigest(),
    )


def describe(folder: Path) -> dict[str, Any]:
    """Describe a folder of keys as a JSON document: chain, pending root, private keys.

    fingerprint: of the first root, which operators type. daysLeft: until the newest root expires.
    """
    from datetime import UTC, datetime  # noqa: PLC0415 the only use

    found, previous = [], None
    waiting = pending(folder)
    if (folder / "1.root.json").exists() or waiting is None:
        for name, data in chain(folder).items():
            metadata = parse(name, data)
            found.append(state(metadata, previous))
            previous = metadata.signed
    left = (found[-1].expires - datetime.now(UTC)).days if found else None
    return {
        "fingerprint": found[0].fingerprint if found else None,
        "daysLeft": left,
        "roots": [as_document(one) for one in found],
        "pending": as_document(state(read(waiting), previous)) if waiting else None,
        "privateKeys": [
            {"file": key.path.name, "encrypted": key.encrypted} for key in keyfile.kept(folder)
        ],
    }


def as_document(found: State) -> dict[str, Any]:
    """Describe one root as a JSON document, for --json."""
    return {
        "version": found.version,
        "expires": found.expires.isoformat(),
        "threshold": found.threshold,
        "fingerprint": found.fingerprint if found.whole else None,
        "payload": found.payload,
        "missing": {"before": found.missing_old, "own": found.missing_new},
        "keys": [vars(holder) for holder in found.holders],
    }


def _holders(root: Root, previous: Root | None, signed: set[str]) -> Iterator[Holder]:
    own = root.roles["root"].keyids
    release = {keyid for role in RELEASE_ROLES for keyid in root.roles[role].keyids}
    leaving = set(previous.roles["root"].keyids) - set(own) if previous else set()
    for role, ids in (("root", own), ("leaving", sorted(leaving)), ("release", sorted(release))):
        for keyid in ids:
            key = root.keys.get(keyid) or (previous or root).keys[keyid]
            yield Holder(keyid, str(key.unrecognized_fields.get(NAME, "")), role, keyid in signed)
