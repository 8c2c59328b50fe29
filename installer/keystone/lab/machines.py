"""All machines of one lab, of either kind: brought up, found again, saved, removed.

Which kind a lab is made of is decided once, when its first machine starts, and kept beside them.
"""

from __future__ import annotations

import os
import shlex
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from operator import methodcaller
from typing import TYPE_CHECKING

from keystone import log
from keystone.errors import RefusedError, UsageError
from keystone.files import require_ours, write_whole
from keystone.lab import base, container, network, qemu, settings
from keystone.lab.container import ContainerMachine
from keystone.lab.machine import CONNECT_SECONDS, RUN, Machine, Place
from keystone.lab.virtual import VirtualMachine
from keystone.lockfile import only_one
from keystone.run import run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from keystone.lab.settings import LabSettings

KINDS = ("virtual", "container")
AUTO = "auto"
"""Virtual machines where KVM works, containers elsewhere."""
AT_ONCE = 8
AT_ONCE_EMULATED = 2
"""Machines that start side by side: more emulated ones only take turns."""


class Lab:
    """All machines of one lab, their network and their key.

    kind: "virtual", "container" or "auto"; what there is already decides before that. Needs root:
    network namespaces, taps, control groups, /dev/kvm.
    """

    def __init__(self, wanted: LabSettings | str = "", *, kind: str = AUTO) -> None:
        if isinstance(wanted, str):
            wanted = settings.load(name=wanted)
        self.settings = wanted
        self.folder = settings.cache() / "state" / wanted.name
        self.key = self.folder / "id_ed25519"
        self.place = Place(wanted, self.folder, self.key)
        self._asked = kind

    @cached_property
    def kvm(self) -> bool:
        """Whether virtual machines run on KVM here."""
        return qemu.kvm_works(base.vmlinuz, settings.cache())

    @property
    def _kept(self) -> Path:
        return self.folder / "kind"

    @property
    def there(self) -> bool:
        """Whether it was ever brought up."""
        return self._kept.is_file()

    @property
    def kind(self) -> str:
        """Of its machines: "virtual" or "container".

        Raises RefusedError when another kind is asked for than there is, UsageError for no kind.
        """
        if self._asked not in (AUTO, *KINDS):
            raise UsageError(f"{self._asked}: no kind of machine", hint=" or ".join(KINDS))
        kept = self._kept
        if not kept.is_file():
            return self._asked if self._asked != AUTO else KINDS[0] if self.kvm else KINDS[1]
        there = kept.read_text().strip()
        if self._asked not in (AUTO, there):
            raise RefusedError(
                f"lab {self.settings.name}: its machines are {there}, asked for is {self._asked}",
                hint=f"remove them first: keystone-install lab down --name {self.settings.name} "
                "--purge",
            )
        return there

    @property
    def emulated(self) -> bool:
        """Whether its machines are so slow that deadlines have to be longer."""
        return self.kind == "virtual" and not self.kvm

    def system(self) -> None:
        """Make what machines start from, unless it is there: a tree, or a disk made of one."""
        log.debug(f"base system: {base.tree()}")
        if self.kind == "virtual":
            log.debug(f"base image: {base.image().disk}")

    def machine(self, name: str) -> Machine:
        """One machine. Raises UsageError for a name that is not in the lab."""
        wanted = self.settings.machine(name)
        if self.kind == "container":
            return ContainerMachine(self.place, wanted)
        return VirtualMachine(self.place, wanted, kvm=self.kvm)

    def virtual(self, name: str) -> VirtualMachine:
        """One machine of a lab of virtual ones. Raises UsageError where it is a container."""
        machine = self.machine(name)
        if not isinstance(machine, VirtualMachine):
            raise UsageError(f"{name} is a container", hint="lab up --kind virtual")
        return machine

    def machines(self, names: Sequence[str] | None = None) -> list[Machine]:
        """Those named, each once, or all."""
        every = [machine.name for machine in self.settings.machines]
        return [self.machine(name) for name in dict.fromkeys(every if names is None else names)]

    def made(self) -> list[Machine]:
        """Those that were ever started."""
        return [machine for machine in self.machines() if machine.made()] if self.there else []

    def up(self, names: Sequence[str] | None = None, *, fresh: bool = False) -> dict[str, float]:
        """Start machines and wait for their ssh; returns the seconds each start took.

        Machines that run already take no time. fresh: begin with new, empty machines, and, when
        that means all of them, with a new network whose counters are zero.
        """
        machines = self.machines(names)
        with self.alone():
            for machine in machines if fresh else ():
                machine.forget()
            if fresh and names is None:
                network.down(self.settings)
            self._prepare()
            with ThreadPoolExecutor(AT_ONCE_EMULATED if self.emulated else AT_ONCE) as pool:
                times = list(pool.map(_bring_up, machines))
        return {machine.name: seconds for machine, seconds in zip(machines, times, strict=True)}

    def inventory(self, names: Sequence[str] | None = None) -> dict[str, dict[str, str]]:
        """Machines as Ansible's inventory has them, for Molecule and testinfra: host, variables.

        The way into the lab's network is a ProxyCommand, which every ssh program understands.
        """
        way = f"{shlex.join(network.prefix(self.settings))} nc %h %p"
        return {
            machine.name: {
                "ansible_host": str(machine.settings.address),
                "ansible_user": "root",
                "ansible_python_interpreter": "/usr/bin/python3",
                "ansible_ssh_private_key_file": str(self.key),
                "ansible_ssh_common_args": (
                    f"-F none -o ProxyCommand='{way}' -o ConnectTimeout={CONNECT_SECONDS} "
                    f"{shlex.join(machine.host().strangers_refused())} -o LogLevel=ERROR"
                ),
            }
            for machine in self.machines(names)
        }

    def down(self, *, purge: bool = False) -> None:
        """Stop every machine and remove the network; purge: and all they wrote."""
        with self.alone():
            end = methodcaller("power_cut" if purge else "stop")
            with ThreadPoolExecutor() as pool:
                list(pool.map(end, self.made()))
            network.down(self.settings)
            if purge and self.folder.exists():
                shutil.rmtree(self.folder)

    def alone(self) -> AbstractContextManager[None]:
        """One process at a time brings machines up or down."""
        return only_one(RUN / f"{self.settings.name}.lock", str(self.folder))

    def _prepare(self) -> None:
        if os.geteuid() != 0:
            raise RefusedError("the lab makes network namespaces: it needs root", hint="use sudo")
        if self.kind == "virtual":
            qemu.check_tools()
        else:
            container.load_modules()
        self.system()
        self.folder.mkdir(parents=True, exist_ok=True)
        for folder in (settings.cache(), self.folder):
            require_ours(folder)
        if not self.there:
            write_whole(self._kept, self.kind.encode(), 0o644)
        if not self.key.exists():
            comment = f"keystone lab {self.settings.name}"
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", self.key])
        self.place.know()
        network.up(self.settings)


def _bring_up(machine: Machine) -> float:
    if machine.pid():
        if machine.paused():
            raise RefusedError(f"{machine.name} is paused", hint=f"lab resume {machine.name}")
        machine.start()
        if not machine.connected():
            hint = f"lab connect {machine.name}"
            raise RefusedError(f"{machine.name} is off the network", hint=hint)
        machine.wait_ssh()
        return 0.0
    with log.step(f"{machine.name} ({machine.settings.address}) starts"):
        machine.finish()
        machine.start()
        return machine.wait_ssh()
