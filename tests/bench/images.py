"""Measure building an installer medium, compared to the nearest equivalent with live-build.

Both are built cold, after a change of settings, and after a change of a role; for live-build, the
roles are in the installer program among its files. Needs root, the apt archives of this machine,
and Debian's live-build, debootstrap and dctrl-tools. Both sides have the same packages, kernel
modules and compression, downloaded packages, and their own file system, whose usage is measured.
live-build compresses at niceness 17: with other load on the machine, compare processor seconds.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess  # noqa: TID251 peers and Keystone are measured as processes
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from measure import MIB, Row

from keystone.image import squashfs
from keystone.image.rootfs import Materials
from keystone.packager import lock
from keystone.packager.sources import cache
from keystone.packager.sources.upstream import Sources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

CHECKOUT = Path(__file__).parents[2]
RECIPE = Path("images/primer")
LOCK = "image.lock.json"
ROOM = 20 << 30
"""Bytes of each side's file system; sparse."""
POLL = 0.2
"""Seconds between two measurements of the file system's usage."""
LIMITS = {"cold": 300, "settings": 10, "role": 30, "size": 400, "scratch": 2.2}
BUILDS = ("cold", "settings", "role")
CONFIG = (
    "--mode", "debian", "--architecture", "amd64", "--archive-areas", "main contrib",
    "--security", "false", "--updates", "false", "--backports", "false", "--source", "false",
    "--apt-recommends", "false", "--apt-indices", "false", "--cache", "true",
    "--cache-packages", "true", "--cache-stages", "bootstrap", "--binary-image", "iso-hybrid",
    "--bootloaders", "grub-pc grub-efi", "--uefi-secure-boot", "disable",
    "--chroot-filesystem", "squashfs", "--chroot-squashfs-compression-type", "zstd",
    "--chroot-squashfs-compression-level", str(squashfs.LEVEL),
    "--debian-installer", "none", "--memtest", "none", "--win32-loader", "false",
    "--firmware-chroot", "false", "--firmware-binary", "false", "--linux-flavours", "amd64",
    "--checksums", "none", "--zsync", "false",
)  # fmt: skip
"""lb_config(1)."""


@dataclass(frozen=True)
class Seen:
    """Measurements of one build.

    seconds: elapsed. processor: CPU seconds of all its processes, which depend least on other load
    on the machine. peak: bytes used on its file system. size: bytes of the image.
    """

    seconds: float
    processor: float
    peak: int
    size: int


@dataclass(frozen=True)
class Side:
    """One side of the comparison. empty: remove all built files. builds: each of BUILDS."""

    empty: Callable[[], None]
    builds: Mapping[str, Callable[[], Path]]


def rows(folder: Path) -> Iterator[Row]:
    """Build cold and after each change, with both sides alternating."""
    with _file_system(folder, "ours") as here, _file_system(folder, "theirs") as there:
        checkout = _checkout(here)
        sides = {
            "ours": (here, _ours(here, checkout)),
            "theirs": (there, _theirs(there, checkout / RECIPE)),
        }
        for _, side in sides.values():
            side.empty()
        seen = {
            (who, what): _watched(place, side.builds[what])
            for what in BUILDS
            for who, (place, side) in sides.items()
        }
    yield from _table(seen)


def _table(seen: Mapping[tuple[str, str], Seen]) -> Iterator[Row]:
    for what in BUILDS:
        ours, theirs = seen["ours", what], seen["theirs", what]
        yield _row(what, "s", (ours.seconds, theirs.seconds), LIMITS[what])
        most = LIMITS[what] * (os.cpu_count() or 1)
        yield _row(f"{what}, processor", "s", (ours.processor, theirs.processor), most)
    ours, theirs = seen["ours", "cold"], seen["theirs", "cold"]
    yield _row("size", "MiB", (ours.size / MIB, theirs.size / MIB), LIMITS["size"])
    scratch = (ours.peak / ours.size, theirs.peak / theirs.size)
    yield _row("peak scratch over size", "x", scratch, LIMITS["scratch"])


def _row(what: str, unit: str, values: tuple[float, float], limit: float) -> Row:
    ours, theirs = (f"{value:.1f} {unit}" for value in values)
    ratio, target = round(values[0] / values[1], 2), f"<= {limit:g} {unit}"
    return Row(f"image, {what}", ours, "live-build", theirs, ratio, target, values[0] <= limit)


@contextmanager
def _file_system(folder: Path, name: str) -> Iterator[Path]:
    """Mount an empty file system from a file: its usage is exact and cheap to measure."""
    file, place = folder / f"{name}.ext4", folder / name
    file.touch()
    os.truncate(file, ROOM)
    place.mkdir()
    _run("mkfs.ext4", "-q", "-F", "-m", "0", file)
    _run("mount", "-o", "loop", file, place)
    try:
        yield place
    finally:
        _run("umount", "--recursive", place)
        file.unlink()


def _used(place: Path) -> int:
    seen = os.statvfs(place)
    return (seen.f_blocks - seen.f_bfree) * seen.f_frsize


