"""Verify a bundle's TUF metadata with python-tuf, without a network.

A bundle carries all roots since the first, then timestamp, snapshot and targets (TUF 1.0.33). A
host trusts the root that it pinned: on first use by a fingerprint (SHA-256 of the root's file) that
a person typed or confirmed, later by the chain of rotations from that root.
Expiry is judged by the latest of build floor, newest signed time and system clock, so a machine
with a dead battery does not accept expired metadata. Verification is never optional: only this
module creates a `Verified`, and a store can only be written with one.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import InitVar, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from keystone.bundle.format import CREATED, DELTA, MAX_ROOTS, Target
from keystone.bundle.formats import strict_json
from keystone.bundle.model import Digest
from keystone.bundle.trust import accepted as memory
from keystone.bundle.trust import tuf_shape
from keystone.bundle.trust.accepted import Accepted
from keystone.bundle.trust.build_floor import build_floor
from keystone.bundle.trust.tuf_shape import ASK
from keystone.errors import DamagedBundleError, UntrustedBundleError
from keystone.files import write_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tuf.api.metadata import Root
    from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

__all__ = ["Accepted", "Pin", "Verified", "fingerprint", "host_pin", "remember", "verify"]

TRUST = Path("/var/lib/keystone/trust")
"""Folder of a host's pinned root (root.json) and last accepted bundle (accepted.json)."""
CONTENT = ("timestamp", "snapshot", "targets")
_SEAL = object()


@dataclass(frozen=True)
class Pin:
    """The root that the caller trusts. Without root and fingerprint, `confirm` is called.

    root: bytes of the pinned root. fingerprint: 64 hex digits. confirm: gets the fingerprint of the
    newest root in the bundle and returns whether a person confirms it. accepted: the last accepted
    bundle, for rollback protection.
    """

    root: bytes | None = None
    fingerprint: str | None = None
    confirm: Callable[[str], bool] | None = None
    accepted: Accepted | None = None


@dataclass(frozen=True)
class Verified:
    """Metadata with valid signatures, root chain, expiry and version. Only `verify` creates it.

    files: the verified bytes, by name. root: bytes of the newest root, to be pinned. digest: of
    targets.json; names the bundle. created: time of the lock. keys: public keys (hex) that may sign
    bundles.
    """

    files: Mapping[str, bytes]
    targets: Mapping[str, Target]
    root: bytes
    digest: Digest
    number: int
    created: datetime
    keys: frozenset[str]
    seal: InitVar[object] = None

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("only keystone.bundle.trust.verify.verify may create a Verified")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the newest root's file, in hex."""
        return fingerprint(self.root)


def fingerprint(root: bytes) -> str:
    """The fingerprint of a root, as people compare it: SHA-256 of its file, in hex."""
    return hashlib.sha256(root).hexdigest()


def verify(files: Mapping[str, bytes], pin: Pin, clock: datetime | None = None) -> Verified:
    """Apply the TUF client workflow (5.3 to 5.6) to the metadata files of a bundle.

    clock: the time of the system clock; by default now.
    Raises UntrustedBundleError that names the file and the reason, with an error code.
    """
    start, later = _anchor(_chain(files), pin)
    trusted, newest = _follow(start, later)
    keys = _content_keys(trusted.root)
    kept = pin.accepted if pin.accepted and pin.accepted.survives(keys) else None
    clock = clock or datetime.now(UTC)
    trusted.reference_time = max(
        build_floor(), clock, *([kept.newest_time] if kept is not None else [])
    )
    created = _load(trusted, files, clock, withdrawn=_withdrawn([start, *later], trusted.root))
    verified = Verified(
        files=MappingProxyType(dict(files)),
        targets=MappingProxyType(
            {
                name: Target(entry.length, Digest(entry.hashes["sha256"]))
                for name, entry in trusted.targets.targets.items()
            }
        ),
        root=newest,
        digest=Digest(hashlib.sha256(files["targets.json"]).hexdigest()),
        number=trusted.targets.version,
        created=created,
        keys=keys,
        seal=_SEAL,
    )
    if kept is not None and not (DELTA in verified.targets and verified.number == kept.number):
        kept.refuse_older(verified.number, verified.created, str(verified.digest))
    return verified


def _chain(files: Mapping[str, bytes]) -> list[bytes]:
    """The roots in a bundle, oldest first. Each file must be named by its version."""
    roots, before = [], 0
    for name, data in files.items():
        if not name.endswith("root.json"):
            continue
        version = tuf_shape.check(name, "root", data)["signed"]["version"]
        if name != f"{version}.root.json" or (before and version != before + 1):
            raise UntrustedBundleError(
                f"{name}: contains root version {version}; all roots must be present, in order",
                hint=ASK,
                code="KSB-28",
            )
        roots.append(data)
        before = version
    if not roots:
        raise UntrustedBundleError(
            "the bundle contains no root: it is not signed", hint=ASK, code="KSB-01"
        )
    if len(roots) > MAX_ROOTS:
        raise UntrustedBundleError(
            f"{len(roots)} roots, the limit is {MAX_ROOTS}", hint=ASK, code="KSB-20"
        )
    return roots


