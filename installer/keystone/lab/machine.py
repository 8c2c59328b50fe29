"""A machine of the lab, whatever it runs on: what `virtual.py` and `container.py` have in common.

What is on the host's disk is the state: a folder for each machine. Starting what runs does nothing,
and nothing is ever killed that was not found to be this very machine.
"""

from __future__ import annotations

import base64
import shutil
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import host_keys
from keystone.errors import HostError, UsageError
from keystone.files import write_whole
from keystone.lab import network
from keystone.run import Host, run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from keystone.lab.settings import LabSettings, MachineSettings

SSH_SECONDS = 900
"""Four machines that start together under emulation on two processors need three minutes each."""
CONNECT_SECONDS = 30
STOP_SECONDS = 120
"""An emulated machine with a kubelet takes its time to shut down."""
RUN = Path("/run/keystone-lab")
"""Locks and sockets of all labs of this host."""
MEDIA = "/media/keystone"
"""Where a machine sees what was carried in."""


@dataclass(frozen=True)
class Place:
    """Where machines lie: the lab's settings, its folder on this host, the key to log in with."""

    settings: LabSettings
    folder: Path
    key: Path

    @property
    def public_key(self) -> str:
        """The key's public half, one line."""
        return self.key.with_suffix(".pub").read_text()

    @property
    def known_hosts(self) -> Path:
        """The host keys of all machines, as the lab gave them."""
        return self.folder / "known_hosts"

    def host_key(self, name: str) -> Path:
        """A machine's host key, the public half beside it (.pub). It outlives the machine."""
        return self.folder / "host-keys" / name

    def host_line(self, name: str) -> str:
        """The public half, without a comment."""
        return host_keys.key(self.host_key(name).with_suffix(".pub").read_text())

    def host_files(self, name: str) -> str:
        """Both halves as lines of tmpfiles.d(5), which write them at each start of the machine."""
        key = self.host_key(name)
        return "".join(
            f"f+~ /etc/ssh/ssh_host_ed25519_key{file.suffix} {mode:o} root root - "
            f"{base64.b64encode(file.read_bytes()).decode()}\n"
            for file, mode in ((key, 0o600), (key.with_suffix(".pub"), 0o644))
        )

    def know(self) -> None:
        """Make the host keys that are not there yet, and the file by which all are known."""
        lines = []
        for machine in self.settings.machines:
            file = self.host_key(machine.name)
            file.parent.mkdir(mode=0o700, exist_ok=True)
            if not file.with_suffix(".pub").exists():
                file.unlink(missing_ok=True)
                run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", machine.name, "-f", file])
            lines.append(f"{machine.address} {self.host_line(machine.name)}\n")
        write_whole(self.known_hosts, "".join(lines).encode(), 0o644)


@dataclass(frozen=True)
class Status:
    """What `lab status` says of one machine; pid 0 when it does not run."""

    name: str
    address: str
    pid: int
    runs_on: str
    memory: str
    vcpus: int
    serials: tuple[str, ...]
    console: str


