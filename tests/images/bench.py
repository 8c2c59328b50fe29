"""What a person holds in hand before a machine: disks, sticks, a key, a site file."""

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
    """A folder, a key, and the machines that are made in it."""

    folder: Path

    @property
    def key(self) -> Path:
        """OpenSSH's private key of the person; made when it is asked for first."""
        file = self.folder / "id"
        if not file.exists():
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "operator", "-f", file])
        return file

    @property
    def public(self) -> str:
        return self.key.with_suffix(".pub").read_text().strip()

    def disk(self, serial: str, size: int = 8 * GIB, sector: int = 512) -> Disk:
        """A blank one, sparse."""
        file = self.folder / f"{serial}.raw"
        file.touch()
        os.truncate(file, size)
        return Disk(file, serial, sector)

    def disks(self, sector: int = 512, pool: Sequence[str] = POOL) -> list[Disk]:
        """Those of the pool, and one for the system, whose sectors have this size in bytes."""
        return [*(self.disk(serial, GIB) for serial in pool), self.disk("SYS1", sector=sector)]

    def stick(self, files: dict[str, str], name: str = "stick", mib: int = 64) -> Path:
        """A FAT file system labelled KEYSTONE with these texts at its top."""
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
        """A site of one Primer, the machine with serial number M1."""
        disks = ", ".join(f"{{serial: {serial}}}" for serial in pool)
        return SITE.format(key=self.public, system=system, layout=LAYOUTS[len(pool)], pool=disks)

    def machine(self, name: str = "p1", port: int = 0, **more: object) -> Machine:
        """With its ssh at `port` of this host's loopback."""
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
        """Over ssh, with the person's key, as soon as it answers: a login's prompt may be first.

        Nobody else is behind that port, so whatever answers there is taken for the machine.
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
    """It writes its disk by the medium and the stick in it and is off then, without them.

    The seconds from power-on to the end of the writing.
    """
    machine.extra = ("-no-reboot",)
    with machine:
        took = machine.hear(r"Done: p1 starts from disk SYS1")
        machine.ended()
    machine.cd, machine.usb, machine.extra = None, (), ()
    return took


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port: int = door.getsockname()[1]
        return port
