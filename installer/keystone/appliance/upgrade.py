"""Upgrade the system: write a new version to the slot that is not running, with fallback.

The new version comes from a medium's image (an ISO file). No boot entry leads to it until it is
complete in its slot. Then it is tried a few times, and the previous version starts again unless the
new one is marked as good. systemd-boot does this under UEFI (Automatic Boot Assessment), GRUB with
a counter under a BIOS (bios.py).
"""

from __future__ import annotations

import json
import re
import shutil
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keystone import log
from keystone.appliance.write import FIRMWARE, Running, verify
from keystone.appliance.write import observe as running
from keystone.errors import DamagedBundleError, HostError, PreflightError, RefusedError
from keystone.files import half_made, settle, write_whole
from keystone.image import bios, disk_layout, release
from keystone.image.mounts import mounted
from keystone.image.squashfs import System
from keystone.image.uki import PARTS
from keystone.lockfile import only_one
from keystone.run import run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

RUN = Path("/run/keystone")
ROOT_TYPE = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
"""Partition type of our slots: root-x86-64 (Discoverable Partitions Specification)."""
ESP_TYPE = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
CHUNK = 4 << 20
MEDIUM = "iso9660"
"""The file system of a medium."""
OPTION = re.compile(
    r"(?<!\S)keystone\.(?P<key>(?P<root>root)|tree|version)="
    r"(?P<value>(?(root)[0-9a-f]{64}|[0-9]{1,15}))(?!\S)"
)
"""The options of a medium's kernel command line that name its system."""
BLESS = "/usr/lib/systemd/systemd-bless-boot"
"""systemd-bless-boot(8)."""


@dataclass(frozen=True)
class Partition:
    """A partition of the system disk. number: from 1. uuid: its PARTUUID. size: in bytes."""

    path: str
    number: int
    kind: str
    label: str
    uuid: str
    size: int


@dataclass(frozen=True)
class Offer:
    """The version on a mounted medium. parts: its boot files by name."""

    system: System
    version: int
    parts: Mapping[str, Path]


@dataclass(frozen=True)
class Plan:
    """What an upgrade does. running: the current version. done: the slot has the new one."""

    disk: str
    esp: Partition
    slot: Partition
    version: int
    running: int
    done: bool

    def describe(self) -> str:
        """One line of text for people."""
        if self.done:
            return f"version {self.version} is already in slot {self.slot.path}"
        empty = self.slot.label == disk_layout.FREE
        content = "which is empty" if empty else f"replacing {self.slot.label}"
        return (
            f"write version {self.version} to slot {self.slot.path}, {content}; "
            f"version {self.running} is kept and starts again if {self.version} fails"
        )


def offered(place: Path) -> Offer:
    """Read the version on a mounted medium. Raises DamagedBundleError if it is not one of ours."""
    boot = place / "boot"
    missing = [name for name in PARTS if name != "linux.efi" and not (boot / name).is_file()]
    if missing:
        raise DamagedBundleError(
            f"{place}: boot/{missing[0]} is missing",
            hint="name the ISO file of an installer medium",
        )
    line = (boot / "cmdline").read_text(errors="replace")
    options = {match["key"]: match["value"] for match in OPTION.finditer(line)}
    if options.keys() != {"root", "tree", "version"}:
        raise DamagedBundleError(f"{boot / 'cmdline'}: names no system", hint="use another copy")
    file = place / f"keystone/{options['root']}.root"
    if not file.is_file():
        raise DamagedBundleError(f"{file} does not exist", hint="use another copy")
    system = System(file, int(options["tree"]), options["root"])
    return Offer(system, int(options["version"]), {name: boot / name for name in PARTS})


