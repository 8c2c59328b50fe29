"""The only door to processes: argument lists, a clean environment, a failure one can paste.

`run` starts a program here; `Host.run` starts it on a host of the site, over OpenSSH or,
for the machine we are on, directly. Nothing else in Keystone imports subprocess.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

from keystone import host_keys, log
from keystone.errors import HostError, KeystoneError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

SSH_CONNECT_SECONDS = 60
"""Under load an emulated machine's sshd answers late; a dead host still fails in a minute."""


@dataclass(frozen=True)
class Result:
    """What a finished process left behind. Output is text unless the call asked for bytes."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str
    seconds: float


class CommandError(KeystoneError):
    """A program failed, was missing or took too long."""

    exit_code = 1

    def __init__(self, message: str, *, result: Result | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.result = result


class MissingProgramError(CommandError):
    """There is no such program on this machine."""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of every child: built from nothing, so a hostile one cannot steer us."""
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
    """Run a program to its end and capture what it says.

    data: text for standard input; stdin: an open file instead. `timeout` in seconds.
    secrets: strings starred out in messages. stdout: a file to receive it instead.
    Raises CommandError when the program fails (with check) or times out, MissingProgramError.
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
            f"{missing}: no such program", hint=f"install it, then re-run: {shown}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"no end after {timeout:.0f} s: {shown}") from error
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
            hint="re-run with --debug to see every command",
        )
    return result


def become(argv: Sequence[str | os.PathLike[str]]) -> NoReturn:
    """Go on as another program, with this process's id, terminal and environment (execve(2))."""
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
    """A program that runs while the block does; ended by SIGTERM, then SIGKILL, by its own id.

    stdout: pass run.PIPE to read what it says line by line; together: standard error with it.
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
    """The same program, ended by the kernel when we end, however we end (PR_SET_PDEATHSIG).

    A killed installer must not leave behind an ssh that goes on feeding a host, or an Ansible that
    goes on converging it: the run that follows would meet them. See setpriv(1).
    """
    return [str(SETPRIV), "--pdeathsig", "KILL", "--", *argv] if SETPRIV.exists() else list(argv)


def attached(
    argv: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    typing: bool = False,
) -> int:
    """A program whose output goes where ours goes, as it comes; returns its exit code.

    typing: it reads what is typed here, too.
    """
    words = [os.fspath(word) for word in argv]
    log.debug(f"$ {shlex.join(words)}")
    return subprocess.run(
        words,
        stdin=None if typing else subprocess.DEVNULL,
        env=environment(env),
        check=False,
    ).returncode


def heard(
    argv: Sequence[str | os.PathLike[str]],
    hear: Callable[[str], None],
    *,
    env: Mapping[str, str] | None = None,
) -> int:
    """A program whose lines, of both outputs, go to `hear` as they come; returns its exit code."""
    with spawned(argv, env=env, stdout=PIPE, together=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            hear(line.decode(errors="replace").rstrip("\r\n"))
        return process.wait()


def daemon(argv: Sequence[str | os.PathLike[str]], *, log_file: Path, pid_file: Path) -> int:
    """Start a program that outlives us, in a session of its own; returns and records its id."""
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
    """Become another program (an interactive ssh, say)."""
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

    local: this very machine, no SSH. key_file: OpenSSH's. known_hosts: the file with the keys of
    all that may be spoken to; nobody else is. prefix: words before `ssh`, for a host that only
    another network namespace reaches.
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

    def ssh_argv(self) -> list[str]:
        """The OpenSSH command up to, not including, the remote program."""
        keys = ["-i", self.key_file, "-o", "IdentitiesOnly=yes"] if self.key_file else []
        return [
            *self.prefix, "ssh", "-F", "none", "-T", *keys, *self.strangers_refused(),
            "-o", "BatchMode=yes",
            "-o", f"ConnectTimeout={SSH_CONNECT_SECONDS}",
            "-o", "ServerAliveInterval=30",
            "-o", "ServerAliveCountMax=10",
            "-o", "LogLevel=ERROR",
            *self.options,
            "-p", str(self.port),
            f"{self.user}@{self.address}",
        ]  # fmt: skip

    def strangers_refused(self) -> list[str]:
        """OpenSSH's options by which only a machine with the known key is spoken to.

        ssh writes to no file of known keys.
        """
        return [
            "-o", f"UserKnownHostsFile={self.known_hosts or '/dev/null'}",
            "-o", "GlobalKnownHostsFile=/dev/null",
            "-o", "StrictHostKeyChecking=yes",
            "-o", "HashKnownHosts=no",
            "-o", "UpdateHostKeys=no",
        ]  # fmt: skip

    def scan(self) -> tuple[str, ...]:
        """The host keys with which somebody answers there, whoever it is, best kind first.

        Raises HostError when nobody answers.
        """
        argv = ["ssh-keyscan", "-T", str(SSH_CONNECT_SECONDS), "-p", str(self.port), self.address]
        said = run([*self.prefix, *argv], check=False, timeout=10 * SSH_CONNECT_SECONDS)
        seen = host_keys.known(said.stdout, host_keys.place(self.address, self.port))
        if not seen:
            raise HostError(
                f"{self.name} ({self.address}): no SSH server answers at port {self.port}",
                hint="is the machine on, and in the network? Then run the same command again",
            )
        return seen

    def another_key(self, expected: str, seen: Sequence[str]) -> HostError:
        """Somebody else answers. expected: a fingerprint."""
        return HostError(
            f"{self.name} ({self.address}): answers with another SSH host key than its own\n"
            f"  expected {expected}, seen {host_keys.fingerprint(seen[0])}",
            hint="find out who answers there; if it was installed anew, compare with its console "
            "and put its new key into the site file (primers[].hostKey)",
        )

    def _stranger(self) -> HostError:
        """Somebody answered whose key is not the known one: say which it is."""
        file, where = Path(self.known_hosts or os.devnull), host_keys.place(self.address, self.port)
        known, seen = host_keys.known(file.read_text(), where), self.scan()
        if not known:
            return HostError(
                f"{self.name} ({self.address}): nobody vouches for its SSH host key "
                f"{host_keys.fingerprint(seen[0])}",
                hint="put it into the site file (primers[].hostKey)",
            )
        alike = [line for line in seen if line.split()[0] == known[0].split()[0]]
        return self.another_key(host_keys.fingerprint(known[0]), alike or seen)

    def run(
        self,
        argv: Sequence[str],
        *,
        data: str | None = None,
        stdin: IO[bytes] | None = None,
        check: bool = True,
        timeout: float = 600,
        secrets: Sequence[str] = (),
    ) -> Result:
        """`run`, there. Raises HostError when the host cannot be reached or the program fails."""
        words = list(argv) if self.local else [*self.ssh_argv(), "--", shlex.join(argv)]
        try:
            result = run(
                bound(words), data=data, stdin=stdin, check=False, timeout=timeout, secrets=secrets
            )
        except CommandError as error:
            raise HostError(f"{self.name} ({self.address}): {error.message}") from error
        ssh_failed = 255
        if not self.local and result.returncode == ssh_failed:
            if "Host key verification failed" in result.stderr:
                raise self._stranger()
            raise HostError(
                f"{self.name} ({self.address}): cannot be reached: {result.stderr.strip()}",
                hint=f"try it by hand: {shlex.join(self.ssh_argv())}",
            )
        if check and result.returncode != 0:
            tail = "\n".join((result.stderr or result.stdout).strip().splitlines()[-15:])
            raise HostError(
                f"{self.name}: exit code {result.returncode}: {_shown(argv, secrets)}\n"
                f"{_starred(tail, secrets)}"
            )
        return result
