"""A machine with another Primer's disk of the same version: equal PARTUUIDs are told apart."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from keystone.run import run

from .bench import free_port, written

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .bench import Bench

pytestmark = [pytest.mark.images, pytest.mark.timeout(3600)]


def test_disk_of_other_primer_not_confused_with_own(
    bench: Bench, build: Callable[..., Path]
) -> None:
    iso, stick, port = build(), bench.stick({"site.yaml": bench.site()}), free_port()
    machine = bench.machine(port=port, disks=bench.disks(), cd=iso, usb=(stick,))
    written(machine)
    own, other = machine.disks[2], bench.disk("OTHER")
    run(["cp", "--sparse=always", own.file, other.file])
    for number in (2, 5):  # random on every disk: the EFI partition, and the state
        run(["sfdisk", "--quiet", "--part-uuid", other.file, str(number), str(UUID(int=number))])
    machine.disks = [
        *machine.disks[:2],
        other,
        own,
    ]  # firmware starts the last disk, which udev also sees last
    with machine:
        machine.hear(r"p1 login:")
        host = bench.login(port)
        device = host.run(["cat", "/run/keystone/device"]).stdout.strip()
        state = host.run(["cat", "/run/keystone/state-device"]).stdout.strip()
        for part in (device, state):
            disk = host.run(["lsblk", "-ndo", "PKNAME", part]).stdout.strip()
            assert host.run(["lsblk", "-ndo", "SERIAL", f"/dev/{disk}"]).stdout.strip() == "SYS1"
    machine.cd, machine.usb, machine.extra = iso, (stick,), ("-no-reboot",)
    with machine:
        machine.hear(r"disk SYS1 \(/dev/nvme\w+\) already holds version 1")
        machine.hear(r"Nothing to do")
    machine.usb = (bench.stick({"site.yaml": bench.site("OTHER")}),)
    with machine:
        machine.hear(r"disk OTHER \(/dev/nvme\w+\) already holds version 1")
