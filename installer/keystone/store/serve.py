"""A verified bundle as what a Primer would serve of it: registry, apt repositories, files.

One address: nginx serves packages and files and hands /v2/ to CNCF distribution behind a Unix
socket. Both read a file system over the bundle's own file (`mounted`). Everything else that is
needed lies in memory in a mount namespace of this process, so nothing can be left behind.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import ssl
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from keystone import log, run
from keystone.bundle.read.bundle import Bundle, open_verified
from keystone.errors import (
    DamagedBundleError,
    HostError,
    InterruptedRunError,
    RefusedError,
    UsageError,
)
from keystone.store import mounted, programs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from subprocess import Popen  # noqa: TID251 the type of what run.spawned gives

WORK = Path("/mnt")
"""Everybody has it (FHS 3.0, 3.12); only this process and its children see what we put on it."""
NOBODY = 65534
START_SECONDS = 60
CERTIFICATE, KEY = "site.crt", "site.key"

NGINX = """\
daemon off;
# One process: the kernel ends it with us. Workers of a master that was killed would stay.
master_process off;
pid {run}/nginx.pid;
error_log stderr warn;
events {{}}
http {{
    client_body_temp_path {run}/body;
    proxy_temp_path {run}/proxy;
    fastcgi_temp_path {run}/fastcgi;
    uwsgi_temp_path {run}/uwsgi;
    scgi_temp_path {run}/scgi;
    access_log off;
    server_tokens off;
    sendfile on;
    default_type application/octet-stream;
    server {{
        listen {listen}{tls};
        if ($request_method !~ ^(GET|HEAD)$) {{
            return 405;
        }}
        location /v2/ {{
            proxy_pass http://unix:{run}/registry.sock;
            proxy_http_version 1.1;
            proxy_buffering off;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-Proto $scheme;
        }}
        location /apt/ {{
            alias {tree}/apt/;
        }}
        location /files/ {{
            alias {tree}/files/;
        }}
        location / {{
            return 404;
        }}
    }}
}}
"""
TLS = """ ssl;
        ssl_certificate {run}/site.crt;
        ssl_certificate_key {run}/site.key;
        ssl_protocols TLSv1.2 TLSv1.3"""


@dataclass(frozen=True)
class Listen:
    """Where to serve. site: folder with site.crt and site.key, for TLS as on a Primer.

    plain: plain HTTP even where others than this machine can reach it.
    """

    host: str
    port: int
    site: Path | None = None
    plain: bool = False

    @classmethod
    def parse(cls, text: str, site: Path | None = None, *, plain: bool = False) -> Listen:
        """From "127.0.0.1:0" or "[::1]:8080". Raises UsageError, or RefusedError without TLS."""
        host, _, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not host or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004 RFC 9293
            raise UsageError(f"{text}: not an address and a port", hint="like 127.0.0.1:8080")
        here = cls(host, int(port), site, plain)
        if site is None and not plain and not here.loopback:
            raise RefusedError(
                f"{text}: others could change what they let clients get over plain HTTP",
                hint=f"give --site-dir with {CERTIFICATE} and {KEY}, or say --plain-http",
            )
        return here

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it."""
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def address(self) -> str:
        """As clients and nginx write it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """What every address that is served starts with."""
        return f"{'https' if self.site else 'http'}://{self.address}"


@dataclass(frozen=True)
class Served:
    """What is being served, and from which address."""

    bundle: Bundle
    listen: Listen
    suites: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """For --json: where each part is."""
        url = self.listen.url
        images = [
            f"{self.listen.address}/{item.name}{'@' if ':' in item.version else ':'}{item.version}"
            for item in self.bundle.manifest.of_kind("image")
        ]
        return {
            "bundle": self.bundle.manifest.name,
            "number": self.bundle.manifest.number,
            "digest": self.bundle.digest,
            "registry": self.listen.address,
            "url": url,
            "apt": {suite: f"{url}/apt/{suite}" for suite in self.suites},
            "files": f"{url}/files",
            "images": images,
        }


@contextmanager
def verified(
    path: Path, *, fingerprint: str | None, confirm: Callable[[str], bool] | None
) -> Iterator[tuple[Bundle, int]]:
    """A bundle of which every byte was checked, and the very file that was, opened.

    Raises UntrustedBundleError, DamagedBundleError.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise DamagedBundleError(
            f"{path}: cannot be opened: {error.strerror}", hint="give the bundle's file or device"
        ) from error
    try:
        before = mounted.stamp(file)
        bundle = open_verified(path, fingerprint=fingerprint, confirm=confirm)
        after = path.stat()
        if mounted.stamp(file) != before or (after.st_dev, after.st_ino) != before[-2:]:
            raise DamagedBundleError(f"{path}: written to while it was verified")
        yield bundle, file
    finally:
        os.close(file)