def plan(now: Running, disk: str, partitions: Sequence[Partition], offer: Offer) -> Plan:
    """Decide which slot to write. disk: the disk that this machine runs from.

    Raises PreflightError if the disk does not have the partitions of an installed system,
    RefusedError for a version that is not newer or too large.
    """
    esps = [part for part in partitions if part.kind == ESP_TYPE]
    slots = [part for part in partitions if part.kind == ROOT_TYPE]
    mine = [part for part in slots if part.uuid == str(now.system.partition)]
    others = [part for part in slots if part not in mine]
    if (len(esps), len(mine), len(others)) != (1, 1, 1):
        raise PreflightError(
            f"disk {disk}: number of EFI partitions: {len(esps)}, of running slots: {len(mine)}, "
            f"of other slots: {len(others)}; expected one of each",
            hint="the installer medium did not partition this disk",
        )
    (slot,) = others
    done = slot.label == _label(offer.version) and slot.uuid == str(offer.system.partition)
    if offer.version < now.version or (offer.version == now.version and not done):
        raise RefusedError(
            f"version {offer.version} is not newer than the running version {now.version}",
            hint="use a newer medium; to go back, start the previous version in the boot menu",
        )
    size = offer.system.file.stat().st_size
    if size > slot.size:
        raise RefusedError(
            f"slot {slot.path}: {log.size(slot.size)}, but the system needs {log.size(size)}",
            hint="install this version on a blank disk from its medium",
        )
    return Plan(disk, esps[0], slot, offer.version, now.version, done)


def parse(listed: str) -> tuple[Partition, ...]:
    """Parse `lsblk -J -b -o ...` of one disk, which is nested or flat depending on the columns."""
    return tuple(
        Partition(
            child["path"], int(child["partn"]), child["parttype"] or "", child["partlabel"] or "",
            child["partuuid"] or "", int(child["size"]),
        )
        for child in _all(json.loads(listed)["blockdevices"])
        if child.get("partn")
    )  # fmt: skip


