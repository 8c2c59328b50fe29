"""A worker joins by itself: ask a Primer, fetch what it names, converge this machine.

Everything can be cut and run again: blobs resume, the token stays this machine's and its key's, the
roles finish what they began. The key is made here and never sent.
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
from keystone.files import again, new, write_whole
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
_PIECE = 256 * 1024
_PAUSE, _LONGEST = 3, 60
"""Seconds between two attempts, at least and as far as a Primer may ask for."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_DATES = (9, 10)
"""X509_V_ERR_CERT_NOT_YET_VALID and ..._HAS_EXPIRED (openssl-verification-options(1))."""


@dataclass(frozen=True)
class Machine:
    """What is true of this machine before it joins."""

    root: bool
    architecture: str
    swaps: tuple[str, ...]
    cgroup2: bool
    hostname: str
    machine_id: str
    container: str = ""
    """What systemd-detect-virt(1) calls it; nothing when it is none."""


def look() -> Machine:
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
    """It says "none" with an exit code of its own; a system without it is taken for a machine."""
    try:
        said = run.run(["systemd-detect-virt", "--container"], check=False).stdout.strip()
    except run.CommandError:
        return ""
    return "" if said == "none" else said


def findings(machine: Machine, profile: HostProfile = host_profile.MACHINE) -> list[str]:
    """Everything that keeps a machine from being a worker, each with what to do.

    profile: what the site counts on; one for trying bears with containers and cgroup v1.
    """
    found = []
    if not machine.root:
        found.append("not root: run the join command as root")
    if machine.architecture != "x86_64":
        found.append(f"architecture {machine.architecture}: the bundle is for x86_64")
    if machine.container and not profile.containers:
        found.append(
            f"a container ({machine.container}): its kernel and clock are another machine's; "
            "only trial sites (spec.trial) take it"
        )
    if machine.swaps and not (machine.container and not profile.own_memory):
        found.append(
            f"swap is on ({', '.join(machine.swaps)}): `swapoff -a`, and take it out of /etc/fstab"
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
    """Join this machine. trial: the site is for trying (its join command says so).

    Raises PreflightError, RefusedError (the token), HostError.
    """
    machine = look()
    problems = findings(machine, host_profile.TRIAL if trial else host_profile.MACHINE)
    if problems:
        raise PreflightError(
            f"{machine.hostname} cannot join", findings=problems, hint="then run the command again"
        )
    context = trust(ca_file, token)
    done = DONE.exists() and ANSWER.exists()
    answer = json.loads(ANSWER.read_text()) if done else {}
    if done and "identity" not in answer:
        raise RefusedError(
            f"{machine.hostname} was joined by an older installer, whose answer this one "
            "cannot use",
            hint="it stays the node that it is; to have it as new ones are, install it anew",
        )
    standing.require_own(machine.hostname, ca_file, script.SITE_CA, DONE)
    if done:
        log.info(f"{machine.hostname} has joined already; looking whether all is as it should be")
        standing.require_kept(machine.hostname)
        place_ca(ca_file)
    else:
        answer = _admitted(servers, context, token, machine.hostname, trial=trial)
        place_ca(ca_file)  # before the identity: by it `standing` knows whose that is
        identity.place(identity.Identity(**answer["identity"]))
    fetch_all(answer["blobs"], answer["primers"], context)
    with log.step(f"converge {machine.hostname}"):
        converge(machine.hostname, answer["roles"])
    log.info(f"{machine.hostname} is a node of the cluster now")


def _admitted(
    servers: Sequence[str], context: ssl.SSLContext, token: tokens.Token, hostname: str, *,
    trial: bool,
) -> dict[str, Any]:  # fmt: skip
    """What this machine is told, kept for a later run. Raises as `main`."""
    answer = kept(token, hostname) or _asked(servers, context, token, hostname)
    if answer.get("trial", False) is not trial:
        is_not = "is no trial site" if trial else "is a trial site"
        raise RefusedError(
            f"the site {is_not}, and this command is not for it",
            hint="run the command that its `token create` printed, unchanged",
        )
    _keep(answer, token)
    return answer


def _asked(
    servers: Sequence[str], context: ssl.SSLContext, token: tokens.Token, hostname: str
) -> dict[str, Any]:
    with log.step("ask to join"):
        csr = identity.made(hostname, identity.KEY)
        return ask(servers, context, token, hostname, csr)


def kept(token: tokens.Token, hostname: str) -> dict[str, Any] | None:
    """What an earlier run with this token was answered, while its certificate is good here.

    A run that failed after the answer goes on with it: nothing is asked of a Primer again. None
    where there is none, or it is another token's, name's or key's, for an address that this machine
    has not, or its certificate has ended.
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
            here.bind((answer["address"], 0))  # OSError: it is another machine's now, or nobody's
    except (OSError, ValueError, KeyError, TypeError, KeystoneError):
        return None
    now = time.time()
    begins, ends = found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp()
    return answer if mine and begins <= now < ends else None


def trust(ca_file: Path, token: tokens.Token) -> ssl.SSLContext:
    """TLS that trusts the site's CA and nobody else. Raises RefusedError on another CA."""
    try:
        pem = ca_file.read_bytes().decode(errors="replace")
    except OSError as error:
        raise HostError(f"{ca_file}: {error.strerror}: the site's CA is missing") from error
    if script.pin(pem) != token.pin:
        raise RefusedError(
            f"{ca_file} is not the CA that the token names",
            hint="use the whole command that `token create` printed, from the same site",
        )
    context = ssl.create_default_context(cadata=pem)
    # An issuing CA is the anchor here; the offline root above it is not on this machine.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def place_ca(ca_file: Path) -> None:
    """The CA lies where the roles look for it, whole, wherever the token's file was."""
    pem = ca_file.read_bytes()
    if script.SITE_CA.is_file() and script.SITE_CA.read_bytes() == pem:
        return
    script.SITE_CA.parent.mkdir(parents=True, exist_ok=True)
    write_whole(script.SITE_CA, pem, 0o644)


def ask(
    servers: Sequence[str], context: ssl.SSLContext, token: tokens.Token, hostname: str, csr: str
) -> dict[str, Any]:
    """The Primer's answer. Tries all servers until one answers; a refusal is final, "later" is not.

    csr: this machine's request for a certificate, PEM. Raises RefusedError with the Primer's words,
    HostError when none answers in TRY_SECONDS.
    """
    body = json.dumps({"token": str(token), "hostname": hostname, "csr": csr})
    deadline = time.monotonic() + TRY_SECONDS
    said: dict[str, str] = {}
    while True:
        wait = _PAUSE
        for server in servers:
            try:
                return _post(server, context, body)
            except (OSError, http.client.HTTPException, _BusyError) as error:
                why = problem(error, time.time())
                if said.get(server) != why:  # a console that says it every 3 s says nothing else
                    log.info(f"  {server}: {why}; trying on")
                said[server] = why
                if time.monotonic() > deadline:
                    raise HostError(f"{server}: {why}", hint="is the Primer up?") from error
                wait = max(wait, getattr(error, "seconds", 0))
        # Machines that are started together and told the same do not come back together.
        time.sleep(wait * random.uniform(1, 1.5))  # noqa: S311 nothing is secret in it


def problem(error: Exception, now: float) -> str:
    """Why a Primer could not be asked, in words. now: this machine's clock, seconds since 1970."""
    if isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in _DATES:
        clock = time.strftime("%Y-%m-%d %H:%M", time.gmtime(now))
        return f"{error.verify_message}; is this machine's clock right? It says {clock} UTC"
    return str(error)


class _BusyError(Exception):
    """The Primer answers, but not now. seconds: what it says to wait (Retry-After)."""

    def __init__(self, text: str, seconds: int = 0) -> None:
        super().__init__(text)
        self.seconds = seconds


def _post(server: str, context: ssl.SSLContext, body: str) -> dict[str, Any]:
    where = urllib.parse.urlsplit(server)
    assert where.hostname, "cli checks the form"
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
            asked = reply.headers.get("Retry-After", "")
            raise _BusyError(text, min(int(asked), _LONGEST) if asked.isdecimal() else 0)
        raise RefusedError(f"{server} refused: {text}")


def _object(body: bytes) -> dict[str, Any]:
    """What was answered; nothing when it is not the service that speaks, but nginx before it."""
    try:
        return dict(json.loads(body))
    except (ValueError, TypeError):
        return {}


def _keep(answer: Mapping[str, Any], token: tokens.Token) -> None:
    """Remember the answer for a later run. Nothing in it is secret, nor is a token's id."""
    write_whole(ANSWER, json.dumps({**answer, "token": token.id}).encode(), 0o600)


def fetch_all(
    wanted: Sequence[Mapping[str, Any]], primers: Sequence[str], context: ssl.SSLContext
) -> None:
    """Every blob that is not here yet, from any Primer, checked against its digest."""
    missing = [blob for blob in wanted if not _blob(blob["sha256"]).exists()]
    if not missing:
        return
    BLOBS.mkdir(parents=True, exist_ok=True)
    total = sum(int(blob["size"]) for blob in missing)
    with log.progress(f"fetch {len(missing)} files, {log.size(total)}", total) as bar:
        for blob in missing:
            bar.describe(f"fetch {blob['name']}")
            fetch(blob["sha256"], int(blob["size"]), primers, context, bar)


def fetch(
    digest: str, size: int, primers: Sequence[str], context: ssl.SSLContext, bar: log.Bar
) -> None:
    """One blob, resumed where a cut left it; it has its final name only when whole and synced.

    Raises HostError when no Primer gave it in TRY_SECONDS.
    """
    whole = _blob(digest)
    part = whole.with_name(f"{digest}.part")
    deadline = time.monotonic() + TRY_SECONDS
    turn = 0
    while True:
        address = primers[turn % len(primers)]
        turn += 1
        try:
            _get(address, digest, part, size, context, bar)
            if _sha256(part) == digest:
                part.rename(whole)
                return
            part.unlink()
            problem = f"{address} gave other bytes than the bundle's for {digest}"
        except (OSError, http.client.HTTPException) as error:
            if (
                isinstance(error, OSError) and error.errno in files.NEXT
            ):  # this machine's disk, no Primer's
                raise files.refusal(error, part, size) from error
            problem = f"{address}: {error}"
        if time.monotonic() > deadline:
            raise HostError(f"no Primer gave blob {digest}: {problem}", hint="are they up?")
        log.info(f"  {problem}; trying on")
        time.sleep(1)


def _blob(digest: object) -> Path:
    """Where a blob lies. Raises HostError for what is no digest, before it is a path."""
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise HostError(
            f"a Primer names a blob {str(digest)[:80]!r}, which is no SHA-256",
            hint="look at the join service of that Primer before this machine joins",
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
        handle = again(part, os.O_WRONLY | os.O_APPEND | os.O_CREAT) if resumed else new(part)
        with os.fdopen(handle, "ab") as file:
            room = size - file.tell()
            while piece := reply.read(_PIECE):
                room -= len(piece)
                if room < 0:
                    raise OSError("more bytes than the bundle says")
                file.write(piece)
                bar.advance(len(piece))
            file.flush()
            os.fsync(file.fileno())
        if room:
            raise OSError(f"cut short, {room} bytes are missing")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def converge(hostname: str, roles: Mapping[str, Mapping[str, object]]) -> None:
    """Run the worker's roles on this machine."""
    playbook.converge_here("worker", hostname, roles, title="join")
