"""Who signed this, and may we believe it now: TUF by python-tuf, with no network.

A bundle carries every root since the first, then timestamp, snapshot and targets (TUF 1.0.33).
A host trusts a root that it pinned: at first use by the fingerprint that a person typed or
confirmed (SHA-256 of the root's file), later by the chain of rotations from that one.
Expiry is judged by the latest of build floor, newest signed time seen and system clock, so a
machine whose battery died does not accept what has expired. Nothing is "verified if possible".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from keystone.bundle.disk import write_file
from keystone.bundle.model import Digest
from keystone.bundle.reader import Target
from keystone.errors import UntrustedBundleError

if TYPE_CHECKING:
    from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

TRUST = Path("/var/lib/keystone/trust")
"""Where a host keeps its pinned root (root.json) and what it last accepted (accepted.json)."""
BUILD_FLOOR = datetime(2026, 11, 1, tzinfo=UTC)
"""This code was written after that moment: no honest clock is before it."""
CREATED = "x-keystone-created"
"""A signed field of timestamp.json and targets.json: when the content was locked, ISO 8601."""
ASK = "ask whoever guards the bundle's keys"


@dataclass(frozen=True)
class Accepted:
    """The newest bundle a host accepted: older ones are a rollback."""

    number: int
    created: datetime
    digest: str


@dataclass(frozen=True)
class Pin:
    """What the caller trusts beforehand. Without root and fingerprint, `confirm` is asked.

    root: bytes of the pinned root; fingerprint: 64 hex digits; confirm: gets the fingerprint of
    the newest root inside and says whether a person vouches for it.
    """

    root: bytes | None = None
    fingerprint: str | None = None
    confirm: Callable[[str], bool] | None = None
    accepted: Accepted | None = None


@dataclass(frozen=True)
class Verified:
    """Metadata whose signatures, chain, expiry and version hold.

    root: the newest root's bytes, to be pinned. digest: of targets.json; it names the bundle.
    """

    targets: Mapping[str, Target]
    root: bytes
    digest: Digest
    number: int
    created: datetime

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the newest root's file, in hex."""
        return fingerprint(self.root)


def fingerprint(root: bytes) -> str:
    """How a person names a root: the SHA-256 of its file, in hex."""
    return hashlib.sha256(root).hexdigest()


def verify(files: Mapping[str, bytes], pin: Pin, clock: datetime | None = None) -> Verified:
    """Follow the TUF client workflow (5.3 to 5.6) over the files that a bundle carries.

    Raises UntrustedBundleError; its message says which file and why.
    """
    from tuf.api.exceptions import RepositoryError  # noqa: PLC0415 slow to import
    from tuf.ngclient._internal.trusted_metadata_set import (  # noqa: PLC0415
        TrustedMetadataSet,
    )
    from tuf.ngclient.config import EnvelopeType  # noqa: PLC0415

    roots = [data for name, data in files.items() if name.endswith(".root.json")]
    start, later = _anchor(roots, pin)
    name = "root.json"
    try:
        trusted = TrustedMetadataSet(start, EnvelopeType.METADATA)
        newest = start
        for data in later:
            trusted.update_root(data)
            newest = data
        seen = [pin.accepted.created] if pin.accepted else []
        trusted.reference_time = max(BUILD_FLOOR, clock or datetime.now(UTC), *seen)
        name = "timestamp.json"
        timestamp = trusted.update_timestamp(files[name])
        created = _created(timestamp.unrecognized_fields)
        trusted.reference_time = max(trusted.reference_time, created)
        name = "snapshot.json"
        trusted.update_snapshot(files[name])
        name = "targets.json"
        targets = trusted.update_targets(files[name])
    except RepositoryError as error:
        raise _refusal(name, error, trusted_time=clock) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UntrustedBundleError(f"{name}: not TUF metadata ({error})", hint=ASK) from error
    verified = Verified(
        targets=_targets(trusted),
        root=newest,
        digest=Digest(hashlib.sha256(files["targets.json"]).hexdigest()),
        number=targets.version,
        created=created,
    )
    _no_rollback(verified, pin.accepted)
    return verified


