"""The packager's keys: make root and release keys, and sign bundles with the release key.

DIR/release.pem signs bundles. DIR/N.root.json is the chain of roots; the SHA-256 of the first is
the fingerprint that operators type. Root keys are needed only to change the root and belong
offline, each with its own holder; `init` without holders makes one beside the release key.
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
    """Make a root key, a release key and the first root; return the root's fingerprint.

    Raises RefusedError when the directory has keys already: it never overwrites them.
    """
    with _created(directory):
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
    """Make a release key and propose a first root, whose private keys are elsewhere.

    holders: public key files, one of each holder. threshold: how many of them must sign. Returns
    the proposal's path. Raises RefusedError when the directory has keys or a proposal already.
    """
    with _created(directory):
        if (waiting := roots.pending(directory)) is not None:
            raise RefusedError(
                f"{waiting}: a first root is already waiting for signatures",
                hint="collect its signatures, or remove the file to start again",
            )
        _begin(directory, passphrase)
        return ceremony.propose(directory, _first(directory, holders, threshold))


def _created(directory: Path) -> AbstractContextManager[None]:
    """Create the folder and lock it (`roots.locked`)."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return roots.locked(directory)


def _begin(directory: Path, passphrase: str | None) -> None:
    """Make the release key, unless an interrupted run made it. Raises RefusedError with a root."""
    if (directory / "1.root.json").exists():
        raise RefusedError(f"{directory}: has keys already", hint="choose another --dir")
    directory.chmod(0o700)
    keyfile.ensure(directory / RELEASE, passphrase)


def _first(directory: Path, holders: Sequence[Path], threshold: int) -> ceremony.Change:
    return ceremony.Change(
        add_root=holders, add_release=[directory / RELEASE_PUBLIC], threshold=threshold
    )


def new_release_key(directory: Path, passphrase: str | None) -> tuple[Path, list[str]]:
    """Make the next release key; return its public key file and the ids of the keys it replaces.

    The current key stays in use until the root that names the new one is signed. Hold
    `roots.locked` from this call until that root is proposed. Raises RefusedError while another
    root is pending.
    """
    if (waiting := roots.pending(directory)) is not None:
        raise RefusedError(
            f"{waiting}: another root is already waiting for signatures",
            hint="collect its signatures, or remove the file to start again",
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
    """Return the TUF files of a bundle, in their order in it. Same input, same bytes (RFC 8032).

    targets: the bundle's members by name. number: the bundle's, and the version of all three roles.
    created, valid_days: of the lock; they give the expiry. Raises ConfigurationError when the
    newest root does not name the release key, or has expired.
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
    # The newest of `carried`, not of the folder: a rotation may add a root at the same time.
    root = roots.parse(*list(carried.items())[-1]).signed
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
    """Check the root's expiry against the lock's time, so that equal locks give equal results."""
    if root.expires <= created:
        raise ConfigurationError(
            f"root {root.version} expired on {root.expires.date()}: hosts would refuse the bundle",
            hint="renew the root: keystone-install bundle keys rotate",
        )
    if root.expires < expires:
        log.warn(
            f"root {root.version} expires on {root.expires.date()}, before the bundle "
            f"({expires.date()}): hosts refuse the bundle from then on; renew the root before that"
        )


def _release_key(directory: Path, root: Root, passphrase: str | None) -> CryptoSigner:
    """Load the key that the newest root names: after an interrupted rotation, that is NEXT."""
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
