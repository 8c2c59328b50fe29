"""What a machine finds that was started from a medium, or from what a medium wrote.

Its own hardware, the site file, join.yaml and the bundle. The files are looked for on the medium
(keystone/site.yaml and so on) and on file systems labelled KEYSTONE (site.yaml and so on); the site
file also where the kernel's command line says, which the initramfs has fetched. Two that differ are
refused: nobody is asked which one was meant.
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
"""Why the unattended way was not gone, for the person who comes to the console."""
STICK, DISC = re.compile(LABEL), re.compile(rf"{LABEL}_[A-Z0-9_]+")
"""Labels of what people fill, and of installer media (iso.py), which may carry the same files."""
ARGUMENT = "argument"
"""Folder in RUN where the initramfs puts the site file of `keystone.site=`."""
COMMAND_LINE = Path("/proc/cmdline")
SHOWN = 4
"""Mistakes of a file that a screen of 24 lines has room for."""
SERIAL = Path("/sys/class/dmi/id/product_serial")
CARDS = Path("/sys/class/net")
LINK = 10
"""Seconds for the first link to come up: Ethernet over copper takes up to four."""
UNKNOWN = frozenset({
    "", "0", "0123456789", "123456789", "chassis serial number", "default string", "invalid", "n/a",
    "none", "not applicable", "not available", "not specified", "o.e.m.", "oem",
    "system serial number", "to be filled by o.e.m.", "unknown",
})  # fmt: skip
"""What makers leave in the place of a serial number, in lower case: many machines have the same."""


def hardware(disks: Iterable[DiskFacts]) -> Hardware:
    """The machine we run on: disks that are built in, cards that are devices (not bridges, lo)."""
    serial = SERIAL.read_text().strip() if SERIAL.exists() else ""
    if serial.lower() in UNKNOWN:
        serial = ""
    macs = [(card / "address").read_text().strip().lower() for card in _cards()]
    built_in = [disk for disk in disks if disk.may_carry_the_system]
    serials = [disk.serial for disk in built_in if disk.serial]
    return Hardware(serial, tuple(macs), tuple(serials))


def reason(error: KeystoneError) -> str:
    """What did not work and what to do, as text for a screen; of many mistakes the first ones."""
    mistakes = error.mistakes if isinstance(error, ConfigurationError) else ()
    said = [error.message, *(f"  {mistake}" for mistake in mistakes[:SHOWN])]
    return "\n".join([*said, *(["", error.hint] if error.hint else [])])


def cards() -> dict[str, Card]:
    """The cards by MAC. They are started, and links get some seconds to come up.

    All of them: the first one to come up need not be the only one.
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
    except OSError:  # it could not be started
        return False


def _cards() -> list[Path]:
    return [card for card in sorted(CARDS.iterdir()) if (card / "device").exists()]


def site_file() -> Path | None:
    """The site file of this installation; None where there is none.

    Raises RefusedError for two that differ, and for one that the kernel's command line names and
    that is not there or is another one.
    """
    files = [*_fetched(), *_found(SITE)]
    # Of equal ones that which has the keys beside it.
    return choose(sorted(files, key=lambda file: not (file.parent / introduction.FOLDER).is_dir()))


def _fetched() -> list[Path]:
    """The site file that the kernel's command line names (images/base/initramfs/scripts)."""
    words = COMMAND_LINE.read_text().split()
    named = {key: value for key, _, value in (word.partition("=") for word in words)}
    source, digest = named.get("keystone.site"), named.get("keystone.sitehash")
    if source is None or not (RUN / "medium/keystone").is_dir():
        return []
    file = RUN / ARGUMENT / SITE
    if not file.is_file():
        raise RefusedError(
            f"keystone.site={source}: the site file could not be fetched",
            hint="look whether DHCP and that server answer, and restart; `ip=` (nfsroot's form) on "
            "the kernel's command line sets an address without DHCP",
        )
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest not in {None, found}:
        raise RefusedError(
            f"keystone.site={source}: its SHA-256 is {found}, and keystone.sitehash says {digest}",
            hint="name the digest of the site file that you mean: sha256sum site.yaml",
        )
    return [file]


def joining() -> Path | None:
    """The join.yaml of this installation; None where there is none.

    Raises RefusedError for two that differ.
    """
    return choose(_found(JOIN))


def bundle_file() -> Path | None:
    """The bundle to install; None where there is none. Raises RefusedError for more than one."""
    files = _found(BUNDLE)
    if len(files) > 1:
        raise RefusedError(
            f"{len(files)} bundles: {' and '.join(map(str, files))}",
            hint="leave one medium or stick with a bundle in the machine",
        )
    return files[0] if files else None


def stick() -> Path | None:
    """The one stick labelled KEYSTONE, mounted. Raises RefusedError for more than one."""
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
    """The one that all of them are, byte for byte."""
    asked = {file.read_bytes(): file for file in reversed(files)}
    if len(asked) > 1:
        raise RefusedError(
            f"{len(asked)} files that differ: {' and '.join(map(str, asked.values()))}",
            hint=f"leave one medium or stick with {files[0].name} in the machine",
        )
    return files[0] if files else None


def _with_label(
    devices: Iterable[Mapping[str, Any]], label: re.Pattern[str]
) -> Iterator[Mapping[str, Any]]:
    """Those that have it; not the parts of one that has it, for they are the same bytes again."""
    for device in devices:
        if label.fullmatch(device["label"] or ""):
            yield device
        else:
            yield from _with_label(device.get("children", ()), label)


def _labelled(label: re.Pattern[str]) -> list[Path]:
    """File systems so labelled, mounted read-only."""
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
                    f"{node['path']}: labelled {node['label']} and cannot be read: {error.message}",
                    hint="take the stick out, or write it anew",
                ) from error
        places.append(place)
    return places
