"""Join tokens: for one use, short-lived, bound to a role, with the pin of the site's CA.

A token is `ks1.<id>.<secret>.<pin>`: id and secret are hex, the pin is the SHA-256 of the site's
CA file. The Primer that made it keeps a hash of the secret. "One use" means one key: the first
machine that presents a token owns it with the key and the address of its request. That machine may
present it again to complete an interrupted join, and gets the same answer. Decisions are pure
functions; the folders of tokens are at the bottom.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keystone import log
from keystone.errors import HostError, KeystoneError, RefusedError, UsageError
from keystone.files import write_whole
from keystone.join import identity

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from ipaddress import IPv4Address

    from keystone.join.identity import KeyRequest
    from keystone.site.model import Site

DIRECTORY = Path("/var/lib/keystone/join")
ROLES = ("worker",)
_TOKEN = re.compile(r"ks1\.([0-9a-f]{12})\.([0-9a-f]{40})\.([0-9a-f]{64})")
_ID = re.compile(r"[0-9a-f]{12}")
_RECORD_LIMIT = 64 * 1024
_KEEP_SECONDS = 60
_LATEST = 253402300800
"""The year 10000 in seconds since 1970, more than datetime can represent."""


@dataclass(frozen=True)
class Token:
    """A token, as the worker has it."""

    id: str
    secret: str
    pin: str

    def __str__(self) -> str:
        return f"ks1.{self.id}.{self.secret}.{self.pin}"

    @classmethod
    def parse(cls, text: str) -> Token:
        """Parse the text of a token. Raises UsageError if it is not one."""
        found = _TOKEN.fullmatch(text.strip())
        if found is None:
            raise UsageError(
                "not a join token", hint="copy the whole command that `token create` printed"
            )
        return cls(*found.groups())


@dataclass(frozen=True)
class Record:
    """The Primer's record of a token. created, expires: seconds since 1970."""

    id: str
    role: str
    digest: str
    created: int
    expires: int
    revoked: bool = False


@dataclass(frozen=True)
class Claim:
    """The machine that owns a token because it presented it first.

    key: SHA-256 of its public key, hex; "" in a claim of an older installer: no machine matches
    it. time: seconds since 1970. certificate, authority: PEM, "" until it is signed.
    """

    hostname: str
    time: int
    key: str = ""
    address: str = ""
    certificate: str = ""
    authority: str = ""


@dataclass(frozen=True)
class Request:
    """A machine's request. It has no address: the connection gives that."""

    token: Token
    csr: KeyRequest

    @property
    def hostname(self) -> str:
        """The node's name, which is also the name in the certificate request."""
        return self.csr.name


class Refusal(Exception):  # noqa: N818 an answer, not a failure
    """The request is refused. status: of HTTP. text: for the machine's owner."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


AGAIN = (429, 503)
"""HTTP status codes after which the client tries again."""


def new(role: str, pin: str, *, now: int, ttl: int) -> tuple[Token, Record]:
    """Make a token and its record. ttl: in seconds. Raises UsageError for an unknown role."""
    if role not in ROLES:
        raise UsageError(f"unknown role {role!r}", hint=f"use one of: {', '.join(ROLES)}")
    token = Token(secrets.token_hex(6), secrets.token_hex(20), pin)
    return token, Record(token.id, role, _digest(token.secret), now, now + ttl)


def parse_request(body: bytes) -> Request:
    """Parse the JSON of POST /v1/join and check every field. Raises Refusal(400)."""
    try:
        fields = json.loads(body)
        values = [fields[key] for key in ("token", "hostname", "csr")]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refusal(
            400, "the request is not the JSON of a join: the installer may be of another release"
        ) from error
    if not all(isinstance(value, str) for value in values):
        raise Refusal(400, "token, hostname and csr must be strings")
    text, hostname, csr = values
    problem = identity.name_problem(hostname)
    if problem or len(csr) > identity.REQUEST_LIMIT:
        raise Refusal(400, problem or f"csr has more than {identity.REQUEST_LIMIT} characters")
    try:
        return Request(Token.parse(text), identity.checked(csr, hostname))
    except (UsageError, RefusedError) as error:
        raise Refusal(400, error.message) from error


def require_valid(record: Record | None, request: Request, *, role: str, now: int) -> None:
    """Raise Refusal unless the token is valid: 403, or 503 if this Primer's clock was set back.

    A client without the secret learns nothing about the token, not even that it exists.
    """
    known = record.digest if record is not None else "0" * 64
    if not hmac.compare_digest(known, _digest(request.token.secret)) or record is None:
        raise Refusal(403, "this Primer does not know the token")
    if record.revoked:
        raise Refusal(403, "token revoked")
    if now < record.created:
        raise Refusal(503, "this Primer's clock was set back to before the token was made")
    if now >= record.expires:
        raise Refusal(403, "token expired; make a new one with `keystone-install token create`")
    if record.role != role:
        raise Refusal(403, f"token is for the role {record.role}, not {role}")


def require_owner(claim: Claim | None, request: Request, address: IPv4Address) -> None:
    """Raise Refusal(403) if another machine than the token's owner presents it."""
    if claim is None:
        return
    asked = request.csr.key, request.hostname, str(address)
    if (claim.key, claim.hostname, claim.address) != asked:
        raise Refusal(403, f"token was already used by {claim.hostname}")