class Machine(ABC):
    """One machine, whether it runs or not."""

    def __init__(self, place: Place, wanted: MachineSettings) -> None:
        self._place = place
        self.settings = wanted
        self.name = wanted.name
        self.folder = place.folder / "machines" / wanted.name

    @property
    @abstractmethod
    def console(self) -> Path:
        """Everything that its console said, over all starts."""

    @abstractmethod
    def pid(self) -> int:
        """Id on this host of the process that is the machine, 0 when it does not run."""

    @abstractmethod
    def start(self) -> None:
        """Switch it on unless it runs; returns before it has started."""

    @abstractmethod
    def carry_in(self, files: Sequence[Path]) -> str:
        """Plug a stick that holds these files, in place of the one that is plugged.

        Returns the folder in which the machine sees them, read-only.
        """

    @abstractmethod
    def pull(self) -> None:
        """Pull the stick, whether somebody reads from it or not."""

    @abstractmethod
    def power_cut(self) -> None:
        """End it at once, as far from a shutdown as can be."""

    @abstractmethod
    def stop(self) -> None:
        """Ask it to power off, and end it when it does not do so in time."""

    @abstractmethod
    def paused(self) -> bool:
        """Whether it was paused and does not go on yet."""

    @abstractmethod
    def pause(self) -> None:
        """Let nothing on it run on until `resume`; it keeps its network and its connections."""

    @abstractmethod
    def resume(self) -> None:
        """Let it go on after `pause`."""

    @abstractmethod
    def status(self) -> Status:
        """What it is and whether it runs."""

    @abstractmethod
    def move_disks(self, target: Path) -> None:
        """Move what its disks hold into the folder `target`; what is there already stays."""

    @abstractmethod
    def unseal(self, source: Path) -> None:
        """Begin anew above the disks in `source`; may be repeated after being cut anywhere."""

    @abstractmethod
    def look_while_starting(self, seen: int) -> None:
        """Do what a start needs while ssh does not answer yet.

        seen: how long the console was, in bytes, before that.
        """

    @abstractmethod
    def complaint(self) -> str:
        """The end of what the program that carries the machine said, for an error."""

    def seal(self, target: Path) -> None:
        """Put what its disks hold into the new folder `target`, and go on above that.

        The machine is off. What is in `target` is never written again.
        """
        self.finish()
        self._sealing.symlink_to(target)
        self.finish()

    def restore(self, source: Path) -> None:
        """Give it the disks that `seal` put into `source`; what it has written since is lost."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sealing.unlink(missing_ok=True)
        self._restoring.unlink(missing_ok=True)
        self._restoring.symlink_to(source)
        self.finish()

    def finish(self) -> None:
        """Do the rest of a `seal` or a `restore` that was cut, if there is one."""
        if self._restoring.is_symlink():
            self.unseal(self._restoring.readlink())
            self._restoring.unlink()
        if self._sealing.is_symlink():
            target = self._sealing.readlink()
            target.mkdir(parents=True, exist_ok=True)
            self.move_disks(target)
            self.unseal(target)
            self._sealing.unlink()

    @property
    def _sealing(self) -> Path:
        return self.folder / "sealing"

    @property
    def _restoring(self) -> Path:
        return self.folder / "restoring"

    def made(self) -> bool:
        """Whether it was ever started."""
        return self.folder.exists()

    def host(self) -> Host:
        """The machine as the rest of Keystone sees it; ssh runs inside the lab's network."""
        return Host(
            name=self.name,
            address=str(self.settings.address),
            key_file=str(self._place.key),
            known_hosts=str(self._place.known_hosts),
            options=("-o", f"ConnectTimeout={CONNECT_SECONDS}"),
            prefix=network.prefix(self._place.settings),
        )

    def wait_ssh(self, *, seconds: float = SSH_SECONDS) -> float:
        """Wait until the machine runs a program for us; returns how many seconds that took.

        Raises HostError with the end of the console when it ends or time runs out.
        """
        start = time.monotonic()
        host, seen = self.host(), size(self.console)
        while time.monotonic() - start < seconds:
            # A program has its name on the command line a moment after it was started.
            if not self.pid() and not becomes(lambda: bool(self.pid()), 2):
                raise HostError(
                    f"{self.name}: it ended\n{self.complaint()}",
                    hint=f"its console: {self.console}",
                )
            try:
                host.run(["true"], timeout=2 * CONNECT_SECONDS)
            except HostError:
                self.look_while_starting(seen)
                time.sleep(0.1)
            else:
                return time.monotonic() - start
        raise HostError(
            f"{self.name}: no ssh after {seconds:.0f} s; its console ends with\n"
            f"{tail(self.console)}",
            hint=f"the whole console: {self.console}",
        )

    def run(self, argv: Sequence[str], *, check: bool = True, timeout: float = 600) -> str:
        """Run a program on the machine and return what it printed."""
        return self.host().run(argv, check=check, timeout=timeout).stdout

    def shell_argv(self, command: Sequence[str] = ()) -> list[str]:
        """An ssh for a person: with a terminal, and the person's own TERM.

        Words of a command are joined by spaces and are the remote shell's, as ssh(1) does it.
        """
        words = ["-tt" if word == "-T" else word for word in self.host().ssh_argv()]
        if not command:
            return words
        return [*self.host().ssh_argv(), "--", *command]

    def copy_to(self, source: Path, target: str, *, mode: int = 0o644) -> None:
        """Copy one file onto the machine; it has its name there only when it is whole."""
        half = f"{target}.partial"
        script = 'cat >"$1" && chmod "$2" "$1" && sync "$1" && mv "$1" "$3"'
        with source.open("rb") as file:
            argv = ["sh", "-c", script, "copy", half, f"{mode:o}", target]
            self.host().run(argv, stdin=file, timeout=3600)

    def connected(self) -> bool:
        """Whether it is on the network."""
        return network.joined(self._place.settings, self.settings)

    def disconnect(self) -> None:
        """Take the machine off the network; it does not notice but for the silence."""
        network.join(self._place.settings, network.device(self.settings), joined=False)

    def connect(self) -> None:
        """Put the machine back on the network."""
        network.join(self._place.settings, network.device(self.settings), joined=True)

    def forget(self) -> None:
        """Remove everything the machine ever wrote; the next start is of a new machine."""
        self.power_cut()
        if self.folder.exists():
            shutil.rmtree(self.folder)


def check_stick(files: Sequence[Path]) -> None:
    """Raise UsageError where two files of a stick would have one name."""
    names = [path.name for path in files]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"two files of the stick are called {', '.join(twice)}")


def becomes(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition comes true within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def size(path: Path) -> int:
    """Of a log that may not be there yet."""
    return path.stat().st_size if path.exists() else 0


def since(path: Path, offset: int) -> bytes:
    """What was added to a log."""
    if not path.exists():
        return b""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read()


def tail(path: Path, lines: int = 15) -> str:
    """The end of a log, for a message."""
    if not path.is_file():
        return "(it said nothing)"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
