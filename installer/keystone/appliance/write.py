"""Write the system of the medium that this machine was started from to its system disk.

A disk is used only if it is provably blank; a disk that holds this very system is not written
again. The partition table is written last (disk_layout.py), so an interrupted write leaves a disk
that is still blank, or an incomplete table beside our mark (write_mark.py), and the same command
can be repeated. The written system is read back and verified against the root hash.
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
COPY = "use another copy of the medium"
FIRMWARE = Path("/sys/firmware/efi")
UDEV_SECONDS = 300
"""Timeout for udev to name a new partition: an emulated machine needs tens of seconds."""


@dataclass(frozen=True)
class Running:
    """The running system and its version.

    medium: it runs from a medium, not from a disk. uefi: UEFI started it, not a BIOS.
    """

    system: System
    version: int
    medium: bool
    uefi: bool = True


@dataclass(frozen=True)
class Plan:
    """What to write. held: the disk has this system. begun: it has our mark (write_mark.py)."""

    disk: str
    serial: str
    size: int
    version: int
    held: bool
    begun: bool = False

    @property
    def done(self) -> bool:
        """Whether nothing is left to write."""
        return self.held and not self.begun

    def describe(self) -> str:
        """One line of text for people."""
        if self.done:
            return f"disk {self.serial} ({self.disk}) already holds version {self.version}"
        why = "where an earlier write is incomplete" if self.begun else "which is blank"
        return (
            f"write version {self.version} to disk {self.serial} ({self.disk}, "
            f"{log.size(self.size)}), {why}"
        )


def running(command_line: str, source: str, device: str, os_release: str) -> Running:
    """Parse /proc/cmdline, /run/keystone/from, /run/keystone/device and os-release(5).

    Raises PreflightError if this machine was not started from one of our images.
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
    """Observe the running system. Raises PreflightError as `running`."""
    files = [Path("/proc/cmdline"), RUN / "from", RUN / "device", OS_RELEASE]
    found = running(*(path.read_text() if path.is_file() else "" for path in files))
    return replace(found, uefi=FIRMWARE.exists())


