"""Join tokens: one use, short-lived, bound to a role, carrying the pin of the site's CA.

A token is `ks1.<id>.<secret>.<pin>`: id and secret are hex, the pin is the SHA-256 of the
site's CA file. The Primer that made it keeps a hash of the secret. "One use" means one key: the
first machine to present it owns it with the key of its request and its address, and may present it
again, so that a join that was cut can be finished: it is told what it was told before.
Deciding is pure; the folders of tokens are at the bottom.
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
"""The year 10000, which no calendar here writes."""


@dataclass(frozen=True)
class Token:
    """What the worker holds."""

    id: str
    secret: str
    pin: str

    def __str__(self) -> str:
        return f"ks1.{self.id}.{self.secret}.{self.pin}"

    @classmethod
    def parse(cls, text: str) -> Token:
        """From the text on the command line. Raises UsageError when it is none."""
        found = _TOKEN.fullmatch(text.strip())
        if found is None:
            raise UsageError(
                "that is no join token", hint="copy the whole command that `token create` printed"
            )
        return cls(*found.groups())


@dataclass(frozen=True)
class Record:
    """What the Primer keeps of a token. created, expires: seconds since 1970."""

    id: str
    role: str
    digest: str
    created: int
    expires: int
    revoked: bool = False


@dataclass(frozen=True)
class Claim:
    """The machine that a token belongs to since it was presented.

    key: SHA-256 of its public key, hex; "" in a claim of an older installer, which nobody has.
    time: seconds since 1970. certificate, authority: PEM, once it was signed.
    """

    hostname: str
    time: int
    key: str = ""
    address: str = ""
    certificate: str = ""
    authority: str = ""


@dataclass(frozen=True)
class Request:
    """What a machine sends. Its address is not in it: that is what the connection says."""

    token: Token
    csr: KeyRequest

    @property
    def hostname(self) -> str:
        """The node's name, which the request for a certificate asks for too."""
        return self.csr.name


class Refusal(Exception):  # noqa: N818 an answer, not a failure
    """The request is refused. status: HTTP's; the text is for the machine's owner."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


AGAIN = (429, 503)
"""HTTP's words for "later": the client asks again."""


def new(role: str, pin: str, *, now: int, ttl: int) -> tuple[Token, Record]:
    """A token and its record. ttl in seconds. Raises UsageError for a role that cannot join."""
    if role not in ROLES:
        raise UsageError(f"no role {role!r}", hint=f"one of: {', '.join(ROLES)}")
    token = Token(secrets.token_hex(6), secrets.token_hex(20), pin)
    return token, Record(token.id, role, _digest(token.secret), now, now + ttl)