def _anchor(roots: list[bytes], pin: Pin) -> tuple[bytes, list[bytes]]:
    """The trusted root to start from, and the later roots in the bundle."""
    prints = [fingerprint(root) for root in roots]
    wanted = re.sub(r"[:\s]", "", pin.fingerprint or "").lower()
    if pin.root is not None:
        return _from_pinned(roots, pin.root, wanted, prints)
    if wanted:
        if wanted not in prints:
            raise UntrustedBundleError(
                f"the bundle is signed under root {prints[-1]}, not under {wanted}",
                hint="compare the fingerprint with the one that the packager told you",
                code="KSB-02",
            )
        at = prints.index(wanted)
        return roots[at], roots[at + 1 :]
    if pin.confirm is None or not pin.confirm(prints[-1]):
        raise UntrustedBundleError(
            f"the bundle's root is not confirmed: {prints[-1]}",
            hint="pass the fingerprint that the packager told you: --root-fingerprint SHA256",
            code="KSB-02",
        )
    return roots[-1], []


def _from_pinned(
    roots: list[bytes], pinned: bytes, wanted: str, prints: list[str]
) -> tuple[bytes, list[bytes]]:
    known = fingerprint(pinned)
    version = _version("pinned root.json", pinned)
    carried = {_version("root.json", root): root for root in roots}
    if carried.get(version, pinned) != pinned or min(carried) > version + 1:
        raise UntrustedBundleError(
            f"the bundle is signed under another root: {prints[-1]}; this host pinned {known}",
            hint=f"{ASK}; a host changes its root only by a signed rotation",
            code="KSB-02",
        )
    if wanted and wanted != known and wanted not in prints:
        raise UntrustedBundleError(
            f"this host pinned root {known}, not {wanted}", hint=ASK, code="KSB-02"
        )
    return pinned, [carried[number] for number in sorted(carried) if number > version]


def _version(name: str, data: bytes) -> int:
    version: int = tuf_shape.check(name, "root", data)["signed"]["version"]
    return version


def _follow(start: bytes, later: list[bytes]) -> tuple[TrustedMetadataSet, bytes]:
    """TUF 5.3: thresholds of the previous root and of the new root must sign each root.

    Uses TrustedMetadataSet, which is private in python-tuf (7.0). The public Updater uses only the
    system clock, and reads and writes files; this module needs the latest known time, and works in
    memory. The alternative would be to implement the workflow again with tuf.api.metadata.
    """
    from tuf.api.exceptions import RepositoryError  # noqa: PLC0415 slow to import
    from tuf.ngclient._internal.trusted_metadata_set import (  # noqa: PLC0415
        TrustedMetadataSet,
    )
    from tuf.ngclient.config import EnvelopeType  # noqa: PLC0415

    before: Root | None = None
    data = start
    try:
        trusted = TrustedMetadataSet(start, EnvelopeType.METADATA)
        for data in later:
            before = trusted.root
            trusted.update_root(data)
    except (RepositoryError, ValueError, TypeError) as error:
        name = f"{_version('root.json', data)}.root.json"
        code = _why_unsigned(data, "root", before) or _why_unsigned(data, "root", None)
        raise UntrustedBundleError(
            f"{name}: not trusted: {error}", hint=ASK, code=code or "KSB-28"
        ) from error
    return trusted, data


def _load(
    trusted: TrustedMetadataSet,
    files: Mapping[str, bytes],
    clock: datetime,
    *,
    withdrawn: frozenset[str],
) -> datetime:
    """TUF 5.4 to 5.6. Returns the time of the lock."""
    from tuf.api.exceptions import RepositoryError  # noqa: PLC0415 slow to import

    for role in CONTENT:
        name = f"{role}.json"
        if name not in files:
            raise UntrustedBundleError(f"{name}: missing in the bundle", hint=ASK, code="KSB-01")
        try:
            tuf_shape.check(name, role, files[name])
            getattr(trusted, f"update_{role}")(files[name])
            if role == "timestamp":
                # Time never goes back before a signed time; the next steps judge expiry by it.
                created = _created(trusted.timestamp.unrecognized_fields)
                trusted.reference_time = max(trusted.reference_time, created)
        except RepositoryError as error:
            code = _why_not(error, role, files[name], trusted.root, withdrawn)
            raise _refusal(name, error, code, clock, trusted.reference_time) from error
        except (ValueError, KeyError, TypeError) as error:
            raise UntrustedBundleError(
                f"{name}: not TUF metadata ({error})", hint=ASK, code="KSB-23"
            ) from error
    numbers = {role: trusted[role].version for role in CONTENT}
    if len(set(numbers.values())) != 1:
        raise UntrustedBundleError(
            f"the metadata belongs to several bundles: {numbers}", hint=ASK, code="KSB-06"
        )
    return _created(trusted.timestamp.unrecognized_fields)