def _watched(place: Path, build: Callable[[], Path]) -> Seen:
    os.sync()
    peak, ended, before = [0], threading.Event(), _used(place)

    def watch() -> None:
        while not ended.wait(POLL):
            peak[0] = max(peak[0], _used(place) - before)

    watching = threading.Thread(target=watch)
    watching.start()
    start, spent = time.monotonic(), _processor()
    try:
        image = build()
        seconds, spent = time.monotonic() - start, _processor() - spent
    finally:
        ended.set()
        watching.join()
    return Seen(seconds, spent, peak[0], image.stat().st_size)


def _processor() -> float:
    """Return the CPU seconds of all child processes that were waited for (getrusage(2))."""
    seen = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seen.ru_utime + seen.ru_stime


def _run(*words: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> None:
    log = Path(os.environ.get("KEYSTONE_BENCH_LOG", os.devnull))
    with log.open("ab") as output:
        done = subprocess.run(
            words, cwd=cwd, env=env, stdout=output, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}: exit code {done.returncode}; see {log}")


def _checkout(place: Path) -> Path:
    """Copy this checkout, lock the recipe, and download everything that the lock names."""
    copy = place / "checkout"
    for top in ("installer", "roles", "playbooks", "share", "images"):
        shutil.copytree(CHECKOUT / top, copy / top, symlinks=True)
    for file in ("pyproject.toml", "requirements.lock", "README.md"):
        shutil.copyfile(CHECKOUT / file, copy / file)
    path = copy / RECIPE / LOCK
    if "KEYSTONE_IMAGE_LOCK" in os.environ:
        shutil.copyfile(os.environ["KEYSTONE_IMAGE_LOCK"], path)
    _keystone(copy, "lock", RECIPE)
    found = lock.load(path)
    wanted = [item for item in found.items if item.kind in {"deb", "installer"}]
    Materials(found, path.parent, Sources({}, None)).fetch(wanted)
    return copy


def _keystone(checkout: Path, *words: str | Path, env: Mapping[str, str] = os.environ) -> None:
    words = (sys.executable, "-m", "keystone", "image", *words)
    _run(*words, cwd=checkout, env={**env, "PYTHONPATH": str(checkout / "installer")})


def _ours(place: Path, checkout: Path) -> Side:
    """Keystone's side: uses the user's cache of downloads and modules, but its own build steps."""
    own = place / "cache/keystone"
    own.mkdir(parents=True)
    for name in ("apt", "blobs", "installer", "modules"):
        (cache.root() / name).mkdir(parents=True, exist_ok=True)
        (own / name).symlink_to(cache.root() / name)
    env = {**os.environ, "XDG_CACHE_HOME": str(own.parent)}

    def build() -> Path:
        image = place / "ours.iso"
        _keystone(checkout, "build", RECIPE, "-o", image, env=env)
        return image

    def settings() -> Path:
        (checkout / "images/base/rootfs/etc/changed").write_text("a setting\n")
        return build()

    def role() -> Path:
        with (checkout / "roles/seed/tasks/main.yml").open("a") as tasks:
            tasks.write("# changed\n")
        _keystone(checkout, "lock", RECIPE, "--keep-packages")  # the installer has the new roles
        return build()

    return Side(lambda: None, {"cold": build, "settings": settings, "role": role})


def _theirs(place: Path, recipe: Path) -> Side:
    """live-build's side: `empty` builds once to fill its download cache, then removes the rest."""
    locked = lock.load(recipe / LOCK)
    spec = yaml.safe_load((recipe / "image.yaml").read_text())["spec"]
    work = place / "live"
    work.mkdir()
    configure = ["lb", "config", "--distribution", spec["suite"], *CONFIG]
    for which in ("bootstrap", "chroot", "binary"):
        configure += [f"--mirror-{which}", _mirror()]
    _run(*configure, cwd=work)
    lists = work / "config/package-lists/keystone.list.chroot"
    lists.write_text("\n".join(spec["packages"]) + "\n")
    files = work / "config/includes.chroot_after_packages"
    for base in spec["files"]:
        shutil.copytree(recipe / base, files, dirs_exist_ok=True, symlinks=True)
    for item in locked.items:
        if "kernel" in item.labels:
            _run("dpkg-deb", "-x", cache.path(item.digest), files)
        elif item.kind == "installer":
            (files / "usr/bin").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(cache.path(item.digest), files / "usr/bin/keystone-install")

    def build() -> Path:
        _run("lb", "clean", cwd=work)
        _run(*configure, cwd=work)  # `lb clean` removes the configured state
        _run("lb", "build", cwd=work)
        (image,) = work.glob("*.iso")
        return image

    def empty() -> None:
        build()
        _run("lb", "clean", cwd=work)
        shutil.rmtree(work / "cache/bootstrap", ignore_errors=True)

    def settings() -> Path:
        (files / "etc/changed").write_text("a setting\n")
        return build()

    def role() -> Path:
        with (files / "usr/bin/keystone-install").open("ab") as program:
            program.write(b"\n")
        return build()

    return Side(empty, {"cold": build, "settings": settings, "role": role})


def _mirror() -> str:
    """Return the URI from which this machine's apt downloads Debian's packages."""
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE) $(ORIGIN) $(LABEL) $(REPO_URI)"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    found = re.search(r"^\S+ Debian Debian (\S+)$", targets, re.MULTILINE)
    if not found:
        raise SystemExit("apt on this machine has no Debian archive in its sources")
    return found[1]
