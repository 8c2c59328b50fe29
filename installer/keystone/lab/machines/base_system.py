"""The base system: a plain Debian server, as a tree for containers and as a UEFI disk for QEMU.

`tree()` and `image()` return the cached result, or build it. The name of the cache folder is a hash
of the files under lab/base, recipe included, and of the suite's current kernel: only a change of
these makes a new system. An interrupted build continues after the last finished part (root file
system, then disk).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from keystone import log
from keystone.errors import KeystoneError
from keystone.files import settle, write_whole
from keystone.lab.machines import disk
from keystone.lab.mirror import apt
from keystone.lab.settings import cache, checkout
from keystone.lockfile import only_one
from keystone.packager.kernel_modules import KERNEL_PACKAGE, kernel_of
from keystone.run import CommandError, run

if TYPE_CHECKING:
    from pathlib import Path

KERNEL_FRESH_SECONDS = 24 * 3600
"""How long the archive's answer about the current kernel is cached."""


@dataclass(frozen=True)
class Recipe:
    """lab/base/recipe.yaml: packages and settings of the image."""

    suite: str
    disk_gib: int
    esp_mib: int
    packages: tuple[str, ...]
    initramfs_modules: tuple[str, ...]
    enable: tuple[str, ...]
    mask: tuple[str, ...]
    kernel_options: tuple[str, ...]


@dataclass(frozen=True)
class BaseImage:
    """A finished image. disk: raw, with GPT. vmlinuz: for the KVM probe. kernel: its release."""

    disk: Path
    vmlinuz: Path
    kernel: str


def recipe() -> Recipe:
    """Read the recipe of this checkout."""
    document = yaml.safe_load((checkout() / "lab/base/recipe.yaml").read_text())
    spec = document["spec"]
    return Recipe(
        suite=spec["suite"],
        disk_gib=spec["disk_gib"],
        esp_mib=spec["esp_mib"],
        packages=tuple(spec["packages"]),
        initramfs_modules=tuple(spec["initramfs_modules"]),
        enable=tuple(spec["enable"]),
        mask=tuple(spec["mask"]),
        kernel_options=tuple(spec["kernel_options"]),
    )


def kernel_version(*, fresh: bool = False) -> str:
    """The current kernel release of the suite's linux-image-amd64: "6.12.57+deb13-amd64".

    The archive is queried at most once a day (`fresh`: now). If it cannot be reached, the previous
    answer is used. Raises CommandError without any answer.
    """
    suite = recipe().suite
    known = cache() / "base" / f"kernel-{suite}"
    if known.is_file() and not fresh and time.time() - known.stat().st_mtime < KERNEL_FRESH_SECONDS:
        return known.read_text().strip()
    known.parent.mkdir(parents=True, exist_ok=True)
    try:
        answer = _ask_archive(suite, cache() / "base" / f"apt-{suite}")
    except CommandError as error:
        if not known.is_file():
            raise
        log.warn(f"cannot reach the archive, using the kernel known so far: {error.message}")
        return known.read_text().strip()
    write_whole(known, f"{answer}\n".encode(), 0o644)
    return answer


