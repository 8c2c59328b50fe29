"""The packager's keys: a root that vouches for a release key, and what the release key signs.

DIR/root.pem and DIR/release.pem hold Ed25519 private keys (PKCS#8, encrypted when a passphrase is
given); DIR/1.root.json is the signed root, whose SHA-256 is the fingerprint that operators type.
root.pem is needed for rotation only and belongs off line.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from keystone.bundle.disk import write_file
from keystone.bundle.reader import Target
from keystone.bundle.trust import CREATED, fingerprint
from keystone.errors import ConfigurationError, RefusedError

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner
    from tuf.api.metadata import Signed

ROOT_YEARS = 5
SPEC_VERSION = "1.0.33"


def init(directory: Path, passphrase: str | None, now: datetime | None = None) -> str:
    """Make the keys and the first root; returns its fingerprint.

    Raises RefusedError when the directory has keys already: they are never overwritten.
    """
    from securesystemslib.signer import CryptoSigner  # noqa: PLC0415 slow to import
    from tuf.api.metadata import Metadata, Root  # noqa: PLC0415

    root_file = directory / "1.root.json"
    if root_file.exists():
        raise RefusedError(
            f"{root_file}: there are keys here already", hint="choose another --dir"
        )
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    now = (now or datetime.now(UTC)).replace(microsecond=0)
    signers = {name: CryptoSigner.generate_ed25519() for name in ("root", "release")}
    root = Root(
        version=1,
        spec_version=SPEC_VERSION,
        expires=now + timedelta(days=365 * ROOT_YEARS),
        consistent_snapshot=False,
    )
    root.add_key(signers["root"].public_key, "root")
    for role in ("timestamp", "snapshot", "targets"):
        root.add_key(signers["release"].public_key, role)
    metadata = Metadata(root)
    metadata.sign(signers["root"])
    for name, signer in signers.items():
        write_file(directory / f"{name}.pem", _pem(signer, passphrase), 0o600)
    data = metadata.to_bytes()
    write_file(root_file, data)
    return fingerprint(data)


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
    """
    from tuf.api.metadata import (  # noqa: PLC0415 slow to import
        MetaFile,
        Snapshot,
        TargetFile,
        Targets,
        Timestamp,
    )

    signer = _release_key(directory, passphrase)
    expires = created + timedelta(days=valid_days)
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
        **_roots(directory),
        "timestamp.json": _signed(timestamp, signer),
        "snapshot.json": snapshot_data,
        "targets.json": targets_data,
    }


def _roots(directory: Path) -> dict[str, bytes]:
    """All roots, oldest first: hosts that pinned an old one follow the chain."""
    found: dict[str, bytes] = {}
    while (path := directory / f"{len(found) + 1}.root.json").exists():
        found[path.name] = path.read_bytes()
    if not found:
        raise ConfigurationError(
            f"{directory}: no 1.root.json: no keys here",
            hint=f"make them: keystone-install bundle keys init --dir {directory}",
        )
    return found


def _signed(signed: Signed, signer: CryptoSigner) -> bytes:
    from tuf.api.metadata import Metadata  # noqa: PLC0415 slow to import

    metadata = Metadata(signed)
    metadata.sign(signer)
    return metadata.to_bytes()


def _pem(signer: CryptoSigner, passphrase: str | None) -> bytes:
    if not passphrase:
        return signer.private_bytes
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 slow to import

    key = serialization.load_pem_private_key(signer.private_bytes, None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase.encode()),
    )


def _release_key(directory: Path, passphrase: str | None) -> CryptoSigner:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 slow to import
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
        Ed25519PrivateKey,
    )
    from securesystemslib.signer import CryptoSigner  # noqa: PLC0415

    path = directory / "release.pem"
    try:
        key = serialization.load_pem_private_key(
            path.read_bytes(), passphrase.encode() if passphrase else None
        )
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{path}: no release key",
            hint=f"make keys: keystone-install bundle keys init --dir {directory}",
        ) from error
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{path}: cannot be opened: {error}", hint="give its passphrase: --passphrase-file"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"{path}: not an Ed25519 key")
    return CryptoSigner(key)
