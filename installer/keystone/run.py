"""The only module that starts processes: argument lists, a clean environment, quoted commands.

`run` starts a program on this machine; `Host.run` starts it on a host of the site, over OpenSSH
or, if the host is this machine, directly. No other module of Keystone imports subprocess.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from dataclasses import replace as replaced
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

from keystone import host_keys, log
from keystone.errors import HostError, KeystoneError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

SSH_CONNECT_SECONDS = 60
"""Long enough for sshd of an emulated machine under load; a dead host still fails in 1 minute."""
SOON_SECONDS = 4
"""Long enough for a machine that works; for questions that must not wait for a dead one."""


@dataclass(frozen=True)
class Result:
    """Exit code, output (as text) and duration in seconds of a process that has ended."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str
    seconds: float


class CommandError(KeystoneError):
    """A program failed, is not installed, or timed out."""

    exit_code = 1

    def __init__(self, message: str, *, result: Result | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.result = result


class MissingProgramError(CommandError):
    """A program is not installed on this machine."""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of every child process.

    It does not inherit ours, except PATH and HOME as below, so a hostile environment has no effect.
    """
    base = {
        "PATH": os.environ.get("KEYSTONE_PATH")
        or "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "HOME": os.environ.get("HOME", "/root"),
    }
    return {**base, **(extra or {})}


def run(  # noqa: PLR0913 each is a plain keyword with a plain default
    argv: Sequence[str | os.PathLike[str]],
    *,
    data: str | None = None,
    stdin: IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    check: bool = True,
    timeout: float = 600,
    secrets: Sequence[str] = (),
    stdout: IO[bytes] | None = None,
) -> Result:
    """Run a program until it ends and capture its output.

    data: text for standard input; stdin: an open file instead. timeout: in seconds. secrets:
    strings that messages show as ***. stdout: a file that receives standard output instead.
    Raises CommandError when the program fails (with check) or times out, MissingProgramError when
    it is not installed.
    """
    words = tuple(os.fspath(word) for word in argv)
    shown = _shown(words, secrets)
    log.debug(f"$ {shown}")
    start = time.monotonic()
    try:
        done = subprocess.run(
            words,
            input=data.encode() if data is not None else None,
            stdin=(stdin or subprocess.DEVNULL) if data is None else None,
            stdout=stdout or subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(env),
            cwd=cwd,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as error:
        missing = error.filename if error.filename != cwd else words[0]
        raise MissingProgramError(
            f"{missing}: no such program", hint=f"install it, then run again: {shown}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"timed out after {timeout:.0f} s: {shown}") from error
    result = Result(
        words,
        done.returncode,
        (done.stdout or b"").decode(errors="replace"),
        done.stderr.decode(errors="replace"),
        time.monotonic() - start,
    )
    if check and result.returncode != 0:
        tail = "\n".join((result.stderr or result.stdout).strip().splitlines()[-15:])
        raise CommandError(
            f"exit code {result.returncode}: {shown}\n{_starred(tail, secrets)}",
            result=result,
            hint="run again with --debug to see every command",
        )
    return result


def become(argv: Sequence[str | os.PathLike[str]]) -> NoReturn:
    """Replace this process by another program; keep id, terminal and environment (execve(2))."""
    words = [os.fspath(word) for word in argv]
    log.debug(f"$ exec {shlex.join(words)}")
    os.execvp(words[0], words)  # noqa: S606 no shell is wanted


@contextmanager
def spawned(
    argv: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    log_file: Path | None = None,
    cwd: Path | None = None,
    stdout: int | None = None,
    together: bool = False,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program while the block runs, then end it by SIGTERM and, after 20 s, SIGKILL.

    log_file: receives its output. stdout: run.PIPE to read its output line by line. together:
    send standard error to the same place.
    """
    words = [os.fspath(word) for word in argv]
    log.debug(f"$ {shlex.join(words)} &")
    sink = log_file.open("ab") if log_file else None
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=stdout if stdout is not None else (sink or subprocess.DEVNULL),
            stderr=subprocess.STDOUT if together else (sink or subprocess.DEVNULL),
            env=environment(env),
            cwd=cwd,
        )
        try:
            yield process
        finally:
            _end(process)
    finally:
        if sink:
            sink.close()


