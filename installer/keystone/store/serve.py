"""Serve a verified bundle like a Primer: a registry, apt repositories and files.

nginx listens on one address, serves packages and files, and forwards /v2/ to CNCF distribution on
a Unix socket. Both read a file system that maps the bundle's own file (`mounted`). All other files
are in memory in a mount namespace of this process, so nothing remains afterwards.
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
"""Exists on every host (FHS 3.0, 3.12). Only this process and its children see our mounts on it."""
NOBODY = 65534
START_SECONDS = 60
CERTIFICATE, KEY = "site.crt", "site.key"

NGINX = """\
daemon off;
# One process, which the kernel ends with its parent. Workers of a killed master would remain.
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
    """The address to serve on. site: folder with site.crt and site.key, for TLS as on a Primer.

    plain: use plain HTTP even when other machines can reach the address.
    """

    host: str
    port: int
    site: Path | None = None
    plain: bool = False

    @classmethod
    def parse(cls, text: str, site: Path | None = None, *, plain: bool = False) -> Listen:
        """Parse "127.0.0.1:0" or "[::1]:8080".

        Raises UsageError for another text, RefusedError for an address that other machines can
        reach, without TLS and without `plain`.
        """
        host, _, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not host or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004 RFC 9293
            raise UsageError(
                f"{text}: not an address and a port", hint="name both, like 127.0.0.1:8080"
            )
        here = cls(host, int(port), site, plain)
        if site is None and not plain and not here.loopback:
            raise RefusedError(
                f"{text}: other machines can reach this address, and anyone on the network could "
                "alter content sent over plain HTTP",
                hint=f"name a folder with {CERTIFICATE} and {KEY} by --site-dir, or accept the "
                "risk with --plain-http",
            )
        return here

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def address(self) -> str:
        """Host and port, as clients and nginx write them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The base URL of everything that is served."""
        return f"{'https' if self.site else 'http'}://{self.address}"


@dataclass(frozen=True)
class Served:
    """A bundle that is being served, with its address and apt suites."""

    bundle: Bundle
    listen: Listen
    suites: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """For --json: the address of each part."""
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
    """Verify every byte of a bundle. Yields the bundle and the open file that was verified.

    Raises UntrustedBundleError or DamagedBundleError.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise DamagedBundleError(
            f"{path}: cannot open: {error.strerror}", hint="name the bundle's file or device"
        ) from error
    try:
        before = mounted.stamp(file)
        bundle = open_verified(path, fingerprint=fingerprint, confirm=confirm)
        after = path.stat()
        if mounted.stamp(file) != before or (after.st_dev, after.st_ino) != before[-2:]:
            raise DamagedBundleError(
                f"{path}: changed during verification",
                hint="serve it after its copy is complete",
            )
        yield bundle, file
    finally:
        os.close(file)


def serve(bundle: Bundle, file: int, listen: Listen, ready: Callable[[Served], None]) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP. ready: called when clients can connect.

    file: the bundle's file, opened before verification. Raises HostError when a program ends,
    DamagedBundleError when the file changes meanwhile.
    """
    listen = _with_port(listen)
    with log.step("plan the paths to serve"):
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
        # Open it by its descriptor: WORK may hide the path, and libfuse changes the directory.
        inside = replace(bundle, path=Path(f"/proc/self/fd/{file}"))
        running = _start(inside, listen, secrets, work, stack)
        suites = sorted({name.split("/")[1] for name in files if name.startswith("apt/")})
        ready(Served(bundle, listen, tuple(suites)))
        _wait(running, changed, bundle.path)


def _start(
    bundle: Bundle, listen: Listen, secrets: dict[str, bytes], work: Path, stack: ExitStack
) -> dict[str, tuple[Popen[bytes], Path]]:
    """Start both servers, each with a log file, and wait until they accept connections."""
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
        # By default, the registry sends traces to a collector, which does not exist here.
        quiet = {"OTEL_TRACES_EXPORTER": "none"}
        process = stack.enter_context(run.spawned(_bound(argv), env=quiet, log_file=output))
        running[name] = (process, output)
    _answering(str(place / "registry.sock"), "registry", *running["registry"])
    _answering((listen.host, listen.port), "nginx", *running["nginx"])
    return running


def _registry(work: Path) -> dict[str, object]:
    """The registry's configuration, as on a Primer behind nginx.

    Source: distribution.github.io/distribution/about/configuration.
    """
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
    """The command, ended by the kernel when we end, and run as user nobody when we are root."""
    if os.geteuid() != 0 or not run.SETPRIV.exists():
        return run.bound(argv)
    user = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"]
    return [str(run.SETPRIV), *user, "--pdeathsig", "KILL", "--", *argv]


def _credentials(listen: Listen) -> dict[str, bytes]:
    """Read certificate and key, before nginx runs as user nobody. Raises UsageError."""
    if listen.site is None:
        return {}
    pair = (listen.site / CERTIFICATE, listen.site / KEY)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*pair)
        return {path.name: path.read_bytes() for path in pair}
    except OSError as error:
        raise UsageError(
            f"{listen.site}: {CERTIFICATE} and {KEY} are not a certificate and its key: {error}",
            hint="name a Primer's /etc/keystone/pki, or another folder with these two files",
        ) from error


def _with_port(listen: Listen) -> Listen:
    """Choose a free port for port 0. Raises UsageError when the address cannot be used."""
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    with socket.socket(family) as probe:
        # Like nginx: a connection of an earlier run in TIME_WAIT does not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listen.host, listen.port))
        except OSError as error:
            raise UsageError(
                f"{listen.address}: cannot listen: {error.strerror}",
                hint="name an address of this machine and a free port",
            ) from error
        return Listen(listen.host, probe.getsockname()[1], listen.site, listen.plain)


def _answering(
    where: str | tuple[str, int], name: str, process: Popen[bytes], output: Path
) -> None:
    """Wait until the program accepts connections.

    Raises HostError when it ends, or after START_SECONDS.
    """
    ended = os.pidfd_open(process.pid)
    try:
        for _ in range(START_SECONDS * 20):
            if _accepts(where):
                return
            if select.select([ended], [], [], 0.05)[0]:
                break
        raise _failed(name, output)
    finally:
        os.close(ended)


def _accepts(where: str | tuple[str, int]) -> bool:
    local = isinstance(where, str)
    family = socket.AF_UNIX if local else socket.AF_INET6 if ":" in where[0] else socket.AF_INET
    with socket.socket(family) as client:
        return client.connect_ex(where) == 0


def _wait(running: dict[str, tuple[Popen[bytes], Path]], changed: int, path: Path) -> None:
    """Wait for a signal.

    Raises HostError when a program ends, DamagedBundleError when the file changes.
    """
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
            f"{path}: changed while it was served; no changed byte was sent to a client",
            hint="verify it again: keystone-install bundle verify",
        )
    name = ends[ready[0]]
    raise _failed(name, running[name][1])


def _failed(name: str, output: Path) -> HostError:
    last = "\n".join(output.read_text(errors="replace").splitlines()[-10:])
    return HostError(
        f"{name}: ended or does not answer; its last output:\n{last}",
        hint="run the command again with --debug",
    )
