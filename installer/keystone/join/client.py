"""The worker's side of a join: send a request, fetch the blobs, converge this machine.

A join can be interrupted anywhere and run again: downloads resume, the token stays bound to this
machine's key, the roles complete their work. The key is made here and never sent.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import platform
import random
import re
import socket
import ssl
import time
import urllib.parse
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keystone import files, log, run
from keystone.ansible import playbook
from keystone.bundle.model import STORE
from keystone.cluster import kubeadm
from keystone.errors import HostError, KeystoneError, PreflightError, RefusedError
from keystone.files import create, open_own, write_whole
from keystone.join import identity, script, standing, tokens
from keystone.pki import certificates
from keystone.site import host_profile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keystone.site.host_profile import HostProfile

BLOBS = Path(STORE) / "blobs" / "sha256"
ANSWER = tokens.DIRECTORY / "answer.json"
DONE = Path(kubeadm.CONFIG) / "done"
TRY_SECONDS, ANSWER_LIMIT = 1800, 4 * 1024 * 1024
_TIMED_OUT = f"timed out after {TRY_SECONDS} s"
_CHECK = "check that the Primers are up, then run the command again"
_CHUNK = 256 * 1024
_PAUSE, _LONGEST = 3, 60
"""Seconds between two attempts: the minimum, and the longest wait that a Primer may request."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_DATES = (9, 10)
"""X509_V_ERR_CERT_NOT_YET_VALID and ..._HAS_EXPIRED (openssl-verification-options(1))."""


@dataclass(frozen=True)
class Machine:
    """The facts about this machine that decide whether it can join."""

    root: bool
    architecture: str
    swaps: tuple[str, ...]
    cgroup2: bool
    hostname: str
    machine_id: str
    container: str = ""
    """The kind of container, as systemd-detect-virt(1) names it; "" if it is none."""


def observe() -> Machine:
    """Observe this machine (proc(5), cgroups(7), machine-id(5))."""
    swaps = Path("/proc/swaps").read_text().splitlines()[1:]
    machine_id = Path("/etc/machine-id")
    return Machine(
        root=os.geteuid() == 0,
        architecture=platform.machine(),
        swaps=tuple(line.split()[0] for line in swaps),
        cgroup2=Path("/sys/fs/cgroup/cgroup.controllers").exists(),
        hostname=socket.gethostname(),
        machine_id=machine_id.read_text().strip() if machine_id.exists() else "",
        container=_container(),
    )


def _container() -> str:
    """Return the kind of container, "" for a machine or without systemd-detect-virt."""
    try:
        kind = run.run(["systemd-detect-virt", "--container"], check=False).stdout.strip()
    except run.CommandError:
        return ""
    return "" if kind == "none" else kind  # "none" comes with an exit code other than 0


def findings(machine: Machine, profile: HostProfile = host_profile.MACHINE) -> list[str]:
    """Return all reasons why a machine cannot be a worker, each with its remedy.

    profile: the site's requirements; a trial site accepts containers and cgroup v1.
    """
    found = []
    if not machine.root:
        found.append("not root: run the join command as root")
    if machine.architecture != "x86_64":
        found.append(f"architecture {machine.architecture}: the bundle is for x86_64")
    if machine.container and not profile.containers:
        found.append(
            f"a container ({machine.container}): its kernel and clock belong to another machine; "
            "only trial sites (spec.trial) accept it"
        )
    if machine.swaps and not (machine.container and not profile.own_memory):
        found.append(
            f"swap is on ({', '.join(machine.swaps)}): run `swapoff -a`, remove it from /etc/fstab"
        )
    if not machine.cgroup2 and not profile.containers:
        found.append("cgroup v1: boot with systemd.unified_cgroup_hierarchy=1")
    if not machine.machine_id:
        found.append("/etc/machine-id is empty: run systemd-machine-id-setup")
    if problem := identity.name_problem(machine.hostname):
        found.append(problem)
    return found


def main(
    servers: Sequence[str], token: tokens.Token, ca_file: Path, *, trial: bool = False
) -> None:
    """Join this machine. trial: the site is a trial site (its join command has --trial).

    Raises PreflightError, RefusedError (the token), HostError.
    """
    machine = observe()
    problems = findings(machine, host_profile.TRIAL if trial else host_profile.MACHINE)
    if problems:
        raise PreflightError(
            f"{machine.hostname} cannot join", findings=problems, hint="correct this and run again"
        )
    context = trust(ca_file, token)
    done = DONE.exists() and ANSWER.exists()
    answer = json.loads(ANSWER.read_text()) if done else {}
    if done and "identity" not in answer:
        raise RefusedError(
            f"an older installer joined {machine.hostname}, and this one cannot use its answer",
            hint="it remains a node; to join it with this installer, reinstall its system",
        )
    standing.require_own(machine.hostname, ca_file, script.SITE_CA, DONE)
    if done:
        log.info(f"{machine.hostname} has joined already; checking its state")
        standing.require_kept(machine.hostname)
        place_ca(ca_file)
    else:
        answer = _admission(servers, context, token, machine.hostname, trial=trial)
        place_ca(ca_file)  # before the identity: `standing` finds the site of an identity by it
        identity.place(identity.Identity(**answer["identity"]))
    fetch_all(answer["blobs"], answer["primers"], context)
    with log.step(f"converge {machine.hostname}"):
        converge(machine.hostname, answer["roles"])
    log.info(f"{machine.hostname} is now a node of the cluster")