def _all(devices: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for device in devices:
        yield device
        yield from _all(device.get("children", []))


def observe(now: Running) -> tuple[str, tuple[Partition, ...]]:
    """The disk that this system runs from, and its partitions. Raises PreflightError."""
    if now.medium:
        raise PreflightError(
            "this machine runs from a medium", hint="start it from its disk and repeat the command"
        )
    slot = Path((RUN / "device").read_text().strip()).resolve()
    disk = run(["lsblk", "-ndo", "PKNAME", slot]).stdout.strip()
    columns = "PATH,PARTN,PARTTYPE,PARTLABEL,PARTUUID,SIZE"
    listed = run(["lsblk", "-J", "-b", "-o", columns, f"/dev/{disk}"]).stdout
    return f"/dev/{disk}", parse(listed)


def apply(wanted: Plan, offer: Offer) -> None:
    """Write the slot and make the firmware try it.

    If interrupted at any point, the running version still starts, and the command can be repeated.
    Raises RefusedError while the running version is on trial, DamagedBundleError for a damaged
    medium, both before anything is written; HostError if the disk or the medium fails.
    """
    lock = only_one(RUN / "write.lock", wanted.disk)
    with lock, _esp(wanted.esp) as esp, _report_failure(wanted):
        if on_trial(esp):
            raise RefusedError(
                f"version {wanted.running} is on trial, and an upgrade would overwrite the "
                "version to fall back to",
                hint="wait until it is marked as good (journalctl -u keystone-healthy), or mark "
                "it as good: keystone-install image bless",
            )
        with log.step("verify the medium"):
            verify(offer.system, offer.system.file)
        if not wanted.done:
            _remove_entries(esp, keep=wanted.running)
            # No boot finds an incomplete system by its name.
            _name(wanted, disk_layout.FREE, str(uuid.uuid4()))
            with log.step(f"write {wanted.slot.path}"):
                _copy(offer.system.file, Path(wanted.slot.path))
            with log.step("verify the slot"):
                _check(offer.system, Path(wanted.slot.path))
            _name(wanted, _label(wanted.version), str(offer.system.partition))
        with log.step("add the boot entry"):
            _offer_to_firmware(esp, offer, wanted)


@contextmanager
def _report_failure(wanted: Plan) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HostError(
            f"{error.filename or f'{wanted.slot.path}, or the medium'}: {error.strerror}",
            hint=f"repeat the command; the running version {wanted.running} is unchanged",
        ) from error


def on_trial(esp: Path) -> bool:
    """Whether the running version is not marked as good yet. esp: the mounted EFI partition."""
    if FIRMWARE.exists():
        status = run([BLESS, f"--path={esp}", "status"]).stdout.strip()
        return status in {"indeterminate", "dirty"}  # dirty: the last try
    block = (esp / disk_layout.GRUB_ENVIRONMENT).read_text()
    return bios.values(block).get("trying") == str(running().version)


def _label(version: int) -> str:
    return f"keystone-{version}"


def bless() -> str:
    """Mark the running version as good, so that it starts from now on. Returns a message.

    Raises PreflightError if this machine does not run from its disk.
    """
    now = running()
    _, partitions = observe(now)
    (esp,) = (part for part in partitions if part.kind == ESP_TYPE)
    with _esp(esp) as place:
        if FIRMWARE.exists():
            run([BLESS, f"--path={place}", "good"])
        else:
            block = bios.environment({"good": str(now.version), "trying": "", "tries": ""})
            write_whole(place / disk_layout.GRUB_ENVIRONMENT, block.encode(), 0o644)
    return f"version {now.version} is marked as good: this machine starts it from now on"


def _remove_entries(esp: Path, keep: int) -> None:
    """Remove all boot entries except those of version `keep`, before its slot is overwritten.

    The menu is written first, from files that are deleted later.
    """
    _menus(esp, {keep})
    for uki in esp.glob("EFI/Linux/keystone_*.efi"):
        if re.match(rf"keystone_{keep}[+.]", uki.name) is None:
            uki.unlink()
    for folder in (esp / disk_layout.VERSIONS).iterdir():
        if folder.is_dir() and folder.name != str(keep):
            shutil.rmtree(folder)
    block = bios.environment({"good": str(keep), "trying": "", "tries": ""})
    write_whole(esp / disk_layout.GRUB_ENVIRONMENT, block.encode(), 0o644)


def _offer_to_firmware(esp: Path, offer: Offer, wanted: Plan) -> None:
    with release.parts(offer.parts["vmlinuz"].parent) as parts:
        files = disk_layout.of_version(parts, wanted.version)
        for name, source in files.items():
            target = esp / name
            target.parent.mkdir(parents=True, exist_ok=True)
            half = target.with_name(f"{target.name}.part")
            with half_made(half, target):
                shutil.copyfile(source, half)
                settle(half, target)
    _menus(esp, {wanted.running, wanted.version})
    block = bios.environment({
        "good": str(wanted.running), "trying": str(wanted.version), "tries": str(bios.TRIES),
    })  # fmt: skip
    write_whole(esp / disk_layout.GRUB_ENVIRONMENT, block.encode(), 0o644)


def _menus(esp: Path, versions: set[int]) -> None:
    lines = {
        version: (esp / disk_layout.VERSIONS / str(version) / "cmdline").read_text()
        for version in versions
    }
    write_whole(esp / disk_layout.GRUB_MENU, bios.slots(lines).encode(), 0o644)


def _name(wanted: Plan, label: str, name: str) -> None:
    """Set label and PARTUUID of the slot; the initramfs finds a system by the PARTUUID."""
    number = str(wanted.slot.number)
    run(["sfdisk", "--part-label", wanted.disk, number, label])
    run(["sfdisk", "--part-uuid", wanted.disk, number, name])
    run(["udevadm", "settle"])


def _copy(source: Path, slot: Path) -> None:
    with source.open("rb") as file, slot.open("r+b") as disk:
        shutil.copyfileobj(file, disk, CHUNK)
        disk.flush()
    run(["sync", slot])


def _check(system: System, slot: Path) -> None:
    try:
        verify(system, slot)
    except DamagedBundleError as error:
        raise HostError(
            f"{slot} did not store the data: {error.message}",
            hint="the disk is failing; the running version is unchanged",
        ) from error


def medium_of(image: Path) -> AbstractContextManager[Path]:
    """Mount an ISO file. Raises CommandError if that fails."""
    return mounted(image, MEDIUM, "loop,ro")


def _esp(partition: Partition) -> AbstractContextManager[Path]:
    return mounted(Path(partition.path), "vfat", "umask=077")
