"""The packager's keys: a root that vouches for a release key, and what the release key signs.

DIR/release.pem signs bundles; DIR/N.root.json is the chain of roots, and the SHA-256 of the first
is the fingerprint that operators type. Root keys are needed to change the root only and belong off
line, each with its own holder; `init` without holders makes one beside the release key.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from keystone import log
from keystone.bundle.format import CREATED
from keystone.bundle.trust.verify import fingerprint
from keystone.errors import ConfigurationError, RefusedError
from keystone.packager.keys import ceremony, keyfile, roots
from keystone.packager.keys.ceremony import NEXT, NEXT_PUBLIC, RELEASE, RELEASE_PUBLIC, SPEC_VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from securesystemslib.signer import CryptoSigner
    from tuf.api.metadata import Root, T

    from keystone.bundle.format import Target

ROOT = "root.pem"


def init(directory: Path, passphrase: str | None, now: datetime | None = None) -> str:
    """Make a root key, a release key and the first root; returns its fingerprint.

    Raises RefusedError when the directory has keys already: they are never overwritten.
    """
    with _made(directory):
        _begin(directory, passphrase)
        keyfile.ensure(directory / ROOT, passphrase)
        if (pending := roots.pending(directory)) is None:
            holder = directory / ROOT.replace(".pem", ".pub")
            pending = ceremony.propose(directory, _first(directory, [holder], 1), now)
        ceremony.sign(pending, directory / ROOT, passphrase)
        ceremony.collect(directory)
        return fingerprint((directory / "1.root.json").read_bytes())


def init_apart(
    directory: Path, holders: Sequence[Path], threshold: int, passphrase: str | None
) -> Path:
    """Make a release key and propose a first root whose keys are elsewhere; returns the proposal.

    holders: public keys, one of each holder. threshold: how many of them a root needs.
    """
    with _made(directory):
        if (waiting := roots.pending(directory)) is not None:
            raise RefusedError(
                f"{waiting}: a first root waits for signatures already",
                hint="collect them, or remove the file to begin anew",
            )
        _begin(directory, passphrase)
        return ceremony.propose(directory, _first(directory, holders, threshold))


def _made(directory: Path) -> AbstractContextManager[None]:
    """Make the folder and hold it (roots.turn)."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return roots.turn(directory)


def _begin(directory: Path, passphrase: str | None) -> None:
    """A release key and no root yet; what a run that was cut left is used."""
    if (directory / "1.root.json").exists():
        raise RefusedError(f"{directory}: there are keys here already", hint="choose another --dir")
    directory.chmod(0o700)
    keyfile.ensure(directory / RELEASE, passphrase)


def _first(directory: Path, holders: Sequence[Path], threshold: int) -> ceremony.Change:
    return ceremony.Change(
        add_root=holders, add_release=[directory / RELEASE_PUBLIC], threshold=threshold
    )


def new_release_key(directory: Path, passphrase: str | None) -> tuple[Path, list[str]]:
    """Make the next release key; returns its public file and the ids of those it replaces.

    The one in use stays until the root that names the new one is signed: call this and what
    follows within one roots.turn.
    Raises RefusedError while another root waits for signatures.
    """
    if (waiting := roots.pending(directory)) is not None:
        raise RefusedError(
            f"{waiting}: a root is waiting for signatures already",
            hint="collect its signatures, or remove the file to begin anew",
        )
    ceremony.settle(directory)
    for left in (NEXT, NEXT_PUBLIC):
        (directory / left).unlink(missing_ok=True)
    keyfile.generate(directory / NEXT, passphrase)
    old = roots.newest(directory).signed.roles["targets"].keyids
    return directory / NEXT_PUBLIC, list(old)


def sign(
    directory: Path,
    targets: Mapping[str, Target],
    *,
    number: int,
    created: datetime,
    valid_days: int,
    passphrase: str | None,
) -> dict[str, bytes]:
    """The TUF files of a bundle in their order inside it. Same input, same bytes (RFC 8032).

    number: the bundle's own, which becomes the version of all three roles.
    Raises ConfigurationError when the newest root does not name the release key, or has expired.
    """
    from tuf.api.metadata import (  # noqa: PLC0415 slow to import
        MetaFile,
        Snapshot,
        TargetFile,
        Targets,
        Timestamp,
    )

    carried = roots.chain(directory)
    expires = created.astimezone(UTC) + timedelta(days=valid_days)
    root = roots.parse(*list(carried.items())[-1]).signed  # a rotation may go on meanwhile
    _require_valid(root, created, expires)
    signer = _release_key(directory, root, passphrase)
    signed = Targets(number, SPEC_VERSION, expires)
    signed.unrecognized_fields[CREATED] = created.isoformat()
    signed.targets = {
        name: TargetFile(target.size, {"sha256": target.digest.hex}, name)
        for name, target in targets.items()
    }
    targets_data = _signed(signed, signer)
    snapshot = Snapshot(number, SPEC_VERSION, expires)
    snapshot.meta["targets.json"] = MetaFile.from_data(number, targets_data, ["sha256"])
    snapshot_data = _signed(snapshot, signer)
    timestamp = Timestamp(number, SPEC_VERSION, expires)
    timestamp.unrecognized_fields[CREATED] = created.isoformat()
    timestamp.snapshot_meta = MetaFile.from_data(number, snapshot_data, ["sha256"])
    return {
        **carried,
        "timestamp.json": _signed(timestamp, signer),
        "snapshot.json": snapshot_data,
        "targets.json": targets_data,
    }


def _require_valid(root: Root, created: datetime, expires: datetime) -> None:
    """By the lock's own time, so that equal locks give equal answers."""
    if root.expires <= created:
        raise ConfigurationError(
            f"root {root.version} expired on {root.expires.date()}: hosts would refuse the bundle",
            hint="renew it: keystone-install bundle keys rotate",
        )
    if root.expires < expires:
        log.warn(
            f"root {root.version} expires on {root.expires.date()}, before the bundle does "
            f"({expires.date()}): hosts refuse it from then on; renew the root in time"
        )


def _release_key(directory: Path, root: Root, passphrase: str | None) -> CryptoSigner:
    """The key that the newest root names. A run that was cut may have left it as the next one."""
    ids = root.roles["targets"].keyids
    for name in (RELEASE, NEXT):
        if name == NEXT and not (directory / NEXT).exists():
            break
        signer = keyfile.load(directory / name, passphrase)
        if signer.public_key.keyid in ids:
            return signer
    raise ConfigurationError(
        f"{directory / RELEASE}: root {root.version} does not name this key: it was withdrawn",
        hint="sign with the release key that `keystone-install bundle keys show` lists",
    )


def _signed(signed: T, signer: CryptoSigner) -> bytes:
    from tuf.api.metadata import Metadata  # noqa: PLC0415 slow to import

    metadata = Metadata(signed)
    metadata.sign(signer)
    return metadata.to_bytes()