def parse_request(body: bytes) -> Request:
    """The JSON of POST /v1/join, every field checked. Raises Refusal(400)."""
    try:
        fields = json.loads(body)
        values = [fields[key] for key in ("token", "hostname", "csr")]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refusal(
            400, "the request is not the JSON of a join: is the installer there of another release?"
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


def judge(record: Record | None, request: Request, *, role: str, now: int) -> None:
    """Whether the token is good, whoever presents it. Raises Refusal(403), or 503 by the clock.

    Who does not know the secret learns nothing about the token, not even that it exists.
    """
    known = record.digest if record is not None else "0" * 64
    if not hmac.compare_digest(known, _digest(request.token.secret)) or record is None:
        raise Refusal(403, "token unknown on this Primer")
    if record.revoked:
        raise Refusal(403, "token revoked")
    if now < record.created:
        raise Refusal(503, "this Primer's clock was set back to before the token was made")
    if now >= record.expires:
        raise Refusal(403, "token expired; make a new one with `keystone-install token create`")
    if record.role != role:
        raise Refusal(403, f"token is for the role {record.role}, not {role}")


def judge_claim(claim: Claim | None, request: Request, address: IPv4Address) -> None:
    """Whether the machine that owns the token presents it. Raises Refusal(403)."""
    if claim is None:
        return
    asked = request.csr.key, request.hostname, str(address)
    if (claim.key, claim.hostname, claim.address) != asked:
        raise Refusal(403, f"token was already used, by {claim.hostname}")


def judge_place(site: Site, request: Request, address: IPv4Address) -> None:
    """Whether the site has a place for that name and address. Raises Refusal(409)."""
    for node in site.primers:
        if request.hostname == node.name or address == node.address:
            raise Refusal(409, f"{node.name} ({node.address}) is a Primer of this site")
    if address not in site.networks.nodes:
        raise Refusal(409, f"{address} is not in the site's network {site.networks.nodes}")


class Failures:
    """Counts refusals by address: who fails too often is told to wait, and no longer logged.

    A good token is never counted against: the secret is judged first. now: seconds of a clock that
    nobody sets (CLOCK_MONOTONIC). Addresses of a site's network at most are kept.
    """

    def __init__(self, *, per_address: int = 10, window: float = 60) -> None:
        self._limit, self._window = per_address, window
        self._seen: dict[str, list[float]] = {}

    def note(self, address: str, now: float) -> bool:
        """One more. Whether there were too many within the window."""
        self._seen = {
            where: times for where, times in self._seen.items() if now - times[-1] < self._window
        }
        times = [at for at in self._seen.get(address, []) if now - at < self._window]
        self._seen[address] = [*times, now][-self._limit - 1 :]
        return len(self._seen[address]) > self._limit


class Floor:
    """A clock that never goes back: seconds since 1970, remembered in a file over restarts.

    An expired token stays expired when somebody sets the clock back. wall, monotonic: the clocks
    of time(3) and CLOCK_BOOTTIME.
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
        """The latest time that this clock or the file has seen; kept once a minute."""
        began, mark = self._start
        found = max(self._wall(), began + self._monotonic() - mark)
        self._start = found, self._monotonic()
        if found - self._written >= _KEEP_SECONDS:
            self._written = found
            try:
                _write(self._file, {"time": found}, 0o600)
            except OSError as error:  # a full disk: the clock goes on, the file when there is room
                log.error(f"{self._file}: not written: {error.strerror}")
        return found


class Tokens:
    """Two folders on one Primer: root writes `tokens/<id>.json`, the service `claims/<id>.json`.

    The service may read what root writes and not change it; root reads what the service wrote
    without following links.
    """

    def __init__(self, directory: Path) -> None:
        self._records, self._claims = directory / "tokens", directory / "claims"
        self.clock = directory / "claims/clock"

    def now(self) -> float:
        """The latest time, in seconds since 1970, that this Primer's clock or the service saw."""
        return max(time.time(), _seconds(self.clock, _read(self.clock)))

    def add(self, record: Record) -> None:
        """Keep a new token's record. The folder's group may read it (the role join makes it so)."""
        self._records.mkdir(mode=0o750, parents=True, exist_ok=True)
        _write(self._records / f"{record.id}.json", asdict(record), 0o640)

    def find(self, token_id: str) -> Record | None:
        """The record with that id, or None. The id is checked before it names a file."""
        if not _ID.fullmatch(token_id):
            return None
        found = _read(self._records / f"{token_id}.json")
        return Record(**found) if found else None

    def all(self) -> list[Record]:
        """Every record, oldest first."""
        found = (self.find(path.stem) for path in self._records.glob("*.json"))
        return sorted((r for r in found if r is not None), key=lambda r: (r.created, r.id))

    def claimed(self, token_id: str) -> Claim | None:
        """Who owns the token, if anybody does yet."""
        found = _read(file := self._claims / f"{token_id}.json")
        if found:
            return _claim(file, found)
        # Of an installer before this one: only root may read whose it was.
        before = self._records / f"{token_id}.claim"
        if not before.exists():
            return None
        owner = (_read(before) if os.access(before, os.R_OK) else None) or {}
        return Claim(str(owner.get("hostname", "a machine")), int(_seconds(before, owner)))

    def owns(self, request: Request) -> bool:
        """Whether any token's owner is this very machine: same key, same name."""
        claims = (self._readable(path.stem) for path in self._claims.glob("*.json"))
        mine = request.csr.key, request.hostname
        return any(claim is not None and (claim.key, claim.hostname) == mine for claim in claims)

    def _readable(self, token_id: str) -> Claim | None:
        """A damaged claim is nobody's, and no reason to admit nobody."""
        try:
            return self.claimed(token_id)
        except (KeystoneError, TypeError) as error:
            log.error(f"claim {token_id[:80]} is left out: {error}")
            return None

    def claim(self, token_id: str, claim: Claim) -> None:
        """Keep who owns a token. Only the service does, one request after another."""
        _write(self._claims / f"{token_id}.json", asdict(claim), 0o600)

    def revoke(self, token_id: str) -> Record:
        """Make a token worthless. Raises UsageError when there is none of that id."""
        record = self.find(token_id)
        if record is None:
            raise UsageError(f"no token {token_id}", hint="keystone-install token list")
        gone = Record(**{**asdict(record), "revoked": True})
        _write(self._records / f"{token_id}.json", asdict(gone), 0o640)
        return gone


def addresses(site: Site) -> Sequence[str]:
    """The Primers' addresses, as texts."""
    return [str(node.address) for node in site.primers]


def _digest(secret: str) -> str:
    """Plain SHA-256: the secret is 160 random bits, there is nothing to guess."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _read(path: Path) -> dict[str, Any] | None:
    """A small JSON object, of a file and not of what a link leads to; None where there is none.

    A pipe in its place lets nobody wait.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _strange(path)
    with os.fdopen(handle) as file:
        try:
            return dict(json.loads(file.read(_RECORD_LIMIT)))
        except (ValueError, TypeError, RecursionError) as error:
            raise _strange(path) from error


def _strange(path: Path) -> HostError:
    return HostError(f"{path}: not what Keystone wrote", hint="remove it")


def _seconds(path: Path, found: Mapping[str, Any] | None) -> float:
    """The time that a file says: finite, and one that the calendar has. 0 for no file."""
    said = (found or {}).get("time", 0)
    if isinstance(said, bool) or not isinstance(said, int | float) or not 0 <= said < _LATEST:
        raise _strange(path)
    return float(said)


def _claim(path: Path, found: Mapping[str, Any]) -> Claim:
    """What the service wrote, each field of its type: root believes no more of it than that."""
    kinds = {"hostname": str, "time": int, "key": str, "address": str,
             "certificate": str, "authority": str}  # fmt: skip
    right = all(name in kinds and type(value) is kinds[name] for name, value in found.items())
    if not right or not {"hostname", "time"} <= found.keys():
        raise _strange(path)
    _seconds(path, found)
    return Claim(**found)


def _write(path: Path, value: object, mode: int) -> None:
    write_whole(path, json.dumps(value).encode(), mode)
