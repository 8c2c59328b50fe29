"""What goes wrong at a rack: each is refused with its reason, and no disk is touched."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from keystone.lab import qemu

from .bench import GIB, free_port, written

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .bench import Bench
    from .machine import Disk

pytestmark = [pytest.mark.images, pytest.mark.timeout(3600)]
NOT_FOLLOWED = "Not done unattended"


def untouched(disks: list[Disk]) -> bool:
    return all(disk.file.stat().st_blocks == 0 for disk in disks)


def test_an_older_medium_than_the_site_takes_and_a_disk_that_is_too_small(
    bench: Bench, build: Callable[..., Path]
) -> None:
    disks = bench.disks()
    machine = bench.machine(disks=disks, cd=build())
    floor = bench.site().replace("spec:\n", "spec:\n  systemFloor: 99\n")
    machine.usb = (bench.stick({"site.yaml": floor}),)
    with machine:
        machine.wait(NOT_FOLLOWED, "takes 99 or newer")
    disks = [*disks[:2], bench.disk("SMALL", 2 * GIB)]
    machine.disks = disks
    machine.usb = (bench.stick({"site.yaml": bench.site("SMALL")}),)
    with machine:
        machine.wait(NOT_FOLLOWED, "SMALL", "are needed")
    assert untouched(disks)


def test_a_disk_that_a_bios_does_not_start_from(bench: Bench, build: Callable[..., Path]) -> None:
    machine = bench.machine(firmware="bios", disks=bench.disks(4096), cd=build())
    machine.usb = (bench.stick({"site.yaml": bench.site()}),)
    with machine:
        machine.wait(NOT_FOLLOWED, "SYS1", "a BIOS does not start from sectors of 4096 bytes")
    assert untouched(list(machine.disks))


def test_a_flipped_byte_is_found_with_its_place(bench: Bench, build: Callable[..., Path]) -> None:
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
    assert untouched(list(machine.disks))


def test_two_site_files_that_differ(bench: Bench, build: Callable[..., Path]) -> None:
    machine = bench.machine(disks=bench.disks(), cd=build())
    other = bench.site().replace("name: plant", "name: other")
    machine.usb = (
        bench.stick({"site.yaml": bench.site()}),
        bench.stick({"site.yaml": other}, "second"),
    )
    with machine:
        machine.wait(NOT_FOLLOWED, "site.yaml", "differ")
    assert untouched(list(machine.disks))


def test_two_bundles(
    bench: Bench, build: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    freight = tmp_path_factory.mktemp("freight")
    (freight / "offline.tar").write_text("one")
    machine = bench.machine(disks=bench.disks(), cd=build(carry=freight))
    machine.usb = (bench.stick({"offline.tar": "two", "site.yaml": bench.site()}),)
    with machine:
        machine.wait(NOT_FOLLOWED, "2 bundles", "medium/keystone/offline.tar", "sticks/")
    assert untouched(list(machine.disks))


@pytest.mark.parametrize("mib", [0, 64])
def test_a_medium_that_is_pulled_while_it_writes(
    bench: Bench, build: Callable[..., Path], mib: int
) -> None:
    """Says so, whatever of the disk is written then; with the medium back it goes on by itself."""
    iso, stick, port = build(), bench.stick({"site.yaml": bench.site()}), free_port()
    machine = bench.machine(port=port, disks=bench.disks(), usb=(stick, iso))
    disk = machine.disks[2].file
    with machine:
        machine.hear(r"write /dev/nvme")
        machine.becomes(lambda: disk.stat().st_blocks >= mib << 11, f"{mib} MiB written", 900)
        with qemu.Qmp(machine.folder / "qmp") as door:
            door.ask("device_del", {"id": "usb1"})
        machine.hear(r"the medium was taken out")  # a page needs a program that can be read
    written(machine)
    with machine:
        machine.hear(r"p1 login:")