def _admission(
    servers: Sequence[str], context: ssl.SSLContext, token: tokens.Token, hostname: str, *,
    trial: bool,
) -> dict[str, Any]:  # fmt: skip
    """Return a Primer's answer for this machine, and keep it for a later run. Raises as `main`."""
    answer = kept(token, hostname) or _requested(servers, context, token, hostname)
    if answer.get("trial", False) is not trial:
        kind = "not a trial site" if trial else "a trial site"
        raise RefusedError(
            f"the site is {kind}, but this command is for the other kind",
            hint="run the command that its `token create` printed, unchanged",
        )
    _keep(answer, token)
    return answer


def _requested(
    servers: Sequence[str], context: ssl.SSLContext, token: tokens.Token, hostname: str
) -> dict[str, Any]:
    with log.step("request to join"):
        csr = identity.made(hostname, identity.KEY)
        return ask(servers, context, token, hostname, csr)


def kept(token: tokens.Token, hostname: str) -> dict[str, Any] | None:
    """Return the answer to an earlier run with this token, while its certificate is valid here.

    A run that failed after the answer resumes with it, without a new request. None if there is no
    answer, if it is for another token, name or key or for an address that this machine does not
    have, or if its certificate is not valid now.
    """
    try:
        answer: dict[str, Any] = json.loads(ANSWER.read_text())
        pem = identity.issued(
            answer["identity"]["certificate"],
            identity.checked(identity.made(hostname, identity.KEY), hostname),
        )
        found = certificates.load_certificate(pem.encode(), str(ANSWER))
        mine = answer["token"] == token.id
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
            here.bind((answer["address"], 0))  # OSError: this machine does not have that address
    except (OSError, ValueError, KeyError, TypeError, KeystoneError):
        return None
    now = time.time()
    begins, ends = found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp()
    return answer if mine and begins <= now < ends else None


def trust(ca_file: Path, token: tokens.Token) -> ssl.SSLContext:
    """Return TLS that trusts only the site's CA. Raises RefusedError for another CA, HostError."""
    try:
        pem = ca_file.read_bytes().decode(errors="replace")
    except OSError as error:
        raise HostError(f"{ca_file}: {error.strerror}: the site's CA is missing") from error
    if script.pin(pem) != token.pin:
        raise RefusedError(
            f"{ca_file} is not the CA in the token",
            hint="use the whole command that `token create` printed on the same site",
        )
    context = ssl.create_default_context(cadata=pem)
    # The anchor is an issuing CA; the offline root above it is not on this machine.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def place_ca(ca_file: Path) -> None:
    """Write the CA file to the path that the roles expect."""
    pem = ca_file.read_bytes()
    if script.SITE_CA.is_file() and script.SITE_CA.read_bytes() == pem:
        return
    script.SITE_CA.parent.mkdir(parents=True, exist_ok=True)
    write_whole(script.SITE_CA, pem, 0o644)


def ask(
    servers: Sequence[str], context: ssl.SSLContext, token: tokens.Token, hostname: str, csr: str
) -> dict[str, Any]:
    """Return the answer of the first server that gives one; "later" (429, 503) is retried.

    csr: this machine's certificate request, PEM. Raises RefusedError with the Primer's reason,
    HostError if none answers within TRY_SECONDS.
    """
    body = json.dumps({"token": str(token), "hostname": hostname, "csr": csr})
    deadline = time.monotonic() + TRY_SECONDS
    shown: dict[str, str] = {}
    while True:
        wait = _PAUSE
        for server in servers:
            try:
                return _post(server, context, body)
            except (OSError, http.client.HTTPException, _BusyError) as error:
                why = problem(error, time.time())
                if shown.get(server) != why:  # once: repeated every 3 s it would fill a console
                    log.info(f"  {server}: {why}; trying again")
                shown[server] = why
                if time.monotonic() > deadline:
                    raise HostError(f"{_TIMED_OUT}: {server}: {why}", hint=_CHECK) from error
                wait = max(wait, getattr(error, "seconds", 0))
        # At random, so that machines that started together do not all retry together.
        time.sleep(wait * random.uniform(1, 1.5))  # noqa: S311 not used for a secret


def problem(error: Exception, now: float) -> str:
    """Return why a request failed. now: this machine's clock, seconds since 1970."""
    if isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in _DATES:
        clock = time.strftime("%Y-%m-%d %H:%M", time.gmtime(now))
        return f"{error.verify_message}; check this machine's clock: it shows {clock} UTC"
    return str(error)


class _BusyError(Exception):
    """The Primer asks to retry later. seconds: how long to wait (Retry-After); 0 if not named."""

    def __init__(self, text: str, seconds: int = 0) -> None:
        super().__init__(text)
        self.seconds = seconds


