"""All machines of one lab, of either kind: start, find, stop and remove them.

The kind of a lab's machines is decided when its first machine starts, and recorded in its folder.
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
from keystone.lab import settings
from keystone.lab.machines import base_system, container, network, qemu
from keystone.lab.machines.container import ContainerMachine
from keystone.lab.machines.machine import CONNECT_SECONDS, RUN, Machine, Place
from keystone.lab.machines.virtual import VirtualMachine
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
"""Machines that start in parallel: more emulated ones would only slow each other down."""


class Lab:
    """All machines of one lab, their network and their key.

    kind: "virtual", "container" or "auto"; "auto" keeps the kind of an existing lab. Needs root for
    network namespaces, taps, control groups and /dev/kvm.
    """

    def __init__(self, wanted: LabSettings | str = "", *, kind: str = AUTO) -> None:
        if isinstance(wanted, str):
            wanted = settings.load(name=wanted)
        self.settings = wanted
        self.folder = settings.cache() / "state" / wanted.name
        self.key = self.folder / "id_ed25519"
        self.place = Place(wanted, self.folder, self.key)
        self._wanted_kind = kind

    @cached_property
    def kvm(self) -> bool:
        """Whether virtual machines use KVM on this host."""
        return qemu.kvm_works(base_system.vmlinuz, settings.cache())

    @property
    def _kept(self) -> Path:
        return self.folder / "kind"

    @property
    def there(self) -> bool:
        """Whether the lab exists: it was brought up before."""
        return self._kept.is_file()

    @property
    def kind(self) -> str:
        """The kind of its machines: "virtual" or "container".

        Raises RefusedError if the existing machines are of another kind than requested, UsageError
        for an unknown kind.
        """
        if self._wanted_kind not in (AUTO, *KINDS):
            raise UsageError(
                f"{self._wanted_kind}: unknown kind of machine", hint=f"use {' or '.join(KINDS)}"
            )
        kept = self._kept
        if not kept.is_file():
            return (
                self._wanted_kind
                if self._wanted_kind != AUTO
                else KINDS[0]
                if self.kvm
                else KINDS[1]
            )
        there = kept.read_text().strip()
        if self._wanted_kind not in (AUTO, there):
            raise RefusedError(
                f"lab {self.settings.name}: its machines are of kind {there}, not "
                f"{self._wanted_kind}",
                hint=f"remove them first: keystone-install lab down --name {self.settings.name} "
                "--purge",
            )
        return there

    @property
    def emulated(self) -> bool:
        """Whether its machines are emulated, and so slow that deadlines have to be longer."""
        return self.kind == "virtual" and not self.kvm

    def system(self) -> None:
        """Build the base system unless cached: a tree, or a disk made from it."""
        log.debug(f"base system: {base_system.tree()}")
        if self.kind == "virtual":
            log.debug(f"base image: {base_system.image().disk}")

    def machine(self, name: str) -> Machine:
        """One machine. Raises UsageError for a name that is not in the lab."""
        wanted = self.settings.machine(name)
        if self.kind == "container":
            return ContainerMachine(self.place, wanted)
        return VirtualMachine(self.place, wanted, kvm=self.kvm)

    def virtual(self, name: str) -> VirtualMachine:
        """One virtual machine. Raises UsageError if it is a container."""
        machine = self.machine(name)
        if not isinstance(machine, VirtualMachine):
            raise UsageError(f"{name} is a container", hint="lab up --kind virtual")
        return machine

    def machines(self, names: Sequence[str] | None = None) -> list[Machine]:
        """The machines with these names, each once, or all machines."""
        every = [machine.name for machine in self.settings.machines]
        return [self.machine(name) for name in dict.fromkeys(every if names is None else names)]

    def made(self) -> list[Machine]:
        """The machines that were started before."""
        return [machine for machine in self.machines() if machine.made()] if self.there else []

    def up(self, names: Sequence[str] | None = None, *, fresh: bool = False) -> dict[str, float]:
        """Start machines and wait for their ssh; returns the seconds each start took.

        Running machines take 0 seconds. fresh: start with new, empty machines, and, if that is all
        of them, with a new network whose counters are zero.
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
        """Machines in the format of Ansible's inventory, for Molecule and testinfra.

        ssh enters the lab's network by a ProxyCommand, which every ssh program supports.
        """
        proxy = f"{shlex.join(network.prefix(self.settings))} nc %h %p"
        return {
            machine.name: {
                "ansible_host": str(machine.settings.address),
                "ansible_user": "root",
                "ansible_python_interpreter": "/usr/bin/python3",
                "ansible_ssh_private_key_file": str(self.key),
                "ansible_ssh_common_args": (
                    f"-F none -o ProxyCommand='{proxy}' -o ConnectTimeout={CONNECT_SECONDS} "
                    f"{shlex.join(machine.host().strict_host_key_options())} -o LogLevel=ERROR"
                ),
            }
            for machine in self.machines(names)
        }

    def down(self, *, purge: bool = False) -> None:
        """Stop all machines and remove the network. purge: also remove all their data."""
        with self.alone():
            end = methodcaller("power_cut" if purge else "stop")
            with ThreadPoolExecutor() as pool:
                list(pool.map(end, self.made()))
            network.down(self.settings)
            if purge and self.folder.exists():
                shutil.rmtree(self.folder)

    def alone(self) -> AbstractContextManager[None]:
        """A lock, so that only one process at a time changes the machines of the lab."""
        return only_one(RUN / f"{self.settings.name}.lock", str(self.folder))

    def _prepare(self) -> None:
        if os.geteuid() != 0:
            raise RefusedError("the lab needs root to make network namespaces", hint="use sudo")
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
        self.place.make_host_keys()
        network.up(self.settings)


def _bring_up(machine: Machine) -> float:
    if machine.pid():
        if machine.paused():
            raise RefusedError(f"{machine.name} is paused", hint=f"lab resume {machine.name}")
        machine.start()
        if not machine.connected():
            hint = f"lab connect {machine.name}"
            raise RefusedError(f"{machine.name} is disconnected from the network", hint=hint)
        machine.wait_ssh()
        return 0.0
    with log.step(f"start {machine.name} ({machine.settings.address})"):
        machine.finish()
        machine.start()
        return machine.wait_ssh()