def _anchor(roots: list[bytes], pin: Pin) -> tuple[bytes, list[bytes]]:
    """The root to start from, and the carried ones that may follow it."""
    if not roots:
        raise UntrustedBundleError("the bundle carries no root: it is not signed", hint=ASK)
    prints = [fingerprint(root) for root in roots]
    wanted = (pin.fingerprint or "").replace(":", "").strip().lower()
    if pin.root is not None:
        return _from_pinned(roots, pin.root, wanted, prints)
    if wanted:
        if wanted not in prints:
            raise UntrustedBundleError(
                f"the bundle is signed under root {prints[-1]}, not under {wanted}",
                hint="compare the fingerprint with the one that the packager gave you",
            )
        at = prints.index(wanted)
        return roots[at], roots[at + 1 :]
    if pin.confirm is None or not pin.confirm(prints[-1]):
        raise UntrustedBundleError(
            f"nothing vouches for the bundle's root {prints[-1]}",
            hint="give the fingerprint that you got from the packager: --root-fingerprint SHA256",
        )
    return roots[-1], []


def _from_pinned(
    roots: list[bytes], pinned: bytes, wanted: str, prints: list[str]
) -> tuple[bytes, list[bytes]]:
    known = fingerprint(pinned)
    version = _root_version(pinned)
    carried = {_root_version(root): root for root in roots}
    if carried.get(version, pinned) != pinned or min(carried) > version + 1:
        raise UntrustedBundleError(
            f"the bundle is signed under another root: {prints[-1]}; this host pinned {known}",
            hint=f"{ASK}; a host changes its root by a signed rotation only",
        )
    if wanted and wanted != known and wanted not in prints:
        raise UntrustedBundleError(f"this host pinned root {known}, not {wanted}", hint=ASK)
    return pinned, [carried[number] for number in sorted(carried) if number > version]


def _root_version(data: bytes) -> int:
    try:
        version = json.loads(data)["signed"]["version"]
        if not isinstance(version, int):
            raise TypeError(f"version {version!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UntrustedBundleError(f"root.json: not TUF metadata ({error})", hint=ASK) from error
    return version


def _created(fields: Mapping[str, object]) -> datetime:
    created = datetime.fromisoformat(str(fields[CREATED]))
    if created.tzinfo is None:
        raise ValueError(f"{CREATED}: no time zone")
    return created


def _targets(trusted: TrustedMetadataSet) -> dict[str, Target]:
    try:
        return {
            name: Target(entry.length, Digest(entry.hashes["sha256"]))
            for name, entry in trusted.targets.targets.items()
        }
    except (KeyError, ValueError) as error:
        raise UntrustedBundleError(f"targets.json: no SHA-256 ({error})", hint=ASK) from error


def _refusal(name: str, error: Exception, trusted_time: datetime | None) -> UntrustedBundleError:
    from tuf.api.exceptions import ExpiredMetadataError  # noqa: PLC0415

    if isinstance(error, ExpiredMetadataError):
        clock = (trusted_time or datetime.now(UTC)).isoformat(timespec="seconds")
        return UntrustedBundleError(
            f"{name}: expired ({error}; this machine's clock says {clock})",
            hint="get a newer bundle, or set the clock if it is ahead",
        )
    return UntrustedBundleError(f"{name}: not trusted: {error}", hint=ASK)


def _no_rollback(found: Verified, accepted: Accepted | None) -> None:
    if accepted is None:
        return
    if (found.number, found.created) < (accepted.number, accepted.created):
        raise UntrustedBundleError(
            f"bundle number {found.number} of {found.created.isoformat()} is older than "
            f"number {accepted.number} of {accepted.created.isoformat()}, which this host accepted",
            hint="use the newest bundle; going back is an attack or a mix-up of files",
        )


def host_pin(
    directory: Path = TRUST,
    *,
    fingerprint: str | None = None,
    confirm: Callable[[str], bool] | None = None,
) -> Pin:
    """What this host trusts: its pinned root and the newest bundle it accepted, if any."""
    root = directory / "root.json"
    accepted = directory / "accepted.json"
    return Pin(
        root=root.read_bytes() if root.exists() else None,
        fingerprint=fingerprint,
        confirm=confirm,
        accepted=_accepted(accepted) if accepted.exists() else None,
    )


def remember(verified: Verified, directory: Path = TRUST) -> None:
    """Pin the bundle's root on this host and refuse older bundles from now on."""
    directory.mkdir(parents=True, exist_ok=True)
    write_file(directory / "root.json", verified.root)
    document = {
        "number": verified.number,
        "created": verified.created.isoformat(),
        "digest": str(verified.digest),
    }
    write_file(
        directory / "accepted.json", (json.dumps(document, sort_keys=True) + "\n").encode()
    )


def _accepted(path: Path) -> Accepted:
    try:
        document = json.loads(path.read_bytes())
        return Accepted(
            int(document["number"]),
            datetime.fromisoformat(document["created"]),
            str(document["digest"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UntrustedBundleError(
            f"{path}: cannot be read ({error})",
            hint="restore it from another Primer: without it a rollback cannot be noticed",
        ) from error
