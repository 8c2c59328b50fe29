"""Another version of the system into the slot that is not running, and the way back.

The new version comes on a medium's image (an ISO). Until it is whole in its slot nothing starts it;
from then on it is started a few times, and the one before it again when nobody called it good: by
systemd-boot under UEFI (Automatic Boot Assessment), by GRUB's counter under a BIOS (bios.py).
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
from keystone.files import half_made, sync_directory, write_whole
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
"""root-x86-64 of the Discoverable Partitions Specification: our slots."""
ESP_TYPE = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
CHUNK = 4 << 20
MEDIUM = "iso9660"
"""The file system of a medium."""
OPTION = re.compile(
    r"(?<!\S)keystone\.(?P<key>(?P<root>root)|tree|version)="
    r"(?P<value>(?(root)[0-9a-f]{64}|[0-9]{1,15}))(?!\S)"
)
"""What a medium's kernel command line says of its system."""
BLESS = "/usr/lib/systemd/systemd-bless-boot"
"""systemd-bless-boot(8)."""


@dataclass(frozen=True)
class Partition:
    """One of the system disk's. number: in its table, from 1. uuid: PARTUUID. size: in bytes."""

    path: str
    number: int
    kind: str
    label: str
    uuid: str
    size: int


@dataclass(frozen=True)
class Offer:
    """A version on a mounted medium: its system's file, its boot files by name."""

    system: System
    version: int
    parts: Mapping[str, Path]


@dataclass(frozen=True)
class Plan:
    """What an upgrade does. done: the slot holds that system already. old: versions that stay."""

    disk: str
    esp: Partition
    slot: Partition
    version: int
    running: int
    done: bool

    def describe(self) -> str:
        """One line for people."""
        if self.done:
            return f"version {self.version} is in slot {self.slot.path} already"
        empty = self.slot.label == disk_layout.FREE
        held = "which is empty" if empty else f"over {self.slot.label}"
        return (
            f"write version {self.version} to slot {self.slot.path}, {held}; "
            f"version {self.running} stays and comes back if {self.version} does not start well"
        )


def offered(place: Path) -> Offer:
    """What a mounted medium has. Raises DamagedBundleError when it is not one of ours."""
    boot = place / "boot"
    missing = [name for name in PARTS if name != "linux.efi" and not (boot / name).is_file()]
    if missing:
        raise DamagedBundleError(
            f"{place}: no boot/{missing[0]} in it", hint="give an installer medium's ISO file"
        )
    said = (boot / "cmdline").read_text(errors="replace")
    options = {match["key"]: match["value"] for match in OPTION.finditer(said)}
    if options.keys() != {"root", "tree", "version"}:
        raise DamagedBundleError(f"{boot / 'cmdline'}: names no system", hint="take another copy")
    file = place / f"keystone/{options['root']}.root"
    if not file.is_file():
        raise DamagedBundleError(f"{file}: not there", hint="take another copy")
    system = System(file, int(options["tree"]), options["root"])
    return Offer(system, int(options["version"]), {name: boot / name for name in PARTS})


def plan(now: Running, disk: str, partitions: Sequence[Partition], offer: Offer) -> Plan:
    """Decide. disk: the one that this machine runs from, with its partitions.

    Raises PreflightError for a disk that is not as we write one, RefusedError for a version that is
    not newer or too large.
    """
    esps = [part for part in partitions if part.kind == ESP_TYPE]
    slots = [part for part in partitions if part.kind == ROOT_TYPE]
    mine = [part for part in slots if part.uuid == str(now.system.partition)]
    others = [part for part in slots if part not in mine]
    if (len(esps), len(mine), len(others)) != (1, 1, 1):
        raise PreflightError(
            f"disk {disk}: {len(esps)} EFI partitions, {len(mine)} slots that run and "
            f"{len(others)} others, not one of each",
            hint="this is not a disk as the installer medium writes it",
        )
    (slot,) = others
    done = slot.label == _label(offer.version) and slot.uuid == str(offer.system.partition)
    if offer.version < now.version or (offer.version == now.version and not done):
        raise RefusedError(
            f"version {offer.version} is not newer than {now.version}, which runs",
            hint="take a newer medium; to go back, start the version before in the boot menu",
        )
    size = offer.system.file.stat().st_size
    if size > slot.size:
        raise RefusedError(
            f"slot {slot.path}: {log.size(slot.size)}, {log.size(size)} are needed",
            hint="this version needs a disk that is written anew",
        )
    return Plan(disk, esps[0], slot, offer.version, now.version, done)


