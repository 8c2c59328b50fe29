"""Settings of a lab: lab/lab.yaml as frozen types, and the folders of the lab."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from keystone.errors import ConfigurationError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

UPSTREAMS = ("auto", "real", "build")


NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
"""A valid name of a lab."""


@dataclass(frozen=True)
class MachineSettings:
    """One machine. Sizes in MiB.

    rtc: QEMU's -rtc base, such as 2028-01-01T00:00:00; empty for the host's clock. To test a wrong
    clock, set it to the future: systemd corrects a clock that is earlier than its own release.
    """

    name: str
    address: IPv4Address
    vcpus: int
    memory_mib: int
    kvm_memory_mib: int
    rtc: str = ""

    @property
    def serials(self) -> tuple[str, str]:
        """Serial numbers of the two NVMe disks, as in /dev/disk/by-id."""
        return (f"KEY{self.name.upper()}A", f"KEY{self.name.upper()}B")

    @property
    def mac(self) -> str:
        """A locally administered MAC with the last byte of the address: unique in one lab."""
        return f"52:54:00:4b:53:{int(self.address) & 0xFF:02x}"


@dataclass(frozen=True)
class LabSettings:
    """A whole lab; its name separates it from other labs on the same host.

    upstream: "real" uses upstream's artefacts, "build" builds them from source, "auto" uses the
    real ones if they answer. mirrors: a Mirrors document for reaching the real upstreams.
    """

    name: str
    network: IPv4Network
    gateway: IPv4Address
    disk_gib: int
    machines: tuple[MachineSettings, ...]
    upstream: str = "auto"
    mirrors: Path | None = None

    @property
    def namespace(self) -> str:
        """The network namespace that holds bridge, taps and QEMU processes."""
        return f"keystone-{self.name}"

    def machine(self, name: str) -> MachineSettings:
        """The settings of one machine. Raises UsageError for a name that is not in the lab."""
        for machine in self.machines:
            if machine.name == name:
                return machine
        known = ", ".join(machine.name for machine in self.machines)
        raise UsageError(f"the lab {self.name} has no machine {name}", hint=f"use one of: {known}")

    def changed(
        self,
        name: str,
        *,
        vcpus: int | None = None,
        memory_mib: int | None = None,
        rtc: str | None = None,
    ) -> LabSettings:
        """The same lab with one machine changed, for tests: too little memory, a wrong clock."""
        old = self.machine(name)
        new = replace(
            old,
            vcpus=old.vcpus if vcpus is None else vcpus,
            memory_mib=old.memory_mib if memory_mib is None else memory_mib,
            kvm_memory_mib=old.kvm_memory_mib if memory_mib is None else memory_mib,
            rtc=old.rtc if rtc is None else rtc,
        )
        return replace(self, machines=tuple(new if m is old else m for m in self.machines))


def checkout() -> Path:
    """The folder that contains `lab/`. Raises UsageError if the package is not in a checkout.

    The lab is a tool of the source tree and is not in the bundle.
    """
    root = Path(__file__).resolve().parents[3]
    if not (root / "lab" / "lab.yaml").is_file():
        raise UsageError(
            "the lab needs Keystone's source tree",
            hint="run it in a checkout: python -m keystone lab ...",
        )
    return root


def cache() -> Path:
    """The lab's folder: ~/.cache/keystone/lab, or below XDG_CACHE_HOME."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "keystone" / "lab"


def load(path: Path | None = None, *, name: str = "") -> LabSettings:
    """Read a lab file; `name` overrides its metadata.name.

    Raises ConfigurationError if a field is missing, unknown or of a wrong type, UsageError for an
    invalid name: folders and namespaces are named after it.
    """
    if name and not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a valid name of a lab", hint="use small letters, digits and -"
        )
    path = path or checkout() / "lab" / "lab.yaml"
    document = yaml.safe_load(path.read_text())
    try:
        return _parse(document, name, path.parent)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{path}: not a Lab document: {error!r}", hint="compare it with lab/lab.yaml"
        ) from error


def _parse(document: Mapping[str, Any], name: str, folder: Path) -> LabSettings:
    if document["kind"] != "Lab":
        raise ValueError(document["kind"])
    spec = document["spec"]
    if not NAME.fullmatch(str(document["metadata"]["name"])):
        raise ValueError(document["metadata"]["name"])
    return LabSettings(
        name=name or str(document["metadata"]["name"]),
        network=IPv4Network(spec["network"]),
        gateway=IPv4Address(spec["gateway"]),
        disk_gib=int(spec["disk_gib"]),
        machines=tuple(
            MachineSettings(**{**machine, "address": IPv4Address(machine["address"])})
            for machine in spec["machines"]
        ),
        upstream=_one_of(spec.get("upstream", "auto"), UPSTREAMS),
        mirrors=(folder / spec["mirrors"]).resolve() if spec.get("mirrors") else None,
    )


def _one_of(value: object, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(f"{value!r} is not one of {', '.join(known)}")
    return str(value)
