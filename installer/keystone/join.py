"""Join tokens: one use, short-lived, bound to a role, carrying the pin of the site's CA.

A token is `ks1.<id>.<secret>.<pin>`: id and secret are hex, the pin is the SHA-256 of the
site's CA file. The Primer that made it keeps a hash of the secret. "One use" means one machine:
the first to present it owns it, and may present it again until it expires, so that a join that was
cut can be finished. Deciding is pure; the folder of tokens is at the bottom.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import run
from keystone.errors import HostError, UsageError
from keystone.wholefile import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from ipaddress import IPv4Address

    from keystone.site import Site

DIRECTORY = Path("/var/lib/keystone/join")
ROLES = ("worker",)
ADMIN = "/etc/kubernetes/admin.conf"
_TOKEN = re.compile(r"ks1\.([0-9a-f]{12})\.([0-9a-f]{40})\.([0-9a-f]{64})")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_MACHINE_ID = re.compile(r"[0-9a-f]{32}")
_HOSTNAME_LENGTH = 253


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
    """The machine that a token belongs to since it was presented."""

    machine_id: str
    hostname: str
    time: int


@dataclass(frozen=True)
class Request:
    """What a machine sends. Its address is not in it: that is what the connection says."""

    token: Token
    hostname: str
    machine_id: str


class Refusal(Exception):  # noqa: N818 an answer, not a failure
    """The request is refused. status: HTTP's; the text is for the machine's owner."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


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
        values = [fields[key] for key in ("token", "hostname", "machine_id")]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refusal(400, "the request is not the JSON of a join") from error
    if not all(isinstance(value, str) for value in values):
        raise Refusal(400, "token, hostname and machine_id must be strings")
    text, hostname, machine_id = values
    if len(hostname) > _HOSTNAME_LENGTH or not all(map(_LABEL.fullmatch, hostname.split("."))):
        raise Refusal(400, f"hostname {hostname[:80]!r} is not valid (RFC 1123, lower case)")
    if not _MACHINE_ID.fullmatch(machine_id):
        raise Refusal(400, "machine_id is not 32 hex digits (machine-id(5))")
    try:
        return Request(Token.parse(text), hostname, machine_id)
    except UsageError as error:
        raise Refusal(400, error.message) from error


def judge(record: Record | None, request: Request, *, role: str, now: int) -> None:
    """Whether the token is good, whoever presents it. Raises Refusal(403).

    Who does not know the secret learns nothing about the token, not even that it exists.
    """
    known = record.digest if record is not None else "0" * 64
    if not hmac.compare_digest(known, _digest(request.token.secret)) or record is None:
        raise Refusal(403, "token unknown on this Primer")
    if record.revoked:
        raise Refusal(403, "token revoked")
    if now >= record.expires:
        raise Refusal(403, "token expired; make a new one with `keystone-install token create`")
    if record.role != role:
        raise Refusal(403, f"token is for the role {record.role}, not {role}")


def judge_claim(claim: Claim, request: Request) -> None:
    """Whether the machine that owns the token presents it. Raises Refusal(403)."""
    if (claim.machine_id, claim.hostname) != (request.machine_id, request.hostname):
        raise Refusal(403, f"token was already used, by {claim.hostname}")


def judge_place(site: Site, request: Request, address: IPv4Address) -> None:
    """Whether the site has a place for that name and address. Raises Refusal(409)."""
    for node in site.primers:
        if request.hostname == node.name or address == node.address:
            raise Refusal(409, f"{node.name} ({node.address}) is a Primer of this site")
    if address not in site.networks.nodes:
        raise Refusal(409, f"{address} is not in the site's network {site.networks.nodes}")


class Failures:
    """Counts refusals by address; whoever fails too often waits. Seconds are the caller's."""

    def __init__(self, *, per_address: int = 10, overall: int = 200, window: float = 60) -> None:
        self._limits = per_address, overall
        self._window = window
        self._seen: list[tuple[float, str]] = []

    def check(self, address: str, now: float) -> None:
        """Raises Refusal(429) while there were too many."""
        self._seen = [entry for entry in self._seen if now - entry[0] < self._window]
        mine = sum(1 for _, where in self._seen if where == address)
        if mine >= self._limits[0] or len(self._seen) >= self._limits[1]:
            raise Refusal(429, f"too many refused attempts; wait {self._window:.0f} s")

    def note(self, address: str, now: float) -> None:
        """One more. Memory is bounded by the overall limit, for `check` comes first."""
        self._seen.append((now, address))


