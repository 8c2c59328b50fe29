"""Equipment of a person at a machine: disks, sticks, a key, a site file."""

from __future__ import annotations

import os
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keystone.errors import HostError
from keystone.run import Host, run

from .machine import PATIENCE, Disk, Machine

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]
KEYSTONE = [sys.executable, "-m", "keystone"]
GIB = 1 << 30
NETWORK = "10.77.0.0/24"
SITE = """\
apiVersion: keystone/v1alpha1
kind: Site
metadata: {{name: plant}}
spec:
  ssh: {{user: root, authorizedKeys: ["{key}"]}}
  networks: {{nodes: 10.77.0.0/24}}
  storage: {{layout: {layout}}}
  primers:
    - name: p1
      address: 10.77.0.11
      machine: {{serial: M1}}
      systemDisk: {system}
      disks: [{pool}]
"""
POOL = ("KEYP1A", "KEYP1B")
LAYOUTS = {1: "single", 2: "mirror"}


@dataclass
class Bench:
    """A folder with a key, disks, sticks and machines."""

    folder: Path

    @property
    def key(self) -> Path:
        """The person's private OpenSSH key, made at the first use."""
        file = self.folder / "id"
        if not file.exists():
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "operator", "-f", file])
        return file

    @property
    def public(self) -> str:
        return self.key.with_suffix(".pub").read_text().strip()

    def disk(self, serial: str, size: int = 8 * GIB, sector: int = 512) -> Disk:
        """Make a blank disk, a sparse file."""
        file = self.folder / f"{serial}.raw"
        file.touch()
        os.truncate(file, size)
        return Disk(file, serial, sector)

    def disks(self, sector: int = 512, pool: Sequence[str] = POOL) -> list[Disk]:
        """The disks of the pool, and one for the system. sector: its sector size in bytes."""
        return [*(self.disk(serial, GIB) for serial in pool), self.disk("SYS1", sector=sector)]

    def stick(self, files: dict[str, str], name: str = "stick", mib: int = 64) -> Path:
        """Make a FAT file system labelled KEYSTONE. files: text by name."""
        image = self.folder / f"{name}.img"
        image.touch()
        os.truncate(image, mib << 20)
        run(["mkfs.vfat", "-n", "KEYSTONE", image])
        for path, text in files.items():
            source = self.folder / "text"
            source.write_text(text)
            run(["mcopy", "-i", image, source, f"::{path}"])
        return image

    def site(self, system: str = "SYS1", pool: Sequence[str] = POOL) -> str:
        """A site file of one Primer, the machine with serial number M1."""
        disks = ", ".join(f"{{serial: {serial}}}" for serial in pool)
        return SITE.format(key=self.public, system=system, layout=LAYOUTS[len(pool)], pool=disks)

    def machine(self, name: str = "p1", port: int = 0, **more: object) -> Machine:
        """A machine whose ssh is at `port` of this host's loopback."""
        forward = f",hostfwd=tcp:127.0.0.1:{port}-10.77.0.11:22" if port else ""
        network = (
            "-nic",
            f"user,restrict=on,net={NETWORK},model=virtio-net-pci,mac={{mac}}{forward}",
        )
        made = Machine(self.folder / name, serial="M1", network=network)
        for key, value in more.items():
            setattr(made, key, value)
        return made

    def login(self, port: int) -> Host:
        """Log in by ssh with the person's key, as soon as it answers; a login prompt may be first.

        The host key is trusted at first use, because only the machine is behind that port.
        """
        known = self.folder / "known_hosts"
        host = Host("p1", "127.0.0.1", port=port, key_file=str(self.key), known_hosts=str(known))
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                known.write_text(f"[127.0.0.1]:{port} {host.scan()[0]}\n")
                host.run(["true"], timeout=120)
            except HostError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)
            else:
                return host


def written(machine: Machine) -> float:
    """Let the machine write its disk from its medium and stick, then switch it off without them.

    Returns the seconds from power-on to the end of the write.
    """
    machine.extra = ("-no-reboot",)
    with machine:
        took = machine.hear(r"Done: p1 starts from disk SYS1")
        machine.ended()
    machine.cd, machine.usb, machine.extra = None, (), ()
    return took


def free_port() -> int:
    """A free port on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