def key() -> str:
    """The hash over all inputs of the base system, sixteen hex digits."""
    root = checkout() / "lab" / "base"
    digest = hashlib.sha256(kernel_version().encode())
    digest.update(disk.LAYOUT_VERSION.encode())
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        digest.update(f"\0{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def tree() -> Path:
    """The root of the base system as a folder, built unless cached.

    It is never written again: container machines mount overlays over it, disks are made from it.
    """
    folder = cache() / "base" / key()
    with only_one(folder.with_suffix(".lock"), str(folder)):
        return _tree(recipe(), folder)


def vmlinuz() -> Path:
    """The kernel of the base system, to test whether KVM works."""
    root = tree()
    return root / f"boot/vmlinuz-{_kernel(root)}"


def image() -> BaseImage:
    """The base image of this checkout, built unless cached."""
    folder = cache() / "base" / key()
    with only_one(folder.with_suffix(".lock"), str(folder)):
        if not (folder / "image.json").is_file():
            with log.step("base image: plain Debian"):
                _build(recipe(), folder)
    facts = json.loads((folder / "image.json").read_text())
    return BaseImage(folder / "disk.raw", folder / "vmlinuz", facts["kernel"])


def _tree(wanted: Recipe, folder: Path) -> Path:
    root = folder / "root"
    if not root.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with log.step(
            f"base system: {wanted.suite}, {len(wanted.packages)} packages and dependencies"
        ):
            _bootstrap(wanted, root)
    return root


def _kernel(root: Path) -> str:
    """The release of the one kernel in the tree."""
    kernels = sorted(path.name.removeprefix("vmlinuz-") for path in root.glob("boot/vmlinuz-*"))
    if len(kernels) != 1:
        raise KeystoneError(f"{root}/boot: expected one kernel, found {kernels}")
    return kernels[0]


def _build(wanted: Recipe, folder: Path) -> None:
    root = _tree(wanted, folder)
    kernel = _kernel(root)
    with log.step(f"disk: UEFI, ext4, kernel {kernel}"):
        disk.make(
            root,
            folder / "disk.raw",
            kernel,
            disk.Layout(wanted.disk_gib, wanted.esp_mib, wanted.kernel_options),
        )
    shutil.copyfile(root / f"boot/vmlinuz-{kernel}", folder / "vmlinuz")
    packages = (root / "var/lib/dpkg/status").read_text().count("\nStatus: install ok installed")
    facts = {"kernel": kernel, "packages": packages, "suite": wanted.suite}
    write_whole(folder / "image.json", f"{json.dumps(facts)}\n".encode(), 0o644)


def _bootstrap(wanted: Recipe, root: Path) -> None:
    """Run mmdebstrap(1) into `root`, which gets its name only when it is complete."""
    half = root.with_suffix(".partial")
    modules = " ".join(wanted.initramfs_modules)
    if half.exists():
        shutil.rmtree(half)
    run(
        [
            # A mount namespace of its own ends with the process in any case, so that removing an
            # incomplete tree never descends into this machine's /proc and /sys.
            *("unshare", "--mount", "mmdebstrap"),
            "--mode=root",
            "--variant=apt",
            "--format=directory",
            f"--include={','.join(wanted.packages)}",
            # These come before the kernel's maintainer script makes the initramfs.
            "--essential-hook=mkdir -p $1/etc/initramfs-tools/conf.d",
            "--essential-hook=echo MODULES=list > $1/etc/initramfs-tools/conf.d/lab",
            f"--essential-hook=printf '%s\\n' {modules} > $1/etc/initramfs-tools/modules",
            f"--customize-hook=copy-in {checkout()}/lab/base/rootfs/etc /",
            f"--customize-hook=systemctl --root=$1 enable {' '.join(wanted.enable)}",
            f"--customize-hook=systemctl --root=$1 mask {' '.join(wanted.mask)}",
            # Each machine gets its identity itself: name by credential, keys at the first start.
            "--customize-hook=rm -f $1/etc/hostname $1/etc/ssh/ssh_host_*",
            "--customize-hook=: > $1/etc/machine-id; : > $1/etc/resolv.conf",
            "--customize-hook=chown -R 0:0 $1/etc/systemd",
            wanted.suite,
            half,
            "-",  # the sources, on standard input
        ],
        data=apt.sources(wanted.suite),
        timeout=3600,
    )
    run(["sync", "--file-system", half])
    settle(half, root, synced=True)


def _ask_archive(suite: str, root: Path) -> str:
    """Query the archive for the kernel metapackage, with a separate apt state in `root`."""
    for name in ("lists/partial", "cache/archives/partial", "etc"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "status").touch()
    (root / "etc/lab.sources").write_text(apt.sources(suite))
    options = [
        f"-oDir::State={root}", f"-oDir::State::lists={root}/lists",
        f"-oDir::State::status={root}/status", f"-oDir::Cache={root}/cache",
        f"-oDir::Etc::sourcelist={root}/etc/lab.sources", "-oDir::Etc::sourceparts=/dev/null",
        "-oAPT::Architecture=amd64", "-oAPT::Sandbox::User=root",
    ]  # fmt: skip
    run(["apt-get", *options, "update", "-qq"], timeout=300)
    shown = run(["apt-cache", *options, "show", "--no-all-versions", KERNEL_PACKAGE]).stdout
    return kernel_of(shown)