PIPE = subprocess.PIPE
SETPRIV = Path("/usr/bin/setpriv")


def bound(argv: Sequence[str]) -> list[str]:
    """Return the command so that the kernel kills it when this process ends, for any reason.

    A killed installer must not leave an ssh that still sends data to a host, or an Ansible that
    still changes it: they would disturb the next run. See setpriv(1), PR_SET_PDEATHSIG.
    """
    return [str(SETPRIV), "--pdeathsig", "KILL", "--", *argv] if SETPRIV.exists() else list(argv)


def attached(
    argv: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    typing: bool = False,
) -> int:
    """Run a program with our standard output and standard error; return its exit code.

    typing: with our standard input, too.
    """
    words = [os.fspath(word) for word in argv]
    log.debug(f"$ {shlex.join(words)}")
    return subprocess.run(
        words,
        stdin=None if typing else subprocess.DEVNULL,
        env=environment(env),
        check=False,
    ).returncode


def stream_lines(
    argv: Sequence[str | os.PathLike[str]],
    on_line: Callable[[str], None],
    *,
    env: Mapping[str, str] | None = None,
) -> int:
    """Run a program; pass each line of both outputs to `on_line` at once. Return its exit code."""
    with spawned(argv, env=env, stdout=PIPE, together=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            on_line(line.decode(errors="replace").rstrip("\r\n"))
        return process.wait()


def daemon(argv: Sequence[str | os.PathLike[str]], *, log_file: Path, pid_file: Path) -> int:
    """Start a program in a session of its own that outlives us.

    Return its process id and write it to `pid_file`.
    """
    with log_file.open("ab") as sink:
        process = subprocess.Popen(
            [os.fspath(word) for word in argv],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env=environment(),
            start_new_session=True,
        )
    pid_file.write_text(f"{process.pid}\n")
    return process.pid


def replace(argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
    """Replace this process by another program (such as an interactive ssh), with `environment`."""
    os.execvpe(argv[0], list(argv), environment(env))  # noqa: S606 a list, never a shell


def _end(process: subprocess.Popen[bytes], patience: float = 20) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _starred(text: str, secrets: Sequence[str]) -> str:
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return text


def _shown(words: Sequence[str], secrets: Sequence[str]) -> str:
    return _starred(shlex.join(words), secrets)


@dataclass(frozen=True)
class Host:
    """A machine of the site and how to run a program on it.

    local: it is this machine; SSH is not used. key_file: private key of OpenSSH. known_hosts: the
    file with the keys of all hosts that we may connect to; others are refused. prefix: words before
    `ssh`, for a host that can be reached from another network namespace only. connect_seconds: how
    long to wait for a host that does not answer.
    """

    name: str
    address: str
    user: str = "root"
    port: int = 22
    key_file: str = ""
    known_hosts: str = ""
    local: bool = False
    options: tuple[str, ...] = field(default=())
    prefix: tuple[str, ...] = field(default=())
    connect_seconds: int = SSH_CONNECT_SECONDS

    def soon(self, seconds: int = SOON_SECONDS) -> Host:
        """Return this host with a short wait for its answer, and a connection of its own.

        A shared connection to a machine that has just lost its power hangs for minutes.
        """
        return replaced(self, connect_seconds=seconds, options=("-o", "ControlPath=none"))

    def ssh_argv(self) -> list[str]:
        """Return the OpenSSH command up to, not including, the remote program."""
        keys = ["-i", self.key_file, "-o", "IdentitiesOnly=yes"] if self.key_file else []
        return [
            *self.prefix, "ssh", "-F", "none", "-T", *keys, *self.strict_host_key_options(),
            "-o", "BatchMode=yes",
            "-o", f"ConnectTimeout={self.connect_seconds}",
            "-o", "ServerAliveInterval=30",
            "-o", "ServerAliveCountMax=10",
            "-o", "LogLevel=ERROR",
            *self.options,
            "-p", str(self.port),
            f"{self.user}@{self.address}",
        ]  # fmt: skip

    def strict_host_key_options(self) -> list[str]:
        """Return the options by which OpenSSH connects only to hosts whose key is in `known_hosts`.

        ssh does not write to any known_hosts file.
        """
        return [
            "-o", f"UserKnownHostsFile={self.known_hosts or '/dev/null'}",
            "-o", "GlobalKnownHostsFile=/dev/null",
            "-o", "StrictHostKeyChecking=yes",
            "-o", "HashKnownHosts=no",
            "-o", "UpdateHostKeys=no",
        ]  # fmt: skip

    def scan(self) -> tuple[str, ...]:
        """Ask the host for its SSH host keys, which are not verified; return the best type first.

        Raises HostError when no SSH server answers.
        """
        # A connection for each kind, and sshd holds each against us: no kind that no host key has.
        argv = [
            "ssh-keyscan", "-T", str(SSH_CONNECT_SECONDS), "-t", "ed25519,ecdsa,rsa",
            "-p", str(self.port), self.address,
        ]  # fmt: skip
        scanned = run([*self.prefix, *argv], check=False, timeout=10 * SSH_CONNECT_SECONDS)
        seen = host_keys.known(scanned.stdout, host_keys.place(self.address, self.port))
        if not seen and host_keys.HUNG_UP.search(scanned.stderr):
            raise host_keys.hung_up(self.name, self.address)
        if not seen:
            raise HostError(
                f"{self.name} ({self.address}): no SSH server answers on port {self.port}",
                hint="check that the machine is on and connected to the network; then run the same "
                "command again",
            )
        return seen

    def _unknown_key(self) -> HostError:
        """Return the error for a host whose key is not in `known_hosts`, with its fingerprint."""
        file, where = Path(self.known_hosts or os.devnull), host_keys.place(self.address, self.port)
        known, seen = host_keys.known(file.read_text(), where), self.scan()
        if not known:
            return HostError(
                f"{self.name} ({self.address}): its SSH host key "
                f"{host_keys.fingerprint(seen[0])} is not known",
                hint="compare it with the one on the machine's console, then set "
                "primers[].hostKey in the site file",
            )
        same_type = [line for line in seen if line.split()[0] == known[0].split()[0]]
        expected = host_keys.fingerprint(known[0])
        return host_keys.another(self.name, self.address, expected, same_type or seen)

    def run(
        self,
        argv: Sequence[str],
        *,
        data: str | None = None,
        stdin: IO[bytes] | None = None,
        check: bool = True,
        timeout: float = 600,
        secrets: Sequence[str] = (),
        stdout: IO[bytes] | None = None,
    ) -> Result:
        """Run a program on the host, with the parameters of the function `run`.

        Raises HostError when the host cannot be reached, or the program fails or times out.
        """
        words = list(argv) if self.local else [*self.ssh_argv(), "--", shlex.join(argv)]
        try:
            result = run(
                bound(words), data=data, stdin=stdin, check=False, timeout=timeout,
                secrets=secrets, stdout=stdout,
            )  # fmt: skip
        except CommandError as error:
            raise HostError(f"{self.name} ({self.address}): {error.message}") from error
        ssh_failed = 255
        if not self.local and result.returncode == ssh_failed:
            if "Host key verification failed" in result.stderr:
                raise self._unknown_key()
            if "kex_exchange" in result.stderr and host_keys.HUNG_UP.search(result.stderr):
                raise host_keys.hung_up(self.name, self.address)
            raise HostError(
                f"{self.name} ({self.address}): cannot be reached: {result.stderr.strip()}",
                hint=f"try to connect: {shlex.join(self.ssh_argv())}",
            )
        if check and result.returncode != 0:
            tail = "\n".join((result.stderr or result.stdout).strip().splitlines()[-15:])
            raise HostError(
                f"{self.name}: exit code {result.returncode}: {_shown(argv, secrets)}\n"
                f"{_starred(tail, secrets)}"
            )
        return result