def plan(now: Running, disks: Sequence[DiskFacts], serial: str, slot: str, *, begun: bool) -> Plan:
    """Decide what to write to the disk with this serial number.

    slot: the partition that already has this system, as "nvme0n1p2", or "". begun: our mark is on
    the disk. Raises RefusedError if the disk is missing, ambiguous, too small, not blank, read-only
    or not bootable; PreflightError if the machine does not run from a medium.
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
    why = found_on(disk, begun=begun) or ("read-only" if disk.read_only else "")
    if why:
        raise RefusedError(
            f"disk {disk.serial} ({disk.path}): {why}",
            hint=storage.way_out([disk]),
        )
    if disk.size < disk_layout.SMALLEST_MIB * disk_layout.MIB:
        raise RefusedError(
            f"disk {disk.serial} ({disk.path}): {log.size(disk.size)}, "
            f"but the system needs {log.size(disk_layout.SMALLEST_MIB * disk_layout.MIB)}",
            hint="use a larger disk",
        )
    if why := not_started(disk, uefi=now.uefi):
        raise RefusedError(
            f"disk {disk.serial} ({disk.path}): {why}",
            hint="set this machine's firmware to UEFI, or format the disk with sectors of 512 "
            "bytes (nvme format), or use another disk",
        )
    return found


def not_started(disk: DiskFacts, *, uefi: bool) -> str:
    """Why firmware cannot start from this disk; "" if it can.

    A BIOS and GRUB on it address sectors of 512 bytes (INT 13h extensions, bios.py).
    """
    if uefi or disk.logical_sector == bios.SECTOR:
        return ""
    return f"a BIOS cannot start from sectors of {disk.logical_sector} bytes"


def found_on(disk: DiskFacts, *, begun: bool) -> str:
    """What is on a disk that we did not write; "" if nothing. begun: our mark is on it.

    With the mark, a table without partitions is the remainder of an interrupted write of ours.
    """
    left = replace(disk, partition_table="") if begun else disk
    return "" if begun and not storage.found_on(left) else storage.found_on(disk)


def slot_of(now: Running, disks: Sequence[DiskFacts], serial: str) -> str:
    """The partition of this disk that already has this system, as "nvme0n1p2"; "" for none.

    Only this disk is read: another one may have the same system and the same PARTUUID. Raises
    RefusedError as `plan`.
    """
    (disk,) = storage.by_serial([serial], disks)
    return slot_on(now, disk.path)


def slot_on(now: Running, disk: str) -> str:
    """Like `slot_of`, for a disk or disk image by path, from its partition table (sfdisk(8))."""
    done = run(["sfdisk", "--json", disk], check=False)
    table = json.loads(done.stdout)["partitiontable"] if done.returncode == 0 else {}
    wanted = str(now.system.partition)
    nodes = [
        part["node"]
        for part in table.get("partitions", ())
        if part.get("uuid", "").lower() == wanted
    ]
    return Path(nodes[0]).name if nodes else ""


def begun(disks: Sequence[DiskFacts], serial: str) -> bool:
    """Whether our mark is on the disk. Raises RefusedError as `plan`, HostError."""
    (disk,) = storage.by_serial([serial], disks)
    return write_mark.is_on(disk.path, disk.serial)


def check_medium(now: Running) -> None:
    """Verify the system against its root hash, and the boot files against their list.

    Raises DamagedBundleError with the place of the damage.
    """
    with log.step("verify the medium"):
        release.check(MEDIUM_BOOT)
        verify(now.system, now.system.file)


def write(now: Running, wanted: Plan, seed: Path | None = None) -> None:
    """Write the disk and verify it. seed: a folder with the first files of the state partition.

    Raises HostError if the disk returns other bytes than were written or the medium was removed,
    RefusedError if the disk changed since it was planned.
    """
    with only_one(RUN / "write.lock", wanted.disk), _report_lost(MEDIUM):
        _unchanged(now, wanted)
        if not wanted.held:
            _partition(now, wanted, seed)
        elif wanted.begun:
            _repair_table(now, wanted)
        _finish(now, wanted)
    run(["udevadm", "settle"])


@contextmanager
def _report_lost(medium: Path) -> Iterator[None]:
    """Report a failure inside the block as the medium's if the medium is lost, not the disk's."""
    try:
        yield
    except (KeystoneError, OSError) as error:
        if not medium.is_mount() or _readable(medium):
            raise
        raise HostError(
            "the medium was removed, or cannot be read any more",
            hint="insert it or a copy of it and restart the machine: the installation continues",
        ) from error


def _readable(medium: Path) -> bool:
    """Whether the mounted device itself, not the page cache, returns its first page (open(2))."""
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
    """Refuse if the disk changed since the plan: another console may have written it."""
    seen, serial = hosts.disks(), wanted.serial
    slot = slot_of(now, seen, serial)
    if plan(now, seen, serial, slot, begun=begun(seen, serial)) != wanted:
        raise RefusedError(
            f"disk {serial} ({wanted.disk}): changed since it was planned",
            hint=f"plan again: keystone-install image write --disk {serial} --plan",
        )


def _finish(now: Running, wanted: Plan) -> None:
    """Write boot code, verify the system and clear the mark, with the disk opened only once.

    After each close of a disk that was open for writing, udev rereads its partition table.
    """
    slot = Path("/dev") / slot_on(now, wanted.disk)
    run(["udevadm", "wait", "--settle", f"--timeout={UDEV_SECONDS}", slot])
    try:
        with Path(wanted.disk).open("r+b", buffering=0) as disk:
            _write_code(disk.fileno(), _grub().code)
            with log.step("verify the written system"):
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
            f"disk {wanted.serial} ({wanted.disk}) did not store the data: {error.message}",
            hint="use another disk",
        ) from error


def seeded(folder: Path, files: Mapping[str, tuple[str, int]]) -> Path:
    """Write the first files of a state partition to a folder. files: text and mode by path."""
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
    """Make the disk the first boot entry, before the medium (efibootmgr(8))."""
    if not FIRMWARE.exists():
        return
    done = run(
        ["efibootmgr", "--create", "--disk", wanted.disk, "--part", "2", "--label", "Keystone",
         "--loader", "\\EFI\\BOOT\\BOOTX64.EFI"],
        check=False,
    )  # fmt: skip
    if done.returncode:
        log.warn(f"the firmware did not accept a boot entry ({done.stderr.strip()}): choose disk "
                 f"{wanted.serial} in its boot menu")  # fmt: skip


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
                hint="repeat the command; if it fails again, use another disk",
            ) from error
    run(["udevadm", "settle"])


def _begin(wanted: Plan) -> None:
    """Erase the disk and put our mark on it. Raises RefusedError if it is no longer blank."""
    if not wanted.begun and run(["wipefs", wanted.disk]).stdout.strip():
        raise RefusedError(
            f"disk {wanted.serial} ({wanted.disk}): no longer blank",
            hint=f"list what is on it: wipefs {wanted.disk}",
        )
    if wanted.begun:  # systemd-repart would refuse what is left of our table
        run(["wipefs", "--all", wanted.disk])
    elif _discards(wanted.disk):
        done = run(["blkdiscard", wanted.disk], check=False, timeout=3600)
        if done.returncode:  # not needed: discarding only saves the disk work
            log.warn(f"{wanted.disk}: cannot discard blocks: {done.stderr.strip()}")
    write_mark.put(wanted.disk, wanted.serial)


def _discards(disk: str) -> bool:
    limit = Path("/sys/class/block", Path(disk).name, "queue/discard_max_bytes")
    return limit.is_file() and limit.read_text().strip() != "0"


def _repair_table(now: Running, wanted: Plan) -> None:
    """Have sfdisk write both copies of the table: the kernel accepts a single valid one."""
    (number,) = re.findall(r"p?(\d+)$", slot_on(now, wanted.disk))
    run(["sfdisk", "--part-label", wanted.disk, number, f"keystone-{now.version}"])
    run(["udevadm", "settle"])


def _grub() -> bios.Loader:
    boot, core = (MEDIUM_BOOT / name for name in ("boot.img", "core.img"))
    return bios.placed(boot.read_bytes(), core.read_bytes())


def _write_code(disk: int, code: bytes) -> None:
    """Write the BIOS boot code to sector 0 and keep the partition table's bytes there."""
    sector = os.pread(disk, bios.SECTOR, 0)
    os.pwrite(disk, code + sector[len(code) :], 0)
    os.fsync(disk)


def verify(system: System, device: Path) -> None:
    """Verify the device against its root hash. Raises DamagedBundleError with the place."""
    done = run(
        ["veritysetup", "verify", f"--hash-offset={system.tree}", device, device, system.digest],
        check=False, timeout=3600,
    )  # fmt: skip
    if done.returncode:
        place = re.search(r"position (\d+)", done.stderr)
        what = (
            f"the data at byte {place[1]} is not what was signed" if place else done.stderr.strip()
        )
        raise DamagedBundleError(f"{device}: {what}", hint=COPY)