def _created(fields: Mapping[str, Any]) -> datetime:
    created = datetime.fromisoformat(str(fields[CREATED]))
    if created.tzinfo is None:
        raise ValueError(f"{CREATED}: no time zone")
    return created


def _content_keys(root: Root) -> frozenset[str]:
    """Public keys (hex) that may sign the content of a bundle."""
    ids = {keyid for role in CONTENT for keyid in root.roles[role].keyids}
    return frozenset(str(root.keys[keyid].keyval["public"]) for keyid in ids)


def _withdrawn(chain: list[bytes], newest: Root) -> frozenset[str]:
    """Ids of keys that an earlier root trusted and the newest root does not."""
    earlier: set[str] = set()
    for data in chain:
        earlier |= tuf_shape.check("root.json", "root", data)["signed"]["keys"].keys()
    return frozenset(earlier - newest.keys.keys())


def _why_not(
    error: Exception, role: str, data: bytes, root: Root, withdrawn: frozenset[str]
) -> str:
    """The error code of a refusal; python-tuf gives only a text."""
    from tuf.api.exceptions import ExpiredMetadataError  # noqa: PLC0415 slow to import

    if isinstance(error, ExpiredMetadataError):
        return "KSB-29"
    # Correctly signed, but not the file that the metadata above names: from another bundle.
    return _why_unsigned(data, role, root, withdrawn) or "KSB-06"


def _why_unsigned(
    data: bytes, role: str, root: Root | None, withdrawn: frozenset[str] = frozenset()
) -> str:
    """The error code for missing signatures; "" when the threshold is reached.

    root: the root that lists the keys; None when the file itself is that root.
    """
    from tuf.api.exceptions import RepositoryError  # noqa: PLC0415 slow to import
    from tuf.api.metadata import Metadata  # noqa: PLC0415

    try:
        metadata: Metadata[Any] = Metadata.from_bytes(data)
    except RepositoryError:
        return "KSB-23"
    root = root or metadata.signed
    listed, signers = set(root.roles[role].keyids), metadata.signatures.keys()
    if not signers:
        return "KSB-01"
    if not signers & listed:
        return "KSB-03" if signers & withdrawn else "KSB-02"
    found = root.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    if found.verified:
        return ""
    return "KSB-04" if found.signed else "KSB-07"


def _refusal(
    name: str, error: Exception, code: str, clock: datetime, judged: datetime
) -> UntrustedBundleError:
    if code == "KSB-29":
        return UntrustedBundleError(
            f"{name}: expired ({error}; judged at {judged.isoformat(timespec='seconds')}, "
            f"this machine's clock shows {clock.isoformat(timespec='seconds')})",
            hint="get a newer bundle, or set the clock if it is ahead",
            code=code,
        )
    return UntrustedBundleError(f"{name}: not trusted: {error}", hint=ASK, code=code)


def host_pin(
    directory: Path = TRUST,
    *,
    fingerprint: str | None = None,
    confirm: Callable[[str], bool] | None = None,
) -> Pin:
    """The host's pinned root and newest accepted bundle, if any.

    directory: folder of both. fingerprint, confirm: as in Pin.
    """
    root = directory / "root.json"
    return Pin(
        root=root.read_bytes() if root.exists() else None,
        fingerprint=fingerprint,
        confirm=confirm,
        accepted=memory.load(directory),
    )


def remember(verified: Verified, directory: Path = TRUST) -> None:
    """Pin the bundle's root on this host and refuse older bundles from now on.

    Raises UntrustedBundleError (KSB-28) when another run accepted a newer bundle meanwhile.
    """
    before = memory.load(directory)
    seen = verified.created
    if before is not None and before.survives(verified.keys):
        before.refuse_older(verified.number, verified.created, str(verified.digest))
        seen = max(seen, before.newest_time)
    directory.mkdir(parents=True, exist_ok=True)
    write_file(directory / "root.json", verified.root)
    now = Accepted(verified.number, verified.created, str(verified.digest), seen, verified.keys)
    memory.save(now, directory)


def stored_targets(data: bytes) -> dict[str, Target]:
    """Parse the signed list in a store's targets.json, which was verified when it was stored.

    Raises DamagedBundleError when it is invalid now.
    """
    try:
        entries = strict_json.loads(data)["signed"]["targets"]
        return {
            name: Target(entry["length"], Digest(entry["hashes"]["sha256"]))
            for name, entry in entries.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedBundleError(
            f"the store's metadata/targets.json is damaged ({strict_json.brief(error)})",
            hint="remove it and bring the bundle in again: keystone-install store ingest",
        ) from error
