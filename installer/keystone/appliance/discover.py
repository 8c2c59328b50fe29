"""Find the hardware and the input files of a machine that runs from a medium or an installed disk.

The files are the site file, join.yaml and the bundle. They are searched for on the medium
(keystone/site.yaml and so on) and on file systems labelled KEYSTONE (site.yaml and so on). The
initramfs also fetches a site file that the kernel command line names. Two files that differ are
refused; the machine does not ask which one to use.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keystone.appliance.identity import Card, Hardware
from keystone.errors import ConfigurationError, RefusedError
from keystone.image.freight import BUNDLE, JOIN, LABEL, SITE
from keystone.run import CommandError, run
from keystone.site import introduction

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from keystone.errors import KeystoneError
    from keystone.hosts.facts import DiskFacts

RUN = Path("/run/keystone")
REFUSED = RUN / "refused"
"""Why the unattended installation was refused, for the person at the console."""
STICK, DISC = re.compile(LABEL), re.compile(rf"{LABEL}_[A-Z0-9_]+")
"""Labels of sticks, and of installer media (iso.py), which may carry the same files."""
ARGUMENT = "argument"
"""Folder in RUN where the initramfs puts the site file of `keystone.site=`."""
COMMAND_LINE = Path("/proc/cmdline")
SHOWN = 4
"""Number of a file's mistakes that fit on a screen of 24 lines."""
SERIAL = Path("/sys/class/dmi/id/product_serial")
CARDS = Path("/sys/class/net")
LINK = 10
"""Seconds to wait for links to come up: Ethernet over copper takes up to four."""
UNKNOWN = frozenset({
    "", "0", "0123456789", "123456789", "chassis serial number", "default string", "invalid", "n/a",
    "none", "not applicable", "not available", "not specified", "o.e.m.", "oem",
    "system serial number", "to be filled by o.e.m.", "unknown",
})  # fmt: skip
"""Placeholders of vendors instead of a serial number, in lower case: many machines share them."""


def hardware(disks: Iterable[DiskFacts]) -> Hardware:
    """Observe this machine: its built-in disks, and its physical network cards (no bridges, lo)."""
    serial = SERIAL.read_text().strip() if SERIAL.exists() else ""
    if serial.lower() in UNKNOWN:
        serial = ""
    macs = [(card / "address").read_text().strip().lower() for card in _cards()]
    built_in = [disk for disk in disks if disk.may_carry_the_system]
    serials = [disk.serial for disk in built_in if disk.serial]
    return Hardware(serial, tuple(macs), tuple(serials))


def reason(error: KeystoneError) -> str:
    """An error and its hint as text for a screen; of many mistakes only the first ones."""
    mistakes = error.mistakes if isinstance(error, ConfigurationError) else ()
    lines = [error.message, *(f"  {mistake}" for mistake in mistakes[:SHOWN])]
    return "\n".join([*lines, *(["", error.hint] if error.hint else [])])


def cards() -> dict[str, Card]:
    """Set all network cards up, wait up to LINK seconds for their links, return them by MAC.

    It waits for all links, since the first one to come up need not be the only one.
    """
    for card in _cards():
        run(["ip", "link", "set", "dev", card.name, "up"], check=False)
    deadline = time.monotonic() + LINK
    while not all(map(_has_cable, _cards())) and time.monotonic() < deadline:
        time.sleep(0.2)
    return {
        (card / "address").read_text().strip().lower(): Card(
            card.name, (card / "device/driver").resolve().name, _has_cable(card)
        )
        for card in _cards()
    }


def _has_cable(card: Path) -> bool:
    try:
        return (card / "carrier").read_text().strip() == "1"
    except OSError:  # the card could not be set up
        return False


def _cards() -> list[Path]:
    return [card for card in sorted(CARDS.iterdir()) if (card / "device").exists()]