def parse(listed: str) -> tuple[Partition, ...]:
    """Out of `lsblk -J -b -o ...` of one disk, which is a tree or flat as the columns have it."""
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
            "this machine runs from a medium", hint="start it from its disk, and do it there"
        )
    slot = Path((RUN / "device").read_text().strip()).resolve()
    disk = run(["lsblk", "-ndo", "PKNAME", slot]).stdout.strip()
    columns = "PATH,PARTN,PARTTYPE,PARTLABEL,PARTUUID,SIZE"
    listed = run(["lsblk", "-J", "-b", "-o", columns, f"/dev/{disk}"]).stdout
    return f"/dev/{disk}", parse(listed)


def apply(wanted: Plan, offer: Offer) -> None:
    """Do it. Cut anywhere, the version that runs still starts, and the same command goes on.

    Raises RefusedError while the version that runs is on trial, and DamagedBundleError for a medium
    that is not whole, with nothing written then; HostError when the disk or the medium fails.
    """
    turn = only_one(RUN / "write.lock", wanted.disk)
    with turn, _esp(wanted.esp) as esp, _while_it_goes_well(wanted):
        if on_trial(esp):
            raise RefusedError(
                f"version {wanted.running} is on trial, and the one before it is what comes back",
                hint="wait until it is called good (journalctl -u keystone-healthy), or call it "
                "so: keystone-install image bless",
            )
        with log.step("read the medium"):
            verify(offer.system, offer.system.file)
        if not wanted.done:
            _forget(esp, keep=wanted.running)
            # Nobody finds half a system by its name.
            _name(wanted, disk_layout.FREE, str(uuid.uuid4()))
            with log.step(f"write {wanted.slot.path}"):
                _copy(offer.system.file, Path(wanted.slot.path))
            with log.step("read it back"):
                _check(offer.system, Path(wanted.slot.path))
            _name(wanted, _label(wanted.version), str(offer.system.partition))
        with log.step("have it started"):
            _offer_to_firmware(esp, offer, wanted)


@contextmanager
def _while_it_goes_well(wanted: Plan) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HostError(
            f"{error.filename or f'{wanted.slot.path}, or the medium'}: {error.strerror}",
            hint=f"run it again; version {wanted.running}, which runs, is untouched",
        ) from error


def on_trial(esp: Path) -> bool:
    """Whether nobody called the version that runs good yet. esp: the EFI partition, mounted."""
    if FIRMWARE.exists():
        status = run([BLESS, f"--path={esp}", "status"]).stdout.strip()
        return status in {"indeterminate", "dirty"}  # dirty: this is its last try
    block = (esp / disk_layout.GRUB_ENVIRONMENT).read_text()
    return bios.values(block).get("trying") == str(running().version)


def _label(version: int) -> str:
    return f"keystone-{version}"


def bless() -> str:
    """The version that runs is good: it is started from now on. What is to say about it.

    Raises PreflightError when this machine does not run from its disk.
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
    return f"version {now.version} is the one to start"


def _forget(esp: Path, keep: int) -> None:
    """No entry leads to the slot that is written over. The menu first: what it needs is read."""
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
                run(["sync", half])
                half.rename(target)
            sync_directory(target.parent)
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
    """Label and PARTUUID of the slot: the initramfs finds a system by the latter."""
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
            f"{slot} did not keep what was written: {error.message}",
            hint="the disk fails; the version that runs is untouched",
        ) from error


def medium_of(image: Path) -> AbstractContextManager[Path]:
    """An ISO file, mounted. Raises CommandError when it cannot be."""
    return mounted(image, MEDIUM, "loop,ro")


def _esp(partition: Partition) -> AbstractContextManager[Path]:
    return mounted(Path(partition.path), "vfat", "umask=077")