def serve(bundle: Bundle, file: int, listen: Listen, ready: Callable[[Served], None]) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP; `ready` is called when clients may come.

    file: the bundle's, opened before it was verified. Raises HostError when a program ends,
    DamagedBundleError when the file is written to meanwhile.
    """
    listen = _with_port(listen)
    with log.step("lay the bundle out"):
        files = mounted.tree(bundle)
    signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))
    secrets = _credentials(listen)
    mounted.isolate()
    with ExitStack() as stack:
        changed = os.eventfd(0, os.EFD_CLOEXEC)
        stack.callback(os.close, changed)
        work = stack.enter_context(mounted.scratch(WORK, "0755"))
        for name in ("tree", "run", "programs"):
            (work / name).mkdir()
        operations = mounted.Operations(file, files, lambda: os.eventfd_write(changed, 1))
        stack.enter_context(mounted.mounted(operations, work / "tree"))
        # By its handle: WORK may hide the file, and libfuse has changed the working directory.
        inside = replace(bundle, path=Path(f"/proc/self/fd/{file}"))
        running = _start(inside, listen, secrets, work, stack)
        suites = sorted({name.split("/")[1] for name in files if name.startswith("apt/")})
        ready(Served(bundle, listen, tuple(suites)))
        _wait(running, changed, bundle.path)


def _start(
    bundle: Bundle, listen: Listen, secrets: dict[str, bytes], work: Path, stack: ExitStack
) -> dict[str, tuple[Popen[bytes], Path]]:
    """Both servers; each with its log. They answer when this returns."""
    place = work / "run"
    for name, data in secrets.items():
        (place / name).write_bytes(data)
        (place / name).chmod(0o400)
    tls = TLS.format(run=place) if secrets else ""
    (place / "nginx.conf").write_text(
        NGINX.format(run=place, tree=work / "tree", listen=listen.address, tls=tls)
    )
    (place / "registry.yml").write_text(yaml.safe_dump(_registry(work)))
    if os.geteuid() == 0:
        for path in (place, *place.iterdir()):
            os.chown(path, NOBODY, NOBODY)
    commands = {
        "registry": [
            *programs.registry(bundle, work / "programs"), "serve", str(place / "registry.yml"),
        ],
        "nginx": [
            *programs.nginx(bundle, work / "programs"),
            "-p", str(place), "-e", "stderr", "-c", str(place / "nginx.conf"),
        ],
    }  # fmt: skip
    running = {}
    for name, argv in commands.items():
        output = work / f"{name}.log"
        # It would otherwise send traces to a collector that nobody runs.
        quiet = {"OTEL_TRACES_EXPORTER": "none"}
        process = stack.enter_context(run.spawned(_bound(argv), env=quiet, log_file=output))
        running[name] = (process, output)
    _answering(str(place / "registry.sock"), "registry", *running["registry"])
    _answering((listen.host, listen.port), "nginx", *running["nginx"])
    return running


def _registry(work: Path) -> dict[str, object]:
    """distribution.github.io/distribution/about/configuration; as on a Primer, behind nginx."""
    return {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(work / "tree/registry")},
            "maintenance": {"readonly": {"enabled": True}},
            "delete": {"enabled": False},
            "redirect": {"disable": True},
        },
        "http": {"net": "unix", "addr": str(work / "run/registry.sock"), "relativeurls": True},
    }


def _bound(argv: list[str]) -> list[str]:
    """Ended by the kernel when we end; and nobody, when we are root."""
    if os.geteuid() != 0 or not run.SETPRIV.exists():
        return run.bound(argv)
    user = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"]
    return [str(run.SETPRIV), *user, "--pdeathsig", "KILL", "--", *argv]


def _credentials(listen: Listen) -> dict[str, bytes]:
    """The certificate and key, read before nginx becomes nobody."""
    if listen.site is None:
        return {}
    pair = (listen.site / CERTIFICATE, listen.site / KEY)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*pair)
        return {path.name: path.read_bytes() for path in pair}
    except OSError as error:
        raise UsageError(
            f"{listen.site}: {CERTIFICATE} and {KEY} are not a certificate and its key: {error}",
            hint="give a Primer's /etc/keystone/pki, or a folder with such files",
        ) from error


def _with_port(listen: Listen) -> Listen:
    """The same with a free port where 0 was asked for. Raises UsageError for a foreign address."""
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    with socket.socket(family) as probe:
        # As nginx does: a connection of a run before, in TIME_WAIT, does not hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listen.host, listen.port))
        except OSError as error:
            raise UsageError(
                f"{listen.address}: {error.strerror}", hint="give an address and a free port of it"
            ) from error
        return Listen(listen.host, probe.getsockname()[1], listen.site, listen.plain)


def _answering(
    where: str | tuple[str, int], name: str, process: Popen[bytes], output: Path
) -> None:
    """Until the program takes connections. Raises HostError when it ends or takes too long."""
    ended = os.pidfd_open(process.pid)
    try:
        for _ in range(START_SECONDS * 20):
            if _takes(where):
                return
            if select.select([ended], [], [], 0.05)[0]:
                break
        raise _failed(name, output)
    finally:
        os.close(ended)


def _takes(where: str | tuple[str, int]) -> bool:
    local = isinstance(where, str)
    family = socket.AF_UNIX if local else socket.AF_INET6 if ":" in where[0] else socket.AF_INET
    with socket.socket(family) as client:
        return client.connect_ex(where) == 0


def _wait(running: dict[str, tuple[Popen[bytes], Path]], changed: int, path: Path) -> None:
    """Until a signal; a program's end or a change of the file is an error."""
    ends = {os.pidfd_open(process.pid): name for name, (process, _) in running.items()}
    try:
        ready = select.select([changed, *ends], [], [])[0]
    except InterruptedRunError:
        return
    finally:
        for handle in ends:
            os.close(handle)
    if changed in ready:
        raise DamagedBundleError(
            f"{path}: written to while it was served; nothing of that was given out",
            hint="verify it again: keystone-install bundle verify",
        )
    name = ends[ready[0]]
    raise _failed(name, running[name][1])


def _failed(name: str, output: Path) -> HostError:
    said = "\n".join(output.read_text(errors="replace").splitlines()[-10:])
    return HostError(f"{name}: ended or does not answer\n{said}", hint="re-run with --debug")
