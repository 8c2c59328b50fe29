"""Install a Primer from the medium: unattended by a site file, and by a person at a console."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from keystone.lab.machines import qemu
from keystone.run import run

from .bench import POOL, free_port, written

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from .bench import Bench
    from .machine import Machine

pytestmark = [pytest.mark.images, pytest.mark.timeout(3600)]
ENTER, ESCAPE, DOWN, SPACE, SHELL = "\r", "\x1b", "\x1b[B", " ", "\x14"
BACKSPACE, TAB = "\x7f", "\t"


def assert_starts_from_disk(bench: Bench, machine: Machine, port: int, says: str = "") -> None:
    """Assert that the disk starts as a Primer, with its name, key and ids, and no failed unit.

    says: a regular expression for later output on each console.
    """
    with machine:
        took = machine.hear(r"p1 login:")
        print(f"power-on to login: {took:.0f} s")
        host = bench.login(port)
        assert host.run(["hostname"]).stdout.strip() == "p1"
        assert host.run(["cat", "/run/keystone/from"]).stdout.strip() == "disk"
        failed = host.run(["systemctl", "--failed", "--no-legend", "--plain"]).stdout
        assert failed == ""
        assert host.run(["cat", "/etc/machine-id"]).stdout.strip() not in {"", "uninitialized"}
        state = json.loads(host.run(["lsblk", "-J", "-b", "-o", "PARTLABEL,SIZE,FSSIZE"]).stdout)
        parts = [part for disk in state["blockdevices"] for part in disk.get("children", [disk])]
        (grown,) = (part for part in parts if part["partlabel"] == "keystone-state")
        assert int(grown["size"]) > 2 << 30
        assert int(grown["fssize"]) > 2 << 30
        if says:
            machine.hear(says)
            screen = ["cat", "/dev/vcs1"]  # vcs(4)
            machine.becomes(
                lambda: re.search(says, host.run(screen).stdout) is not None, f"{says} on tty1"
            )


@pytest.mark.parametrize(
    ("firmware", "medium", "sector", "pool"),
    [
        ("uefi", "cd", 512, POOL),
        ("bios", "usb", 512, POOL[:1]),
        ("bios", "cd", 512, POOL),
        ("uefi", "usb", 4096, POOL),
    ],
)
def test_site_file_on_stick_installs_primer_unattended(
    bench: Bench,
    build: Callable[..., Path],
    firmware: str,
    medium: str,
    sector: int,
    pool: Sequence[str],
) -> None:
    iso, stick, port = build(), bench.stick({"site.yaml": bench.site(pool=pool)}), free_port()
    machine = bench.machine(port=port, firmware=firmware, disks=bench.disks(sector, pool))
    machine.cd = iso if medium == "cd" else None
    machine.usb = (stick,) if medium == "cd" else (iso, stick)
    took = written(machine)
    print(f"{firmware}, {medium}, sectors of {sector}: {took:.0f} s to the end of the writing")
    assert_starts_from_disk(bench, machine, port)


def test_person_installs_primer_over_serial_line(bench: Bench, build: Callable[..., Path]) -> None:
    stick, port = bench.stick({"me.pub": bench.public}), free_port()
    machine = bench.machine(port=port, disks=bench.disks(), cd=build(), usb=(stick,))
    machine.extra = ("-no-reboot",)
    with machine:
        machine.wait("This machine: serial number M1", "KEYP1A", "blank", "Continue")
        machine.type(ENTER)
        machine.wait("> a joining Primer")
        machine.type(DOWN, ENTER)
        machine.wait("Network:", "10.77.0.0/24")
        machine.type(SHELL)
        machine.wait("root@")
        machine.type("systemctl --failed --no-legend | wc -l", ENTER, "exit", ENTER)
        machine.wait("Network:")
        machine.type(ENTER, ENTER, ENTER)
        machine.wait("two disks in each Primer (mirror)")
        machine.type(ENTER)
        machine.wait("Name:", "p1")
        machine.type(ENTER, "10.78.0.11", ENTER)
        machine.wait("10.78.0.11 is outside")
        machine.type(*[BACKSPACE] * len("78.0.11"), "77.0.11", ENTER)
        machine.wait("Keystone's system is written to this disk", "KEYP1A: smaller", "> SYS1")
        machine.type(ESCAPE)
        machine.wait("Name:", "10.77.0.11")
        machine.type(ENTER, ENTER)
        machine.wait("> SYS1")
        machine.type(ENTER)
        machine.wait("[ ] KEYP1A")
        machine.type(SPACE, ENTER)
        machine.wait("Not accepted: a pool of layout mirror")
        machine.type(DOWN, SPACE, ENTER)
        machine.wait("Passphrase:")
        machine.type("horse", ENTER, "horse", ENTER)
        machine.wait("12 characters or more")
        machine.type(" battery", TAB, TAB, TAB, " battery", ENTER, ENTER)
        machine.wait("There is no bundle")
        machine.type(ENTER)
        machine.wait("Review", "all of disk SYS1", "> only save this on the stick")
        machine.type(DOWN, ENTER)
        machine.wait("Done", "Restart")
        machine.type(ENTER)
        machine.ended()
    machine.cd, machine.usb, machine.extra = None, (), ()
    listed = run(["mdir", "-b", "-/", "-i", stick, "::"]).stdout
    assert "::/site.yaml" in listed
    assert "::/introductions/p1/ssh_host_ed25519_key" in listed
    says = r"no bundle: offline\.tar is not on a stick labelled KEYSTONE"
    assert_starts_from_disk(bench, machine, port, says)


def test_key_starts_medium_although_disk_has_its_system(
    bench: Bench, build: Callable[..., Path]
) -> None:
    """Without a key the disk starts: a medium that stays inserted does not block the machine."""
    iso, stick = build(), bench.stick({"site.yaml": bench.site()})
    machine = bench.machine(disks=bench.disks(), cd=iso, usb=(stick,))
    written(machine)
    machine.cd = iso
    with machine:
        machine.hear(r"Press a key now to start the medium")
        machine.hear(r"p1 login:")
    with machine:
        machine.hear(r"Press a key now to start the medium")
        machine.type(SPACE)
        machine.wait("This machine: serial number M1", "SYS1", "partition table gpt", "Continue")


def test_site_file_of_another_machine_refused_with_reason(
    bench: Bench, build: Callable[..., Path]
) -> None:
    site = bench.site().replace("serial: M1", "serial: OTHER")
    machine = bench.machine(disks=bench.disks(), cd=build())
    machine.usb = (bench.stick({"site.yaml": site}),)
    with machine:
        machine.wait("Not installed unattended", "serial number M1", "describes")
        machine.type(ENTER)
        machine.wait("This machine: serial number M1", "Continue")
    assert all(disk.file.stat().st_blocks == 0 for disk in machine.disks)


def test_screen_shows_page_like_serial_line(bench: Bench, build: Callable[..., Path]) -> None:
    """tty1 shows the same page: a screenshot is not all black."""
    machine = bench.machine(disks=bench.disks(), cd=build())
    with machine:
        machine.wait("This machine: serial number M1", "Continue")
        picture = bench.folder / "screen.ppm"
        with qemu.Qmp(machine.folder / "qmp") as qmp:
            qmp.ask("screendump", {"filename": str(picture)})
        assert len(set(picture.read_bytes()[20:])) > 1
