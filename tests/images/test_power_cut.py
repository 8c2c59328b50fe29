"""Power failures while a medium writes a disk: the same medium continues, whatever the disk kept.

One write is recorded on a machine, with every flush. From the recording, disks are made as a power
failure may leave them at some moment, with all or a random half of the writes not flushed yet. The
medium's plan is checked for each; machines are started from the medium with some of them.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from typing import TYPE_CHECKING

import pytest

from keystone.appliance import write, write_mark
from keystone.hosts.facts import DiskFacts
from keystone.image import disk_layout
from keystone.image.squashfs import System
from keystone.run import run

from .bench import written
from .machine import Disk
from .writes import Log, read

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .bench import Bench

pytestmark = [pytest.mark.images, pytest.mark.timeout(7200)]
MOMENTS = 30
SEEDS = (None, 1, 2)
"""All writes that were not flushed, and twice a random half of them."""
TABLES = ("gpt", "PMBR", "dos")
Kind = tuple[str, bool, bool]
"""The partition table found, whether the disk has the system, whether it has our mark."""


def observed(image: Path) -> tuple[DiskFacts, str]:
    """Facts that a medium observes of such a disk, and the slot with the system; "" for none."""
    table = run(["sfdisk", "--json", image], check=False)
    listed = json.loads(table.stdout)["partitiontable"] if table.returncode == 0 else {}
    parts = listed.get("partitions", [])
    found = run(["wipefs", "--json", image]).stdout
    kinds = [s["type"] for s in json.loads(found)["signatures"]] if found.strip() else []
    label = run(["blkid", "-p", "-o", "value", "-s", "PTTYPE", image], check=False).stdout.strip()
    facts = DiskFacts(
        name=image.name, path=str(image), by_id=(), serial="SYS1", model="",
        size=image.stat().st_size, logical_sector=512, physical_sector=512,
        partition_table=label or next((kind for kind in kinds if kind in TABLES), ""),
        partitions=tuple(part["node"].rpartition("/")[2] for part in parts),
        signatures=tuple(kind for kind in kinds if kind not in TABLES),
    )  # fmt: skip
    named = [part for part in parts if part["name"] == "keystone-1"]
    return facts, named[0]["node"].rpartition("/")[2] if named else ""


def assert_complete(image: Path, system: System, folder: Path) -> None:
    """Assert that a machine can start from it: system, EFI partition and state are correct."""
    parts = json.loads(run(["sfdisk", "--json", image]).stdout)["partitiontable"]["partitions"]
    files = {}
    for part in parts:
        files[part["name"]] = target = folder / part["name"]
        run(["dd", f"if={image}", f"of={target}", "bs=1M", "conv=sparse", "status=none",
             f"skip={part['start'] // 2048}", f"count={part['size'] // 2048}"])  # fmt: skip
    slot = files["keystone-1"]
    write.verify(System(slot, system.tree, system.digest), slot)
    run(["fsck.vfat", "-n", files["keystone-esp"]])
    listed = run(["mdir", "-b", "-/", "-i", files["keystone-esp"], "::"]).stdout
    assert f"::/{disk_layout.uki_name(1)}" in listed
    assert f"::/{disk_layout.REMOVABLE}" in listed
    run(["e2fsck", "-fn", files["keystone-state"]])
    for target in files.values():
        target.unlink()


def moments(log: Log) -> list[int]:
    """Moments around writes of the partition table, the others evenly over the whole write."""
    last = len(log.writes)
    table = [n for n, one in enumerate(log.writes) if one.offset < (1 << 20) and one.size]
    near = sorted({n + more for n in table for more in range(3) if n + more <= last})
    if len(near) > MOMENTS * 2 // 3:
        near = random.Random(1).sample(near, MOMENTS * 2 // 3)
    found, parts = set(near), MOMENTS - len(near)
    while len(found) < MOMENTS:  # some moments may coincide
        found = {*near, *(last * n // parts for n in range(1, parts + 1))}
        parts += 1
    return sorted(found)


def test_medium_continues_after_power_failure_at_any_moment(
    bench: Bench, build: Callable[..., Path]
) -> None:
    iso, stick, disks = build(), bench.stick({"site.yaml": bench.site()}), bench.disks()
    log, whole = recorded(bench, iso, stick, disks), disks[2].file
    command = run(["mcopy", "-i", efi(whole, bench.folder), "::/keystone/1/cmdline", "-"]).stdout
    now = write.running(command, "medium", "/dev/loop0", "IMAGE_VERSION=1\n")
    stable = bench.folder / "stable.raw"
    stable.touch()
    os.truncate(stable, whole.stat().st_size)
    applied = 0
    kept: dict[Kind, Path] = {}
    for moment in moments(log):
        flushed = log.flushed(moment)
        log.apply(stable, range(applied, flushed))
        applied = max(applied, flushed)
        for seed in SEEDS:
            image = log.after_power_failure(stable, moment, seed)
            print(
                f"power failure after {moment} of {len(log.writes)} writes, seed {seed}: ", end=""
            )
            kind = judged(image, now, bench.folder)
            if kind in kept:
                image.unlink()
            else:
                kept[kind] = image
    assert {held for _, held, _ in kept} == {True, False}
    for kind, image in kept.items():
        shutil.move(image, whole)
        continues(bench, iso, stick, disks, kind)


def recorded(bench: Bench, iso: Path, stick: Path, disks: list[Disk]) -> Log:
    """Record all writes of a medium to the disk of the system."""
    file = bench.folder / "log"
    file.touch()
    os.truncate(file, 6 << 30)
    logged = Disk(disks[2].file, disks[2].serial, log=file)
    machine = bench.machine(disks=[*disks[:2], logged], cd=iso, usb=(stick,))
    written(machine)
    return read(file)


def judged(image: Path, now: write.Running, folder: Path) -> Kind:
    """The medium's plan for a disk: it must neither refuse it nor trust an incomplete write."""
    facts, slot = observed(image)
    begun = write_mark.is_on(str(image), "SYS1")
    plan = write.plan(now, [facts], "SYS1", slot, begun=begun)
    print(plan.describe())
    if plan.held:
        assert_complete(image, now.system, folder)
    return facts.partition_table, plan.held, plan.begun


def continues(bench: Bench, iso: Path, stick: Path, disks: list[Disk], kind: Kind) -> None:
    """Start the machine from the medium again, until its login."""
    table, held, begun = kind
    machine = bench.machine(f"{table}-{held}-{begun}", disks=disks, cd=iso, usb=(stick,))
    if begun or not held:  # a complete disk is started, with the medium still inserted
        written(machine)
    with machine:
        machine.hear(r"p1 login:")
    print(f"started again after {kind}")


def efi(disk: Path, folder: Path) -> Path:
    """Copy the EFI partition of a disk to a file."""
    parts = json.loads(run(["sfdisk", "--json", disk]).stdout)["partitiontable"]["partitions"]
    (part,) = (part for part in parts if part["name"] == "keystone-esp")
    target = folder / "efi"
    run(["dd", f"if={disk}", f"of={target}", "bs=1M", "status=none",
         f"skip={part['start'] // 2048}", f"count={part['size'] // 2048}"])  # fmt: skip
    return target