class Tokens:
    """The folder of tokens on one Primer: `<id>.json` and, once used, `<id>.claim`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def add(self, record: Record) -> None:
        """Keep a new token's record."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(self._directory / f"{record.id}.json", asdict(record))

    def find(self, token_id: str) -> Record | None:
        """The record with that id, or None. The id is checked before it names a file."""
        if not re.fullmatch(r"[0-9a-f]{12}", token_id):
            return None
        try:
            return Record(**json.loads((self._directory / f"{token_id}.json").read_text()))
        except FileNotFoundError:
            return None

    def all(self) -> list[Record]:
        """Every record, oldest first."""
        found = (self.find(path.stem) for path in self._directory.glob("*.json"))
        return sorted((r for r in found if r is not None), key=lambda r: (r.created, r.id))

    def claimed(self, token_id: str) -> Claim | None:
        """Who owns the token, if anybody does yet."""
        try:
            return Claim(**json.loads((self._directory / f"{token_id}.claim").read_text()))
        except FileNotFoundError:
            return None

    def claim(self, request: Request, now: int) -> Claim:
        """Give the token to the machine unless it has an owner; returns the owner.

        A hard link is made or fails: of two machines at the same moment one gets it, also after
        a power cut.
        """
        path = self._directory / f"{request.token.id}.claim"
        mine = Claim(request.machine_id, request.hostname, now)
        spare = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        _write(spare, asdict(mine))
        try:
            os.link(spare, path)
        except FileExistsError:
            owner = self.claimed(request.token.id)
            assert owner is not None, "claims are never deleted while their token is there"
            return owner
        finally:
            spare.unlink()
        _sync(self._directory)
        return mine

    def revoke(self, token_id: str) -> Record:
        """Make a token worthless. Raises UsageError when there is none of that id."""
        record = self.find(token_id)
        if record is None:
            raise UsageError(f"no token {token_id}", hint="keystone-install token list")
        gone = Record(**{**asdict(record), "revoked": True})
        _write(self._directory / f"{token_id}.json", asdict(gone))
        return gone


@dataclass(frozen=True)
class Bootstrap:
    """What kubeadm's join needs: a bootstrap token and the cluster CA's pin."""

    token: str
    ca_hash: str

    def variables(self) -> dict[str, object]:
        """The volatile variables of the role `node`."""
        return {"node_token": self.token, "node_ca_hash": self.ca_hash}


def mint(runner: run.Host | None = None, *, ttl: str = "15m") -> Bootstrap:
    """Make a kubeadm bootstrap token, here or on a host with a control plane.

    Raises HostError when kubeadm fails or answers what we do not know.
    """
    argv = ["kubeadm", "--kubeconfig", ADMIN, "token", "create", "--ttl", ttl,
            "--print-join-command"]  # fmt: skip
    try:
        result = runner.run(argv) if runner is not None else run.run(argv)
    except run.CommandError as error:
        raise HostError(f"no bootstrap token: {error.message}") from error
    return parse_join_command(result.stdout)


def parse_join_command(text: str) -> Bootstrap:
    """From what `kubeadm token create --print-join-command` prints."""
    found = re.search(
        r"--token ([a-z0-9]{6}\.[a-z0-9]{16}) .*--discovery-token-ca-cert-hash "
        r"(sha256:[0-9a-f]{64})",
        text,
    )
    if found is None:
        raise HostError("kubeadm printed no join command with token and CA hash")
    return Bootstrap(*found.groups())


def addresses(site: Site) -> Sequence[str]:
    """The Primers' addresses, as texts."""
    return [str(node.address) for node in site.primers]


def _digest(secret: str) -> str:
    """Plain SHA-256: the secret is 160 random bits, there is nothing to guess."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _write(path: Path, value: object) -> None:
    write_whole(path, json.dumps(value).encode(), 0o600)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
