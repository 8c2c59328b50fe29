"""Changing the root: propose, sign apart, collect (TUF 6.1).

A root is proposed in the release folder, its holders sign copies of the proposal each on their own
machine, which may have no network at all, and the signatures are collected. Only when enough of the
holders before and enough of the new ones have signed does the root get its final name.
Who calls these holds the folder (roots.turn).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

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
"""Hex digits that name a key: fewer could be any."""


@dataclass(frozen=True)
class Change:
    """What the next root says otherwise. Without anything it is a renewal: a later expiry.

    add_root, add_release: public key files. revoke: ids of keys, or their first 8 digits or more,
    or their names. threshold: of root keys. years: how long the root is valid.
    """

    add_root: Sequence[Path] = ()
    add_release: Sequence[Path] = ()
    revoke: Sequence[str] = ()
    threshold: int | None = None
    years: int = ROOT_YEARS


def propose(folder: Path, change: Change, now: datetime | None = None) -> Path:
    """Write N.root.pending.json, signed by nobody. Returns its path.

    Raises RefusedError when another proposal waits, ConfigurationError for one that nobody could
    ever sign (threshold above the number of keys, no release key).
    """
    if (waiting := roots.pending(folder)) is not None:
        raise RefusedError(
            f"{waiting}: a root is waiting for signatures already",
            hint="collect its signatures, or remove the file to begin anew",
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

    A holder who leaves with this root signs too: then the root before must lie beside it.
    Raises RefusedError for a key that is neither in this root nor in the one before.
    """
    metadata = roots.read(path)
    signer = keyfile.load(key, passphrase)
    own, keyid = metadata.signed.roles["root"].keyids, signer.public_key.keyid
    previous = path.with_name(f"{metadata.signed.version - 1}.root.json")
    earlier = roots.read(previous).signed if previous.exists() else None
    if keyid not in own and (earlier is None or keyid not in earlier.roles["root"].keyids):
        raise RefusedError(
            f"{key}: key {keyid[:16]} is no root key of {path.name}, nor of {previous.name}",
            hint="take the right key; a holder who leaves needs the root before, beside this one",
        )
    metadata.sign(signer, append=True)
    write_file(path, metadata.to_bytes())
    return roots.state(metadata, earlier)


def collect(folder: Path, copies: Iterable[Path] = ()) -> roots.State:
    """Bring signatures together; when there are enough, the root gets its final name.

    copies: of the folder's proposal, as they came back from their holders. Raises RefusedError
    when one is not a copy of it.
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
                f"{copy}: not a copy of {path}: something else was signed",
                hint="compare `keys show` of both: their payload must be the same",
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
    """The root to change: the newest with the next version, or an empty first one."""
    from tuf.api.metadata import Root  # noqa: PLC0415 slow to import

    if not (folder / "1.root.json").exists():
        return Root(version=1, spec_version=SPEC_VERSION, consistent_snapshot=False)
    root = roots.newest(folder).signed
    if root.version >= MAX_ROOTS:
        raise RefusedError(
            f"{folder}: {root.version} roots, and no host follows more than {MAX_ROOTS}",
            hint="begin a new chain in another folder; hosts must pin its fingerprint anew",
        )
    root.version += 1
    return root


def _add(root: Root, key: Key, roles: Iterable[str]) -> None:
    if key.keyid in root.keys:
        raise ConfigurationError(f"key {key.keyid[:16]} is in the root already")
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
            f"{word!r} names {len(found)} keys of the root, not one",
            hint="`keystone-install bundle keys show` lists their ids",
        )
    for name, role in root.roles.items():
        if found[0] in role.keyids:
            root.revoke_key(found[0], name)


def _require_possible(root: Root) -> None:
    for name, role in root.roles.items():
        if not 1 <= role.threshold <= len(role.keyids) or len(role.keyids) > MAX_KEYS:
            raise ConfigurationError(
                f"role {name}: threshold {role.threshold} of {len(role.keyids)} keys "
                f"(at least 1, at most as many as there are keys, at most {MAX_KEYS} keys)",
                hint="add keys, or give another --threshold",
            )
    shared = set(root.roles["root"].keyids) & set(root.roles["targets"].keyids)
    if shared:
        raise ConfigurationError("one key is root key and release key: keep them apart")


def _drop_bad(metadata: Metadata[Root], previous: Root | None) -> None:
    """Keep only signatures that count: a verifier reads a limited number of them."""
    payload, signatures = metadata.signed_bytes, metadata.signatures
    good: set[str] = set()
    for root in filter(None, (previous, metadata.signed)):
        good |= root.get_verification_result("root", payload, signatures).signed.keys()
    for keyid in signatures.keys() - good:
        del signatures[keyid]


def settle(folder: Path) -> None:
    """Let the next release key take the place of the old one, once the newest root names it."""
    following = folder / NEXT_PUBLIC
    if not following.exists() or not (folder / "1.root.json").exists():
        return
    if keyfile.load_public(following).keyid in roots.newest(folder).signed.roles["targets"].keyids:
        (folder / NEXT).replace(folder / RELEASE)
        following.replace(folder / RELEASE_PUBLIC)
