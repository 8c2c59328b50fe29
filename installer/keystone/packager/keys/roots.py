"""The chain of roots in a folder of keys: who may sign, how many of them must, and until when.

N.root.json are TUF root files, each signed by the threshold of the one before and its own.
N.root.pending.json is the next one while its holders sign it; it never counts before it is whole.
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
    """One key of a root. signed: whether its signature is there and good.

    role: root, release, or leaving: it was a root key before and may still sign this one change.
    """

    keyid: str
    name: str
    role: str
    signed: bool


@dataclass(frozen=True)
class State:
    """A root for people.

    threshold: of root keys. missing_old, missing_new: good signatures that it still needs by the
    rules of the root before and by its own. payload: SHA-256 of what is signed, in hex, for
    comparing by telephone. fingerprint: of the file; it changes with every signature.
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
        """Whether old and new holders have signed."""
        return self.missing_old == self.missing_new == 0


def turn(folder: Path) -> AbstractContextManager[None]:
    """Hold this while a folder of keys is changed, from the first look to the last file.

    Two at once would take each other's keys. Raises ConfigurationError without it.
    """
    require(folder)
    return only_one(folder / ".lock", f"the keys in {folder}")


def require(folder: Path) -> None:
    """Raises ConfigurationError when there is no such folder."""
    if not folder.is_dir():
        raise ConfigurationError(
            f"{folder}: no such folder",
            hint=f"make it (keystone-install bundle keys init --dir {folder}), or name another",
        )


def chain(folder: Path) -> dict[str, bytes]:
    """All whole roots by file name, oldest first: hosts that pinned an old one follow them.

    Raises ConfigurationError when there is none.
    """
    found: dict[str, bytes] = {}
    while (path := folder / f"{len(found) + 1}.root.json").exists():
        found[path.name] = path.read_bytes()
    if not found:
        raise ConfigurationError(
            f"{folder}: no 1.root.json: no keys here, or a root that is not signed yet",
            hint=f"make them: keystone-install bundle keys init --dir {folder}",
        )
    return found


def newest(folder: Path) -> Metadata[Root]:
    """The newest whole root of a folder."""
    name, data = list(chain(folder).items())[-1]
    return parse(name, data)


def pending(folder: Path) -> Path | None:
    """The root that waits for signatures, if any."""
    return next(iter(sorted(folder.glob("*.root.pending.json"))), None)


def read(path: Path) -> Metadata[Root]:
    """A root file, whole or pending. Raises ConfigurationError."""
    try:
        return parse(str(path), path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error


def parse(name: str, data: bytes) -> Metadata[Root]:
    """Raises UntrustedBundleError for anything that a verifier would refuse by its shape."""
    from tuf.api.metadata import Metadata  # noqa: PLC0415 slow to import

    tuf_shape.check(name, "root", data)
    found: Metadata[Any] = Metadata.from_bytes(data)
    return found


def before(path: Path, root: Root) -> Root | None:
    """The root before the one in `path`, from the same folder; None for the first."""
    if root.version == 1:
        return None
    return read(path.with_name(f"{root.version - 1}.root.json")).signed


def state(metadata: Metadata[Root], previous: Root | None) -> State:
    """What is said and what is missing. previous: the root before; itself for the first."""
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
    """A folder of keys as a JSON document: the chain, what is pending, which private keys lie here.

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
    """One root for --json."""
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
