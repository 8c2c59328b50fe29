"""From the installer medium to a disk: alone by a site file, and by a person at the serial line."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from keystone.lab import qemu
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


def starts_from_its_disk(bench: Bench, machine: Machine, port: int, says: str = "") -> None:
    """The disk is a Primer's: its name, its key, its own ids, and nothing that failed.

    says: what each of its consoles tells later, as a regular expression.
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
def test_a_site_file_on_a_stick_makes_a_blank_machine_a_primer(
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
    starts_from_its_disk(bench, machine, port)


def test_a_person_makes_a_machine_a_primer_over_the_serial_line(
    bench: Bench, build: Callable[..., Path]
) -> None:
    stick, port = bench.stick({"me.pub": bench.public}), free_port()
    machine = bench.machine(port=port, disks=bench.disks(), cd=build(), usb=(stick,))
    machine.extra = ("-no-reboot",)
    with machine:
        machine.wait("This machine: serial number M1", "KEYP1A", "blank", "Go on")
        machine.type(ENTER)
        machine.wait("> a joining Primer")
        machine.type(DOWN, ENTER)
        machine.wait("Network:", "10.77.0.0/24")
        machine.type(SHELL)
        machine.wait("root@")
        machine.type("systemctl --failed --no-legend | wc -l", ENTER, "exit", ENTER)
        machine.wait("Network:")
        machine.type(ENTER, ENTER, ENTER)
        machine.wait("two disks in each Primer, a mirror")
        machine.type(ENTER)
        machine.wait("Name:", "p1")
        machine.type(ENTER, "10.78.0.11", ENTER)
        machine.wait("10.78.0.11 is outside")
        machine.type(*[BACKSPACE] * len("78.0.11"), "77.0.11", ENTER)
        machine.wait("Keystone's own system is written to it", "KEYP1A: smaller", "> SYS1")
        machine.type(ESCAPE)
        machine.wait("Name:", "10.77.0.11")
        machine.type(ENTER, ENTER)
        machine.wait("> SYS1")
        machine.type(ENTER)
        machine.wait("[ ] KEYP1A")
        machine.type(SPACE, ENTER)
        machine.wait("Not yet: pools of this site are mirror")
        machine.type(DOWN, SPACE, ENTER)
        machine.wait("Passphrase:")
        machine.type("horse", ENTER, "horse", ENTER)
        machine.wait("12 characters or more")
        machine.type(" battery", TAB, TAB, TAB, " battery", ENTER, ENTER)
        machine.wait("There is no bundle")
        machine.type(ENTER)
        machine.wait("Review", "disk SYS1, all of it", "> only save this on the stick")
        machine.type(DOWN, ENTER)
        machine.wait("Done", "Restart")
        machine.type(ENTER)
        machine.ended()
    machine.cd, machine.usb, machine.extra = None, (), ()
    listed = run(["mdir", "-b", "-/", "-i", stick, "::"]).stdout
    assert "::/site.yaml" in listed
    assert "::/introductions/p1/ssh_host_ed25519_key" in listed
    says = r"no bundle: offline\.tar is not on a stick labelled KEYSTONE"
    starts_from_its_disk(bench, machine, port, says)


def test_a_key_starts_the_medium_though_the_disk_has_its_system(
    bench: Bench, build: Callable[..., Path]
) -> None:
    """Without a key, the disk: a medium that is left in is no end of an installation."""
    iso, stick = build(), bench.stick({"site.yaml": bench.site()})
    machine = bench.machine(disks=bench.disks(), cd=iso, usb=(stick,))
    written(machine)
    machine.cd = iso
    with machine:
        machine.hear(r"For the medium, press a key now")
        machine.hear(r"p1 login:")
    with machine:
        machine.hear(r"For the medium, press a key now")
        machine.type(SPACE)
        machine.wait("This machine: serial number M1", "SYS1", "partition table gpt", "Go on")


def test_the_saved_file_says_why_it_was_not_followed_on_another_machine(
    bench: Bench, build: Callable[..., Path]
) -> None:
    site = bench.site().replace("serial: M1", "serial: OTHER")
    machine = bench.machine(disks=bench.disks(), cd=build())
    machine.usb = (bench.stick({"site.yaml": site}),)
    with machine:
        machine.wait("Not done unattended", "serial number M1", "describes")
        machine.type(ENTER)
        machine.wait("This machine: serial number M1", "Go on")
    assert all(disk.file.stat().st_blocks == 0 for disk in machine.disks)


def test_the_screen_shows_what_the_serial_line_shows(
    bench: Bench, build: Callable[..., Path]
) -> None:
    """On tty1 the same page: seen in a picture that is not all black."""
    machine = bench.machine(disks=bench.disks(), cd=build())
    with machine:
        machine.wait("This machine: serial number M1", "Go on")
        picture = bench.folder / "screen.ppm"
        with qemu.Qmp(machine.folder / "qmp") as door:
            door.ask("screendump", {"filename": str(picture)})
        assert len(set(picture.read_bytes()[20:])) > 1