def site_file() -> Path | None:
    """The site file of this installation; None without one.

    Raises RefusedError for two files that differ, and if the file that the kernel command line
    names is missing or has another digest.
    """
    files = [*_fetched(), *_found(SITE)]
    # Of equal files, prefer the one with keys beside it.
    return choose(sorted(files, key=lambda file: not (file.parent / introduction.FOLDER).is_dir()))


def _fetched() -> list[Path]:
    """The site file that the kernel command line names (images/base/initramfs/scripts)."""
    words = COMMAND_LINE.read_text().split()
    named = {key: value for key, _, value in (word.partition("=") for word in words)}
    source, digest = named.get("keystone.site"), named.get("keystone.sitehash")
    if source is None or not (RUN / "medium/keystone").is_dir():
        return []
    file = RUN / ARGUMENT / SITE
    if not file.is_file():
        raise RefusedError(
            f"keystone.site={source}: the site file could not be fetched",
            hint="check that DHCP and that server work, and restart; `ip=` on the kernel command "
            "line (syntax of nfsroot) sets an address without DHCP",
        )
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest not in {None, found}:
        raise RefusedError(
            f"keystone.site={source}: its SHA-256 is {found}, but keystone.sitehash is {digest}",
            hint="set keystone.sitehash to the output of: sha256sum site.yaml",
        )
    return [file]


def joining() -> Path | None:
    """The join.yaml of this installation; None without one.

    Raises RefusedError for two files that differ.
    """
    return choose(_found(JOIN))


def bundle_file() -> Path | None:
    """The bundle to install; None without one. Raises RefusedError for more than one."""
    files = _found(BUNDLE)
    if len(files) > 1:
        raise RefusedError(
            f"{len(files)} bundles: {' and '.join(map(str, files))}",
            hint="leave one medium or stick with a bundle in the machine",
        )
    return files[0] if files else None


def stick() -> Path | None:
    """Mount the stick labelled KEYSTONE; None without one. Raises RefusedError for several."""
    places = _labelled(STICK)
    if len(places) > 1:
        raise RefusedError(
            f"{len(places)} sticks labelled {LABEL}", hint="leave one of them in the machine"
        )
    return places[0] if places else None


def _found(name: str) -> list[Path]:
    running = RUN / "medium/keystone"
    media = [running] if running.is_dir() else [disc / "keystone" for disc in _labelled(DISC)]
    places = [*media, *_labelled(STICK)]
    return [place / name for place in places if (place / name).is_file()]


def choose(files: Sequence[Path]) -> Path | None:
    """The first file, if all are equal byte for byte. Raises RefusedError if they are not."""
    distinct = {file.read_bytes(): file for file in reversed(files)}
    if len(distinct) > 1:
        raise RefusedError(
            f"{len(distinct)} files that differ: {' and '.join(map(str, distinct.values()))}",
            hint=f"leave one medium or stick with {files[0].name} in the machine",
        )
    return files[0] if files else None


def _with_label(
    devices: Iterable[Mapping[str, Any]], label: re.Pattern[str]
) -> Iterator[Mapping[str, Any]]:
    """Devices with the label, without the partitions of such a device: they are the same bytes."""
    for device in devices:
        if label.fullmatch(device["label"] or ""):
            yield device
        else:
            yield from _with_label(device.get("children", ()), label)


def _labelled(label: re.Pattern[str]) -> list[Path]:
    """Mount the file systems with this label read-only; returns the mount points."""
    run(["udevadm", "settle"], check=False)
    listed = json.loads(run(["lsblk", "-J", "-o", "NAME,PATH,LABEL"]).stdout)["blockdevices"]
    places = []
    for node in _with_label(listed, label):
        place = RUN / "sticks" / node["name"]
        place.mkdir(parents=True, exist_ok=True)
        if not place.is_mount():
            try:
                run(["mount", "-o", "ro", node["path"], place])
            except CommandError as error:
                raise ConfigurationError(
                    f"{node['path']}: labelled {node['label']}, not readable: {error.message}",
                    hint="remove the stick, or write it again",
                ) from error
        places.append(place)
    return places
