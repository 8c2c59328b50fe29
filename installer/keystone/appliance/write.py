"""From the medium that this machine was started from to its system disk.

A disk is used only when it is provably blank; one that holds this very system is done already. The
partition table is written last (disk_layout.py), so a write that was cut leaves a disk that is
blank still, or half of our table beside our mark (write_mark.py), and the same command goes on.
What was written is read back against the root hash.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import log
from keystone.appliance import write_mark
from keystone.errors import (
    DamagedBundleError,
    HostError,
    KeystoneError,
    PreflightError,
    RefusedError,
)
from keystone.hosts import observe as hosts
from keystone.image import bios, disk_layout, release
from keystone.image.disk import fill
from keystone.image.squashfs import System
from keystone.lockfile import only_one
from keystone.run import CommandError, run
from keystone.storage import plan as storage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from keystone.hosts.facts import DiskFacts

RUN = Path("/run/keystone")
MEDIUM = RUN / "medium"
MEDIUM_BOOT = MEDIUM / "boot"
OS_RELEASE = Path("/usr/lib/os-release")
COPY = "take another copy of the medium"
FIRMWARE = Path("/sys/firmware/efi")
UDEV_SECONDS = 300
"""For udev to have named a new partition: an emulated machine needs tens of seconds."""


@dataclass(frozen=True)
class Running:
    """The system that runs here: its bytes, what they are read from, and its version.

    uefi: it was started by UEFI, not by a BIOS.
    """

    system: System
    version: int
    medium: bool
    uefi: bool = True


@dataclass(frozen=True)
class Plan:
    """What writing would do. held: the disk holds this system. begun: its write was cut."""

    disk: str
    serial: str
    size: int
    version: int
    held: bool
    begun: bool = False

    @property
    def done(self) -> bool:
        """Whether there is nothing to do."""
        return self.held and not self.begun

    def describe(self) -> str:
        """One line for people."""
        if self.done:
            return f"disk {self.serial} ({self.disk}) holds version {self.version} already"
        why = "on which a write of ours was cut" if self.begun else "which is blank"
        return (
            f"write version {self.version} to disk {self.serial} ({self.disk}, "
            f"{log.size(self.size)}), {why}"
        )


def running(command_line: str, source: str, device: str, os_release: str) -> Running:
    """Out of /proc/cmdline, /run/keystone/from and .../device, and os-release(5).

    Raises PreflightError when this machine was not started from one of our images.
    """
    options = dict(re.findall(r"(?:^|\s)keystone\.(root|tree)=(\S+)", command_line))
    version = re.search(r"(?m)^IMAGE_VERSION=(\d+)$", os_release)
    if options.keys() != {"root", "tree"} or not version or not device:
        raise PreflightError(
            "this machine was not started from a Keystone image",
            hint="start it from the installer medium",
        )
    system = System(Path(device.strip()), int(options["tree"]), options["root"])
    return Running(system, int(version[1]), medium=source.strip() == "medium")


def observe() -> Running:
    """`running` of this machine."""
    files = [Path("/proc/cmdline"), RUN / "from", RUN / "device", OS_RELEASE]
    found = running(*(path.read_text() if path.is_file() else "" for path in files))
    return replace(found, uefi=FIRMWARE.exists())


def plan(now: Running, disks: Sequence[DiskFacts], serial: str, slot: str, *, begun: bool) -> Plan:
    """Decide. slot: the partition that has this system already, as "nvme0n1p2", or "".

    begun: our mark is on the disk.

    Raises RefusedError when the disk is not there, not one, too small, not blank, not to be
    written or not to be started from; PreflightError when the machine runs from its disk.
    """
    if not now.medium:
        raise PreflightError(
            "this machine runs from its own disk", hint="start it from the installer medium"
        )
    (disk,) = storage.by_serial([serial], disks)
    held = slot in disk.partitions
    found = Plan(disk.path, disk.serial, disk.size, now.version, held, begun)
    if held:
        return found
    why = found_on(disk, begun=begun) or ("is read-only" if disk.read_only else "")
    if why:
        raise RefusedError(
            f"disk {disk.serial} ({disk.path}): {why}",
            hint=storage.way_out([disk]),
        )
    if disk.size < disk_layout.SMALLEST_MIB * disk_layout.MIB:
        raise RefusedError(
            f"disk {disk.serial} ({disk.path}): {log.size(disk.size)}, "
            f"{log.size(disk_layout.SMALLEST_MIB * disk_layout.MIB)} are needed",
            hint="use a larger disk",
        )
    if why := not_started(disk, uefi=now.uefi):
        raise RefusedError(
            f"disk {disk.serial} ({disk.path}): {why}",
            hint="set this machine's firmware to UEFI, or give the disk sectors of 512 bytes "
            "(nvme format), or use another disk",
        )
    return found


def not_started(disk: DiskFacts, *, uefi: bool) -> str:
    """Why firmware does not start from such a disk, in words; "" when it does.

    A BIOS and GRUB below it count in sectors of 512 bytes (INT 13h extensions, bios.py).
    """
    if uefi or disk.logical_sector == bios.SECTOR:
        return ""
    return f"a BIOS does not start from sectors of {disk.logical_sector} bytes"


def found_on(disk: DiskFacts, *, begun: bool) -> str:
    """What is on a disk that is not ours, in words. begun: our mark is on it.

    Beside the mark a table that names no partition is what a write of ours left when it was cut.
    """
    left = replace(disk, partition_table="") if begun else disk
    return "" if begun and not storage.found_on(left) else storage.found_on(disk)


def slot_of(now: Running, disks: Sequence[DiskFacts], serial: str) -> str:
    """The partition of this disk that has this system already: "nvme0n1p2"; "" when there is none.

    Another disk in the machine may have the same system, and its PARTUUID. Raises RefusedError as
    `plan` does.
    """
    (disk,) = storage.by_serial([serial], disks)
    return slot_on(now, disk.path)


def slot_on(now: Running, disk: str) -> str:
    """`slot_of`, of a disk or an image of one, out of its partition table (sfdisk(8))."""
    told = run(["sfdisk", "--json", disk], check=False)
    table = json.loads(told.stdout)["partitiontable"] if told.returncode == 0 else {}
    wanted = str(now.system.partition)
    nodes = [
        part["node"]
        for part in table.get("partitions", ())
        if part.get("uuid", "").lower() == wanted
    ]
    return Path(nodes[0]).name if nodes else ""


def begun(disks: Sequence[DiskFacts], serial: str) -> bool:
    """Whether our mark is on the disk. Raises RefusedError as `plan` does, HostError."""
    (disk,) = storage.by_serial([serial], disks)
    return write_mark.is_on(disk.path, disk.serial)


def check_medium(now: Running) -> None:
    """Read the system against its root hash, and the boot files against their list.

    Raises DamagedBundleError with the place.
    """
    with log.step("check the medium"):
        release.check(MEDIUM_BOOT)
        verify(now.system, now.system.file)


def write(now: Running, wanted: Plan, seed: Path | None = None) -> None:
    """Do it, and read it back. seed: a folder that the new system's state begins with.

    Raises HostError when the disk does not keep what is written or the medium is gone, RefusedError
    when the disk is not what the plan was made of any more.
    """
    with only_one(RUN / "write.lock", wanted.disk), _while_it_answers(MEDIUM):
        _unchanged(now, wanted)
        if not wanted.held:
            _partition(now, wanted, seed)
        elif wanted.begun:
            _mend_table(now, wanted)
        _finish(now, wanted)
    run(["udevadm", "settle"])


@contextmanager
def _while_it_answers(medium: Path) -> Iterator[None]:
    """What fails for want of the medium is said so, and no disk is blamed for it."""
    try:
        yield
    except (KeystoneError, OSError) as error:
        if not medium.is_mount() or _answers(medium):
            raise
        raise HostError(
            "the medium was taken out, or cannot be read any more",
            hint="put it in again, or a copy of it, and restart the machine: it goes on from there",
        ) from error


def _answers(medium: Path) -> bool:
    """Whether the device below a mount gives its first page, not memory for it (open(2))."""
    number = medium.stat().st_dev
    device = f"/dev/block/{os.major(number)}:{os.minor(number)}"
    try:
        file = os.open(device, os.O_RDONLY | os.O_DIRECT)
        try:
            return os.preadv(file, [mmap.mmap(-1, mmap.PAGESIZE)], 0) > 0
        finally:
            os.close(file)
    except OSError:
        return False


def _unchanged(now: Running, wanted: Plan) -> None:
    """Another console may have written the disk while this one asked or waited."""
    seen, serial = hosts.disks(), wanted.serial
    slot = slot_of(now, seen, serial)
    if plan(now, seen, serial, slot, begun=begun(seen, serial)) != wanted:
        raise RefusedError(
            f"disk {serial} ({wanted.disk}): something wrote it since it was looked at",
            hint="look at it again: " + f"keystone-install image write --disk {serial} --plan",
        )


def _finish(now: Running, wanted: Plan) -> None:
    """What comes after the partitions, with the disk open once.

    Each time that a disk is closed which was open for writing, udev reads its table again, and its
    partitions are away for a moment.
    """
    slot = Path("/dev") / slot_on(now, wanted.disk)
    run(["udevadm", "wait", "--settle", f"--timeout={UDEV_SECONDS}", slot])
    try:
        with Path(wanted.disk).open("r+b", buffering=0) as disk:
            _write_code(disk.fileno(), _grub().code)
            with log.step("read it back"):
                _check(now, wanted, slot)
            write_mark.clear(disk.fileno())
    except OSError as error:
        raise HostError(
            f"disk {wanted.serial} ({wanted.disk}): {error.strerror}", hint="use another disk"
        ) from error


def _check(now: Running, wanted: Plan, slot: Path) -> None:
    try:
        verify(now.system, slot)
    except DamagedBundleError as error:
        raise HostError(
            f"disk {wanted.serial} ({wanted.disk}) did not keep what was written: {error.message}",
            hint="use another disk",
        ) from error


def seeded(folder: Path, files: Mapping[str, tuple[str, int]]) -> Path:
    """Files that a state begins with, in a folder: text and mode by path."""
    for name, (text, mode) in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        if name.startswith("root/"):
            path.parent.chmod(0o700)
    if (folder / "root").exists():
        (folder / "root").chmod(0o700)
    return folder


def start_from(wanted: Plan) -> None:
    """Have the firmware start the disk next, and before the medium (efibootmgr(8))."""
    if not FIRMWARE.exists():
        return
    done = run(
        ["efibootmgr", "--create", "--disk", wanted.disk, "--part", "2", "--label", "Keystone",
         "--loader", "\\EFI\\BOOT\\BOOTX64.EFI"],
        check=False,
    )  # fmt: skip
    if done.returncode:
        log.warn(f"the firmware takes no boot entry ({done.stderr.strip()}): choose disk "
                 f"{wanted.serial} in its menu")  # fmt: skip


def _partition(now: Running, wanted: Plan, seed: Path | None) -> None:
    with tempfile.TemporaryDirectory() as name, log.step(f"write {wanted.disk}"):
        folder = Path(name)
        (folder / "core").write_bytes(_grub().core)
        with release.parts(MEDIUM_BOOT) as parts:
            fill(folder / "esp", disk_layout.esp(parts, now.version))
        contents = disk_layout.Contents(
            f"{folder}/core", str(now.system.file), f"{folder}/esp", seed=str(seed or "")
        )
        files = disk_layout.definitions(now.system, now.version, contents)
        fill(folder / "repart.d", files)
        _begin(wanted)
        try:
            run(
                ["systemd-repart", "--empty=require", "--discard=no", "--dry-run=no",
                 "--seed=random", "--no-pager", f"--definitions={folder}/repart.d", wanted.disk],
                timeout=3600,
            )  # fmt: skip
        except CommandError as error:
            raise HostError(
                f"disk {wanted.serial} ({wanted.disk}): {error.message}",
                hint="run it again; if it fails again, use another disk",
            ) from error
    run(["udevadm", "settle"])


def _begin(wanted: Plan) -> None:
    """Nothing is on the disk but our mark. Raises RefusedError when something came to it."""
    if not wanted.begun and run(["wipefs", wanted.disk]).stdout.strip():
        raise RefusedError(
            f"disk {wanted.serial} ({wanted.disk}): not blank any more",
            hint="look at it: wipefs " + wanted.disk,
        )
    if wanted.begun:  # what is left of our table, or repart would take it for somebody's
        run(["wipefs", "--all", wanted.disk])
    elif _discards(wanted.disk):
        done = run(["blkdiscard", wanted.disk], check=False, timeout=3600)
        if done.returncode:  # it only spares the disk work
            log.warn(f"{wanted.disk}: discards no blocks: {done.stderr.strip()}")
    write_mark.put(wanted.disk, wanted.serial)


def _discards(disk: str) -> bool:
    limit = Path("/sys/class/block", Path(disk).name, "queue/discard_max_bytes")
    return limit.is_file() and limit.read_text().strip() != "0"


def _mend_table(now: Running, wanted: Plan) -> None:
    """Both copies of the table are whole: the kernel is content with one."""
    (number,) = re.findall(r"p?(\d+)$", slot_on(now, wanted.disk))
    run(["sfdisk", "--part-label", wanted.disk, number, f"keystone-{now.version}"])
    run(["udevadm", "settle"])


def _grub() -> bios.Loader:
    boot, core = (MEDIUM_BOOT / name for name in ("boot.img", "core.img"))
    return bios.placed(boot.read_bytes(), core.read_bytes())


def _write_code(disk: int, code: bytes) -> None:
    """What a BIOS starts, before the partition table's own bytes of sector 0. Raises OSError."""
    sector = os.pread(disk, bios.SECTOR, 0)
    os.pwrite(disk, code + sector[len(code) :], 0)
    os.fsync(disk)


def verify(system: System, device: Path) -> None:
    """Read all of it against its root hash. Raises DamagedBundleError with the place."""
    done = run(
        ["veritysetup", "verify", f"--hash-offset={system.tree}", device, device, system.digest],
        check=False, timeout=3600,
    )  # fmt: skip
    if done.returncode:
        place = re.search(r"position (\d+)", done.stderr)
        what = f"byte {place[1]} is not what was signed" if place else done.stderr.strip()
        raise DamagedBundleError(f"{device}: {what}", hint=COPY)
