"""A machine of the lab: the common base of `virtual.py` and `container.py`.

The state of each machine is in its folder on the host. Starting a running machine does nothing. No
process is killed unless it was found to belong to this machine.
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
from keystone.lab.machines import network
from keystone.run import Host, run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from keystone.lab.settings import LabSettings, MachineSettings

SSH_SECONDS = 900
"""Timeout of a start: four machines emulated on two processors need three minutes each."""
CONNECT_SECONDS = 30
STOP_SECONDS = 120
"""Timeout of a shutdown: an emulated machine with a kubelet is slow."""
RUN = Path("/run/keystone-lab")
"""Folder with locks and sockets of all labs on this host."""
MEDIA = "/media/keystone"
"""Mount point of the stick on a machine."""


@dataclass(frozen=True)
class Place:
    """Settings of a lab, its folder on this host, and the SSH key for its machines."""

    settings: LabSettings
    folder: Path
    key: Path

    @property
    def public_key(self) -> str:
        """The public key, one line."""
        return self.key.with_suffix(".pub").read_text()

    @property
    def known_hosts(self) -> Path:
        """The known_hosts file with the host keys of all machines."""
        return self.folder / "known_hosts"

    def host_key(self, name: str) -> Path:
        """File of a machine's host key, with a .pub beside it. It is kept for new machines."""
        return self.folder / "host-keys" / name

    def host_line(self, name: str) -> str:
        """The public host key of a machine, without a comment."""
        return host_keys.key(self.host_key(name).with_suffix(".pub").read_text())

    def host_files(self, name: str) -> str:
        """Lines of tmpfiles.d(5) that write host key and .pub at each start of a machine."""
        key = self.host_key(name)
        return "".join(
            f"f+~ /etc/ssh/ssh_host_ed25519_key{file.suffix} {mode:o} root root - "
            f"{base64.b64encode(file.read_bytes()).decode()}\n"
            for file, mode in ((key, 0o600), (key.with_suffix(".pub"), 0o644))
        )

    def make_host_keys(self) -> None:
        """Make missing host keys, and write the known_hosts file."""
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
    """A line of `lab status`. pid: 0 if the machine does not run."""

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
        """File with the output of its console over all starts."""

    @abstractmethod
    def pid(self) -> int:
        """Id of the machine's process on this host, 0 if the machine does not run."""

    @abstractmethod
    def start(self) -> None:
        """Switch the machine on, unless it runs. Returns before it has started."""

    @abstractmethod
    def carry_in(self, files: Sequence[Path]) -> str:
        """Plug in a stick with these files, instead of the previous one.

        Returns the folder of the files on the machine, which is read-only.
        """

    @abstractmethod
    def pull(self) -> None:
        """Unplug the stick, even while it is being read."""

    @abstractmethod
    def power_cut(self) -> None:
        """Switch the machine off at once, without a shutdown."""

    @abstractmethod
    def stop(self) -> None:
        """Ask the machine to power off, and switch it off if it does not do so in time."""

    @abstractmethod
    def paused(self) -> bool:
        """Whether the machine is paused."""

    @abstractmethod
    def pause(self) -> None:
        """Stop all its processes until `resume`; network and connections are kept."""

    @abstractmethod
    def resume(self) -> None:
        """Let the machine continue after `pause`."""

    @abstractmethod
    def status(self) -> Status:
        """Status of the machine."""

    @abstractmethod
    def move_disks(self, target: Path) -> None:
        """Move the data of its disks to the folder `target`, except what is there already."""

    @abstractmethod
    def unseal(self, source: Path) -> None:
        """Start over with layers above the disks in `source`; can be repeated if interrupted."""

    @abstractmethod
    def look_while_starting(self, seen: int) -> None:
        """Handle problems of a start while ssh does not answer yet.

        seen: length of the console's output, in bytes, before the start.
        """

    @abstractmethod
    def complaint(self) -> str:
        """The last output of the program that runs the machine, for an error message."""

    def seal(self, target: Path) -> None:
        """Move the data of its disks to the new folder `target`, and continue with layers above it.

        The machine is off. The data in `target` is never written again.
        """
        self.finish()
        self._sealing.symlink_to(target)
        self.finish()

    def restore(self, source: Path) -> None:
        """Return to the disks that `seal` put into `source`; later data is lost."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sealing.unlink(missing_ok=True)
        self._restoring.unlink(missing_ok=True)
        self._restoring.symlink_to(source)
        self.finish()

    def finish(self) -> None:
        """Complete an interrupted `seal` or `restore`, if there is one."""
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
        """Whether the machine was started before."""
        return self.folder.exists()

    def host(self) -> Host:
        """The machine as a host of Keystone; ssh runs inside the lab's network."""
        return Host(
            name=self.name,
            address=str(self.settings.address),
            key_file=str(self._place.key),
            known_hosts=str(self._place.known_hosts),
            options=("-o", f"ConnectTimeout={CONNECT_SECONDS}"),
            prefix=network.prefix(self._place.settings),
        )

    def wait_ssh(self, *, seconds: float = SSH_SECONDS) -> float:
        """Wait until the machine runs a program over ssh; returns the seconds that took.

        Raises HostError with the last output if the machine ends, or after `seconds`.
        """
        start = time.monotonic()
        host, seen = self.host(), size(self.console)
        while time.monotonic() - start < seconds:
            # A program gets its command line a moment after it was started.
            if not self.pid() and not becomes(lambda: bool(self.pid()), 2):
                raise HostError(
                    f"{self.name}: the machine ended\n{self.complaint()}",
                    hint=f"see its console: {self.console}",
                )
            try:
                host.run(["true"], timeout=2 * CONNECT_SECONDS)
            except HostError:
                self.look_while_starting(seen)
                time.sleep(0.1)
            else:
                return time.monotonic() - start
        raise HostError(
            f"{self.name}: timed out after {seconds:.0f} s: ssh does not answer; last output:\n"
            f"{tail(self.console)}",
            hint=f"see its console: {self.console}",
        )

    def run(self, argv: Sequence[str], *, check: bool = True, timeout: float = 600) -> str:
        """Run a program on the machine and return its output."""
        return self.host().run(argv, check=check, timeout=timeout).stdout

    def shell_argv(self, command: Sequence[str] = ()) -> list[str]:
        """The ssh command for a person: with a terminal and the person's TERM, unless `command`.

        ssh(1) joins the words of a command with spaces, and the remote shell parses the result.
        """
        words = ["-tt" if word == "-T" else word for word in self.host().ssh_argv()]
        if not command:
            return words
        return [*self.host().ssh_argv(), "--", *command]

    def copy_to(self, source: Path, target: str, *, mode: int = 0o644) -> None:
        """Copy a file to the machine; it gets its name there only when it is complete."""
        half = f"{target}.partial"
        script = 'cat >"$1" && chmod "$2" "$1" && sync "$1" && mv "$1" "$3"'
        with source.open("rb") as file:
            argv = ["sh", "-c", script, "copy", half, f"{mode:o}", target]
            self.host().run(argv, stdin=file, timeout=3600)

    def connected(self) -> bool:
        """Whether the machine is connected to the network."""
        return network.joined(self._place.settings, self.settings)

    def disconnect(self) -> None:
        """Disconnect the machine from the network; its own link stays up."""
        network.join(self._place.settings, network.device(self.settings), joined=False)

    def connect(self) -> None:
        """Connect the machine to the network again."""
        network.join(self._place.settings, network.device(self.settings), joined=True)

    def forget(self) -> None:
        """Remove all data of the machine; the next start is that of a new machine."""
        self.power_cut()
        if self.folder.exists():
            shutil.rmtree(self.folder)


def check_stick(files: Sequence[Path]) -> None:
    """Raise UsageError if two files of a stick have the same name."""
    names = [path.name for path in files]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"two files of the stick have the same name: {', '.join(twice)}")


def becomes(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until the condition is true; False if it is not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def size(path: Path) -> int:
    """Size of a log in bytes, 0 if it does not exist yet."""
    return path.stat().st_size if path.exists() else 0


def since(path: Path, offset: int) -> bytes:
    """The bytes of a log after `offset`."""
    if not path.exists():
        return b""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read()


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log, for a message."""
    if not path.is_file():
        return "(no output)"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
