"""Faults at a machine: each is refused with its reason, and no disk is changed."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from keystone.lab.machines import qemu

from .bench import GIB, free_port, written

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .bench import Bench
    from .machine import Disk

pytestmark = [pytest.mark.images, pytest.mark.timeout(3600)]
REFUSED = "Not installed unattended"


def unchanged(disks: list[Disk]) -> bool:
    return all(disk.file.stat().st_blocks == 0 for disk in disks)


def test_medium_older_than_site_and_too_small_disk_refused(
    bench: Bench, build: Callable[..., Path]
) -> None:
    disks = bench.disks()
    machine = bench.machine(disks=disks, cd=build())
    floor = bench.site().replace("spec:\n", "spec:\n  systemFloor: 99\n")
    machine.usb = (bench.stick({"site.yaml": floor}),)
    with machine:
        machine.wait(REFUSED, "requires 99 or newer")
    disks = [*disks[:2], bench.disk("SMALL", 2 * GIB)]
    machine.disks = disks
    machine.usb = (bench.stick({"site.yaml": bench.site("SMALL")}),)
    with machine:
        machine.wait(REFUSED, "SMALL", "but the system needs")
    assert unchanged(disks)


def test_disk_that_bios_cannot_start_from_refused(bench: Bench, build: Callable[..., Path]) -> None:
    machine = bench.machine(firmware="bios", disks=bench.disks(4096), cd=build())
    machine.usb = (bench.stick({"site.yaml": bench.site()}),)
    with machine:
        machine.wait(REFUSED, "SYS1", "a BIOS cannot start from sectors of 4096 bytes")
    assert unchanged(list(machine.disks))


def test_flipped_byte_detected_with_its_place(bench: Bench, build: Callable[..., Path]) -> None:
    altered = bench.folder / "altered.iso"
    shutil.copyfile(build(), altered)
    middle = altered.stat().st_size // 2  # most of an ISO is the system
    with altered.open("r+b") as file:
        file.seek(middle)
        (byte,) = file.read(1)
        file.seek(middle)
        file.write(bytes([byte ^ 1]))
    machine = bench.machine(disks=bench.disks(), cd=altered)
    machine.usb = (bench.stick({"site.yaml": bench.site()}),)
    with machine:
        machine.hear(r"byte \d+ is not what was signed|is not the system that was signed")
    assert unchanged(list(machine.disks))


def test_two_site_files_that_differ_refused(bench: Bench, build: Callable[..., Path]) -> None:
    machine = bench.machine(disks=bench.disks(), cd=build())
    other = bench.site().replace("name: plant", "name: other")
    machine.usb = (
        bench.stick({"site.yaml": bench.site()}),
        bench.stick({"site.yaml": other}, "second"),
    )
    with machine:
        machine.wait(REFUSED, "site.yaml", "differ")
    assert unchanged(list(machine.disks))


def test_two_bundles_refused(
    bench: Bench, build: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    freight = tmp_path_factory.mktemp("freight")
    (freight / "offline.tar").write_text("one")
    machine = bench.machine(disks=bench.disks(), cd=build(carry=freight))
    machine.usb = (bench.stick({"offline.tar": "two", "site.yaml": bench.site()}),)
    with machine:
        machine.wait(REFUSED, "2 bundles", "medium/keystone/offline.tar", "sticks/")
    assert unchanged(list(machine.disks))


@pytest.mark.parametrize("mib", [0, 64])
def test_medium_removed_during_write_reported_and_write_repeated(
    bench: Bench, build: Callable[..., Path], mib: int
) -> None:
    """It is reported at any progress; with the medium back, the installation continues."""
    iso, stick, port = build(), bench.stick({"site.yaml": bench.site()}), free_port()
    machine = bench.machine(port=port, disks=bench.disks(), usb=(stick, iso))
    disk = machine.disks[2].file
    with machine:
        machine.hear(r"write /dev/nvme")
        machine.becomes(lambda: disk.stat().st_blocks >= mib << 11, f"{mib} MiB written", 900)
        with qemu.Qmp(machine.folder / "qmp") as qmp:
            qmp.ask("device_del", {"id": "usb1"})
        machine.hear(r"the medium was removed")  # no page: the program on the medium cannot be read
    written(machine)
    with machine:
        machine.hear(r"p1 login:")
