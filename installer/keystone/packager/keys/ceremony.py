"""Change the root: propose it, let holders sign it, collect the signatures (TUF 6.1).

The packager proposes a root in the folder of keys. Each holder signs a copy of the proposal on
their own machine, which needs no network. The packager collects the signatures. The root gets its
final name only when the thresholds of the previous root's holders and of its own are both met.
Callers hold the folder's lock (`roots.locked`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from keystone import files
from keystone.bundle.format import MAX_ROOTS
from keystone.bundle.trust.tuf_shape import MAX_KEYS
from keystone.errors import ConfigurationError, RefusedError
from keystone.files import sync_directory, write_file
from keystone.packager.keys import keyfile, roots

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from securesystemslib.signer import Key
    from tuf.api.metadata import Metadata, Root

ROOT_YEARS = 5
SPEC_VERSION = "1.0.33"
RELEASE, NEXT = "release.pem", "release.next.pem"
RELEASE_PUBLIC, NEXT_PUBLIC = "release.pub", "release.next.pub"
SHORTEST = 8
"""Minimum number of hex digits that identify a key: fewer could match several."""


@dataclass(frozen=True)
class Change:
    """The changes in the next root. Without any, it is a renewal with a later expiry.

    add_root, add_release: public key files. revoke: ids of keys, or their first 8 digits or more,
    or their names. threshold: of root keys; None keeps it. years: how long the root is valid.
    """

    add_root: Sequence[Path] = ()
    add_release: Sequence[Path] = ()
    revoke: Sequence[str] = ()
    threshold: int | None = None
    years: int = ROOT_YEARS


def propose(folder: Path, change: Change, now: datetime | None = None) -> Path:
    """Write N.root.pending.json without signatures. Returns its path.

    Raises RefusedError when another proposal is pending, ConfigurationError for a root whose roles
    can never reach their thresholds (threshold above the number of keys, no release key).
    """
    if (waiting := roots.pending(folder)) is not None:
        raise RefusedError(
            f"{waiting}: another root is already waiting for signatures",
            hint="collect its signatures, or remove the file to start again",
        )
    from tuf.api.metadata import Metadata  # noqa: PLC0415 slow to import

    settle(folder)
    root = _next(folder)
    now = (now or datetime.now(UTC)).replace(microsecond=0)
    root.expires = now + timedelta(days=365 * change.years)
    for word in change.revoke:
        _revoke(root, word)
    for path in change.add_root:
        _add(root, keyfile.load_public(path), ("root",))
    for path in change.add_release:
        name = f"release-{root.version}" if path == folder / NEXT_PUBLIC else ""
        _add(root, keyfile.load_public(path, name), roots.RELEASE_ROLES)
    if change.threshold is not None:
        root.roles["root"].threshold = change.threshold
    _require_possible(root)
    path = folder / f"{root.version}.root.pending.json"
    write_file(path, Metadata(root).to_bytes())
    return path


def sign(path: Path, key: Path, passphrase: str | None) -> roots.State:
    """Add one holder's signature to a proposal. Signing again changes nothing.

    A holder whom this root removes can sign too, if the previous root's file is beside `path`.
    Raises RefusedError for a key that is neither in this root nor in the previous one.
    """
    metadata = roots.read(path)
    signer = keyfile.load(key, passphrase)
    own, keyid = metadata.signed.roles["root"].keyids, signer.public_key.keyid
    previous = path.with_name(f"{metadata.signed.version - 1}.root.json")
    earlier = roots.read(previous).signed if previous.exists() else None
    if keyid not in own and (earlier is None or keyid not in earlier.roles["root"].keyids):
        raise RefusedError(
            f"{key}: key {keyid[:16]} is not a root key of {path.name}, nor of {previous.name}",
            hint=f"use a root key; a holder who is removed needs {previous.name} beside this file",
        )
    metadata.sign(signer, append=True)
    write_file(path, metadata.to_bytes())
    return roots.state(metadata, earlier)


def collect(folder: Path, copies: Iterable[Path] = ()) -> roots.State:
    """Collect signatures; when there are enough, give the root its final name.

    copies: signed copies of the folder's proposal, returned by holders. Raises RefusedError when a
    file is not a copy of the proposal.
    """
    path = roots.pending(folder)
    if path is None:
        raise ConfigurationError(
            f"{folder}: no root is waiting for signatures",
            hint="propose one: keystone-install bundle keys rotate",
        )
    metadata = roots.read(path)
    for copy in copies:
        other = roots.read(copy)
        if other.signed_bytes != metadata.signed_bytes:
            raise RefusedError(
                f"{copy}: not a copy of {path}: its signed content differs",
                hint="run `bundle keys show` for both: they must have the same payload",
            )
        metadata.signatures.update(other.signatures)
    previous = roots.before(path, metadata.signed)
    _drop_bad(metadata, previous)
    state = roots.state(metadata, previous)
    if state.whole:
        write_file(folder / f"{state.version}.root.json", metadata.to_bytes())
        path.unlink()
        settle(folder)
        sync_directory(folder)
    else:
        write_file(path, metadata.to_bytes())
    return state


def _next(folder: Path) -> Root:
    """Return the root to change: the newest with the next version, or an empty first one."""
    from tuf.api.metadata import Root  # noqa: PLC0415 slow to import

    if not (folder / "1.root.json").exists():
        return Root(version=1, spec_version=SPEC_VERSION, consistent_snapshot=False)
    root = roots.newest(folder).signed
    if root.version >= MAX_ROOTS:
        raise RefusedError(
            f"{folder}: has {root.version} roots, and hosts follow at most {MAX_ROOTS}",
            hint="start a new chain in another folder; hosts must pin its new fingerprint",
        )
    root.version += 1
    return root


def _add(root: Root, key: Key, roles: Iterable[str]) -> None:
    if key.keyid in root.keys:
        raise ConfigurationError(f"key {key.keyid[:16]} is already in the root")
    for role in roles:
        root.add_key(key, role)


def _revoke(root: Root, word: str) -> None:
    found = [
        keyid
        for keyid, key in root.keys.items()
        if (len(word) >= SHORTEST and keyid.startswith(word.lower()))
        or key.unrecognized_fields.get(keyfile.NAME) == word
    ]
    if len(found) != 1:
        raise ConfigurationError(
            f"{word!r} matches {len(found)} keys of the root instead of 1",
            hint="list their ids: keystone-install bundle keys show",
        )
    for name, role in root.roles.items():
        if found[0] in role.keyids:
            root.revoke_key(found[0], name)


def _require_possible(root: Root) -> None:
    for name, role in root.roles.items():
        if not 1 <= role.threshold <= len(role.keyids) or len(role.keyids) > MAX_KEYS:
            raise ConfigurationError(
                f"role {name}: threshold {role.threshold} of {len(role.keyids)} keys is impossible "
                f"(at least 1, at most the number of keys; at most {MAX_KEYS} keys)",
                hint="add keys, or give another --threshold",
            )
    shared = set(root.roles["root"].keyids) & set(root.roles["targets"].keyids)
    if shared:
        raise ConfigurationError(
            "the same key is a root key and the release key",
            hint="use different keys: the release key must not be able to change the root",
        )


def _drop_bad(metadata: Metadata[Root], previous: Root | None) -> None:
    """Remove invalid signatures: verifiers limit how many signatures they read."""
    payload, signatures = metadata.signed_bytes, metadata.signatures
    good: set[str] = set()
    for root in filter(None, (previous, metadata.signed)):
        good |= root.get_verification_result("root", payload, signatures).signed.keys()
    for keyid in signatures.keys() - good:
        del signatures[keyid]


def settle(folder: Path) -> None:
    """Replace the release key by the next one, if the newest root names that."""
    following = folder / NEXT_PUBLIC
    if not following.exists() or not (folder / "1.root.json").exists():
        return
    if keyfile.load_public(following).keyid in roots.newest(folder).signed.roles["targets"].keyids:
        files.settle(folder / NEXT, folder / RELEASE, synced=True)
        files.settle(following, folder / RELEASE_PUBLIC, synced=True)