def require_place(site: Site, request: Request, address: IPv4Address) -> None:
    """Raise Refusal(409) if name or address is a Primer's or outside the nodes' network."""
    for node in site.primers:
        if request.hostname == node.name or address == node.address:
            raise Refusal(409, f"{node.name} ({node.address}) is a Primer of this site")
    if address not in site.networks.nodes:
        raise Refusal(409, f"{address} is not in the site's network {site.networks.nodes}")


class Failures:
    """Counts refusals by address: too many within the window, and the address must wait.

    Requests with a valid token are never counted or delayed: the token is checked first. now:
    seconds of a clock that cannot be set (CLOCK_MONOTONIC). window: seconds. Memory is limited by
    the number of addresses in the site's network.
    """

    def __init__(self, *, per_address: int = 10, window: float = 60) -> None:
        self._limit, self._window = per_address, window
        self._seen: dict[str, list[float]] = {}

    def note(self, address: str, now: float) -> bool:
        """Count one refusal; return True if there were too many within the window."""
        self._seen = {
            where: times for where, times in self._seen.items() if now - times[-1] < self._window
        }
        times = [at for at in self._seen.get(address, []) if now - at < self._window]
        self._seen[address] = [*times, now][-self._limit - 1 :]
        return len(self._seen[address]) > self._limit


class ForwardClock:
    """A clock that never goes back, even over restarts: it saves its time in a file.

    So an expired token stays expired if somebody sets the clock back. In seconds since 1970. wall,
    monotonic: the clocks of time(3) and CLOCK_BOOTTIME.
    """

    def __init__(
        self, file: Path, wall: Callable[[], float], monotonic: Callable[[], float]
    ) -> None:
        self._file, self._wall, self._monotonic = file, wall, monotonic
        found = _read(file)
        known = _seconds(file, found)
        self._start = max(wall(), known), monotonic()
        self._written = 0.0
        self.now()

    def now(self) -> float:
        """Return the latest time that this clock or the file has had; save it once a minute."""
        began, ticks = self._start
        found = max(self._wall(), began + self._monotonic() - ticks)
        self._start = found, self._monotonic()
        if found - self._written >= _KEEP_SECONDS:
            self._written = found
            try:
                _write(self._file, {"time": found}, 0o600)
            except OSError as error:  # with a full disk the clock continues without its file
                log.error(f"{self._file}: cannot be written: {error.strerror}")
        return found