def _post(server: str, context: ssl.SSLContext, body: str) -> dict[str, Any]:
    where = urllib.parse.urlsplit(server)
    assert where.hostname, "cli checks the format"
    link = http.client.HTTPSConnection(where.hostname, where.port, timeout=600, context=context)
    with closing(link):
        link.request("POST", "/v1/join", body, {"Content-Type": "application/json"})
        reply = link.getresponse()
        value = _object(reply.read(ANSWER_LIMIT))
        if reply.status == http.client.OK and "roles" in value:
            return value
        text = str(value.get("error", f"HTTP {reply.status} {reply.reason}"))
        later = reply.status in tokens.AGAIN or reply.status >= http.client.INTERNAL_SERVER_ERROR
        if later or reply.status == http.client.OK:
            pause = reply.headers.get("Retry-After", "")
            raise _BusyError(text, min(int(pause), _LONGEST) if pause.isdecimal() else 0)
        raise RefusedError(f"{server} refused: {text}")


def _object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in the body; empty for an answer of nginx instead of the service."""
    try:
        return dict(json.loads(body))
    except (ValueError, TypeError):
        return {}


def _keep(answer: Mapping[str, Any], token: tokens.Token) -> None:
    """Save the answer for a later run. Neither it nor a token's id is secret."""
    write_whole(ANSWER, json.dumps({**answer, "token": token.id}).encode(), 0o600)


def fetch_all(
    wanted: Sequence[Mapping[str, Any]], primers: Sequence[str], context: ssl.SSLContext
) -> None:
    """Fetch every missing blob from any Primer, and verify its digest."""
    missing = [blob for blob in wanted if not _blob(blob["sha256"]).exists()]
    if not missing:
        return
    BLOBS.mkdir(parents=True, exist_ok=True)
    total = sum(int(blob["size"]) for blob in missing)
    with log.progress(f"fetch files ({len(missing)}, {log.size(total)})", total) as bar:
        for blob in missing:
            bar.describe(f"fetch {blob['name']}")
            fetch(blob["sha256"], int(blob["size"]), primers, context, bar)


def fetch(
    digest: str, size: int, primers: Sequence[str], context: ssl.SSLContext, bar: log.Bar
) -> None:
    """Fetch one blob; resume an interrupted download. It gets its final name once verified.

    size: bytes. Raises HostError if no Primer sent it within TRY_SECONDS, or this disk fails.
    """
    whole = _blob(digest)
    part = whole.with_name(f"{digest}.part")
    deadline = time.monotonic() + TRY_SECONDS
    attempt = 0
    while True:
        address = primers[attempt % len(primers)]
        attempt += 1
        try:
            _get(address, digest, part, size, context, bar)
            if _sha256(part) == digest:
                files.settle(part, whole, synced=True)
                return
            part.unlink()
            problem = f"{address} sent wrong content for {digest}"
        except (OSError, http.client.HTTPException) as error:
            # An error of this machine's disk, not of a Primer.
            if isinstance(error, OSError) and error.errno in files.NEXT:
                raise files.refusal(error, part, size) from error
            problem = f"{address}: {error}"
        if time.monotonic() > deadline:
            raise HostError(f"{_TIMED_OUT}: no Primer sent {digest}: {problem}", hint=_CHECK)
        log.info(f"  {problem}; trying again")
        time.sleep(1)


def _blob(digest: object) -> Path:
    """Return a blob's path. Raises HostError if the digest is malformed and could be a path."""
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise HostError(
            f"a Primer named a blob {str(digest)[:80]!r}, which is not a SHA-256",
            hint="examine the join service of that Primer before this machine joins",
        )
    return BLOBS / digest


def _get(
    address: str, digest: str, part: Path, size: int, context: ssl.SSLContext, bar: log.Bar
) -> None:
    have = part.stat().st_size if part.exists() else 0
    if have >= size:
        return
    host, _, port = address.partition(":")
    link = http.client.HTTPSConnection(
        host, int(port or script.FILES_PORT), timeout=120, context=context
    )
    with closing(link):
        link.request("GET", f"/files/sha256/{digest}", headers={"Range": f"bytes={have}-"})
        reply = link.getresponse()
        if reply.status not in (http.client.OK, http.client.PARTIAL_CONTENT):
            raise OSError(f"HTTP {reply.status}")
        resumed = reply.status == http.client.PARTIAL_CONTENT
        handle = open_own(part, os.O_WRONLY | os.O_APPEND | os.O_CREAT) if resumed else create(part)
        with os.fdopen(handle, "ab") as file:
            missing = size - file.tell()
            while chunk := reply.read(_CHUNK):
                missing -= len(chunk)
                if missing < 0:
                    raise OSError("more bytes than the bundle names")
                file.write(chunk)
                bar.advance(len(chunk))
            file.flush()
            os.fsync(file.fileno())
        if missing:
            raise OSError(f"incomplete: {missing} bytes are missing")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def converge(hostname: str, roles: Mapping[str, Mapping[str, object]]) -> None:
    """Run the worker's roles on this machine."""
    playbook.converge_here("worker", hostname, roles, title="join")