class Tokens:
    """Two folders on one Primer: root writes `tokens/<id>.json`, the service `claims/<id>.json`.

    The service can read but not change root's files; root reads the service's files without
    following links.
    """

    def __init__(self, directory: Path) -> None:
        self._records, self._claims = directory / "tokens", directory / "claims"
        self.clock = directory / "claims/clock"

    def now(self) -> float:
        """Return the later of this Primer's clock and the service's, in seconds since 1970."""
        return max(time.time(), _seconds(self.clock, _read(self.clock)))

    def add(self, record: Record) -> None:
        """Save a new token's record. The folder's group, set by the role join, may read it."""
        self._records.mkdir(mode=0o750, parents=True, exist_ok=True)
        _write(self._records / f"{record.id}.json", asdict(record), 0o640)

    def find(self, token_id: str) -> Record | None:
        """Return the record with that id, or None. The id is checked before it names a file."""
        if not _ID.fullmatch(token_id):
            return None
        found = _read(self._records / f"{token_id}.json")
        return Record(**found) if found else None

    def all(self) -> list[Record]:
        """Return all records, oldest first."""
        found = (self.find(path.stem) for path in self._records.glob("*.json"))
        return sorted((r for r in found if r is not None), key=lambda r: (r.created, r.id))

    def claimed(self, token_id: str) -> Claim | None:
        """Return the claim of the machine that owns the token; None if it is unused."""
        found = _read(file := self._claims / f"{token_id}.json")
        if found:
            return _claim(file, found)
        # A claim of an older installer: only root can read the machine's name in it.
        before = self._records / f"{token_id}.claim"
        if not before.exists():
            return None
        owner = (_read(before) if os.access(before, os.R_OK) else None) or {}
        return Claim(str(owner.get("hostname", "a machine")), int(_seconds(before, owner)))

    def owns(self, request: Request) -> bool:
        """True if this machine (same key, same name) owns any token."""
        claims = (self._readable(path.stem) for path in self._claims.glob("*.json"))
        mine = request.csr.key, request.hostname
        return any(claim is not None and (claim.key, claim.hostname) == mine for claim in claims)

    def _readable(self, token_id: str) -> Claim | None:
        """Return the claim; None for a damaged one, which must not block other machines."""
        try:
            return self.claimed(token_id)
        except (KeystoneError, TypeError) as error:
            log.error(f"claim {token_id[:80]} is ignored: {error}")
            return None

    def claim(self, token_id: str, claim: Claim) -> None:
        """Save the owner of a token. Only the service does this, one request at a time."""
        _write(self._claims / f"{token_id}.json", asdict(claim), 0o600)

    def revoke(self, token_id: str) -> Record:
        """Revoke a token. Raises UsageError if there is none with that id."""
        record = self.find(token_id)
        if record is None:
            raise UsageError(
                f"no token {token_id}", hint="to list tokens: keystone-install token list"
            )
        gone = Record(**{**asdict(record), "revoked": True})
        _write(self._records / f"{token_id}.json", asdict(gone), 0o640)
        return gone


def addresses(site: Site) -> Sequence[str]:
    """Return the Primers' addresses."""
    return [str(node.address) for node in site.primers]


def _digest(secret: str) -> str:
    """Return a plain SHA-256: the secret is 160 random bits, so guessing is hopeless."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _read(path: Path) -> dict[str, Any] | None:
    """Read a small JSON object from a regular file; None if there is no file.

    Follows no link, and does not block on a pipe. Raises HostError.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _invalid(path)
    with os.fdopen(handle) as file:
        try:
            return dict(json.loads(file.read(_RECORD_LIMIT)))
        except (ValueError, TypeError, RecursionError) as error:
            raise _invalid(path) from error


def _invalid(path: Path) -> HostError:
    return HostError(f"{path}: not written by Keystone", hint="remove it")


def _seconds(path: Path, found: Mapping[str, Any] | None) -> float:
    """Return the time in a file: finite and before the year 10000; 0 without a file."""
    value = (found or {}).get("time", 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LATEST:
        raise _invalid(path)
    return float(value)


def _claim(path: Path, found: Mapping[str, Any]) -> Claim:
    """Return the claim; every field must have its type, as root does not trust the service."""
    kinds = {"hostname": str, "time": int, "key": str, "address": str,
             "certificate": str, "authority": str}  # fmt: skip
    right = all(name in kinds and type(value) is kinds[name] for name, value in found.items())
    if not right or not {"hostname", "time"} <= found.keys():
        raise _invalid(path)
    _seconds(path, found)
    return Claim(**found)


def _write(path: Path, value: object, mode: int) -> None:
    write_whole(path, json.dumps(value).encode(), mode)
