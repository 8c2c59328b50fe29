"""Build kernel modules as Debian packages, once on the packager: no host needs a compiler.

`build("zfs", suite, kernel)` compiles Debian's zfs-dkms for one kernel in a temporary root file
system (mmdebstrap(1), dkms(8)) and packs the modules as `zfs-modules-<kernel>`, which Provides what
zfsutils-linux and zfs-zed depend on. The cache keeps the result by its inputs: the kernel, the
source's version and this recipe. An interrupted build leaves no mounts and starts from the
beginning.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import log
from keystone.bundle.formats import deb822
from keystone.errors import ConfigurationError, KeystoneError
from keystone.files import settle
from keystone.lockfile import only_one
from keystone.run import CommandError, run
from keystone.sandbox import ALONE, as_root

if TYPE_CHECKING:
    from collections.abc import Mapping

ARCHITECTURE = "amd64"
KERNEL_PACKAGE = "linux-image-amd64"
KERNEL_RELEASE = re.compile(r"\d+\.\d+\.\d+[a-z0-9.+-]*-amd64")
SOURCES = {"zfs": ("zfs-dkms", ("spl", "zfs"))}
"""Module family: its DKMS package and the modules that the package builds."""
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
EPOCH = 1_735_689_600
"""Timestamp of files in the packages (2025-01-01), so that equal input gives equal bytes."""
RECIPE = "1"
"""Increment it when a change to `_compile` or `_pack` gives other bytes for the same input."""
COMPILE_SECONDS = 3 * 3600


def build(name: str = "zfs", suite: str = "trixie", kernel: str = "current") -> list[Path]:
    """Return the packages with module family `name` for a kernel release, built unless cached.

    kernel: such as "6.12.57+deb13-amd64", or "current" for the one that the suite's
    linux-image-amd64 depends on now. A build needs root, the Debian archive (main and contrib) and
    about 8 CPU minutes. Raises ConfigurationError for an unknown family or kernel, CommandError
    when the compilation fails.
    """
    if name not in SOURCES:
        raise ConfigurationError(
            f"kernelModules: unknown module family {name!r}",
            hint=f"choose one of: {', '.join(sorted(SOURCES))}",
        )
    source, modules = SOURCES[name]
    archive = _Archive(suite)
    release = resolve_kernel(suite, kernel)
    version = archive.version(source)
    package = f"{name}-modules-{release}"
    folder = _cache() / _key(name, suite, release, version)
    deb = folder / f"{package}_{version}_{ARCHITECTURE}.deb"
    with only_one(folder.with_suffix(".lock"), str(folder)):
        if not deb.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            with log.step(f"{package} {version}: compile"):
                compiled = _compile(archive, source, release, folder / "work")
                made = {module: compiled / f"{module}.ko" for module in modules}
                _pack(name, release, version, made, deb)
            shutil.rmtree(folder / "work")
    return [deb]


def resolve_kernel(suite: str, kernel: str) -> str:
    """Return the kernel release for `kernel`; for "current", look it up in the archive.

    Raises ConfigurationError when it is not the release name of a Debian kernel.
    """
    if kernel == "current":
        return kernel_of(_Archive(suite).show(KERNEL_PACKAGE))
    if not KERNEL_RELEASE.fullmatch(kernel):
        raise ConfigurationError(
            f"kernelModules: {kernel!r} is not a kernel release of Debian",
            hint='use the output of `uname -r`, such as "6.12.57+deb13-amd64", or "current"',
        )
    return kernel


def kernel_of(shown: str) -> str:
    """Return the kernel release in the output of `apt-cache show linux-image-amd64` (deb822).

    Raises KeystoneError when its Depends names no kernel.
    """
    for stanza in deb822.paragraphs(shown):
        depends = deb822.field(stanza, "Depends")
        found = re.search(r"\blinux-image-(\d\S*?)(?=[\s,(]|$)", depends)
        if found:
            return found.group(1)
    raise KeystoneError(
        f"{KERNEL_PACKAGE}: its Depends names no kernel",
        hint=f"look at it: apt-cache show {KERNEL_PACKAGE}",
    )


class _Archive:
    """The Debian archive at this machine's own addresses, for another suite."""

    def __init__(self, suite: str) -> None:
        self.suite = suite
        self._root = _cache() / f"apt-{suite}"
        self._fresh = False

    def lines(self) -> list[str]:
        """Return sources.list(5) lines: this machine's Debian addresses, main and contrib."""
        shown = run(
            ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)",
             "Created-By: Packages"]
        ).stdout  # fmt: skip
        own = re.search(
            r"^VERSION_CODENAME=(\S+)$", Path("/etc/os-release").read_text(), re.MULTILINE
        )
        found = source_lines(shown, own.group(1) if own else "", self.suite)
        if not found:
            raise ConfigurationError(
                "/etc/apt has no source for Debian's main component",
                hint="add a line such as: deb <your Debian mirror> trixie main",
            )
        return found

    def version(self, package: str) -> str:
        """Return the current version of a package in the suite."""
        found = re.search(r"^Version: (\S+)$", self.show(package), re.MULTILINE)
        if not found:
            raise KeystoneError(f"{package}: {self.suite} has no such package (main, contrib)")
        return found.group(1)

    def show(self, package: str) -> str:
        """Return `apt-cache show` of the candidate, independent of this machine's package state."""
        options = self._options()
        try:
            if not self._fresh:
                run(["apt-get", *options, "update", "-qq"], timeout=900)
        except CommandError as error:
            if not any((self._root / "lists").glob("*Packages*")):
                raise
            log.warn(f"cannot update the archive's index, using the last one: {error.message}")
        self._fresh = True
        return run(["apt-cache", *options, "show", "--no-all-versions", package]).stdout

    def _options(self) -> list[str]:
        for name in ("lists/partial", "cache/archives/partial"):
            (self._root / name).mkdir(parents=True, exist_ok=True)
        (self._root / "status").touch()
        (self._root / "sources.list").write_text("\n".join(self.lines()) + "\n")
        root = self._root
        return [
            f"-oDir::State={root}", f"-oDir::State::lists={root}/lists",
            f"-oDir::State::status={root}/status", f"-oDir::Cache={root}/cache",
            f"-oDir::Etc::sourcelist={root}/sources.list", "-oDir::Etc::sourceparts=/dev/null",
            f"-oAPT::Architecture={ARCHITECTURE}", "-oAPT::Sandbox::User=root",
        ]  # fmt: skip


def source_lines(targets: str, codename: str, suite: str) -> list[str]:
    """Return the machine's Debian sources with `codename` replaced by `suite`, contrib enabled.

    targets: lines "<URI> <suite> <component>" of `apt-get indextargets`. Includes base, updates and
    security, but not backports: their kernel is not the suite's current one.
    """
    wanted = {codename: suite, f"{codename}-updates": f"{suite}-updates",
              f"{codename}-security": f"{suite}-security"}  # fmt: skip
    found = (line.split() for line in targets.splitlines())
    pairs = {(uri, wanted[name]) for uri, name, part in found if part == "main" and name in wanted}
    return [f"deb [signed-by={KEYRING}] {uri} {name} main contrib" for uri, name in sorted(pairs)]


def _compile(archive: _Archive, source: str, release: str, work: Path) -> Path:
    """Compile in a temporary root file system; return the folder of uncompressed .ko files.

    mmdebstrap mounts in its own mount namespace, so a killed build leaves no mounts.
    """
    done = work / "modules"
    if done.is_dir():
        return done
    if work.exists():  # of an interrupted build; without root, its files belong to subordinate ids
        run([*as_root(), "rm", "-rf", "--one-file-system", work])
    half = work / "partial"
    half.mkdir(parents=True)
    dkms = source.removesuffix("-dkms")
    include = f"{source},linux-headers-{release},xz-utils,binutils"
    built = f"/var/lib/dkms/{dkms}/$version/{release}/x86_64/module"
    script = (
        f"version=$(ls /usr/src | sed -n 's/^{dkms}-//p'); "
        f"dkms build -m {dkms} -v $version -k {release} "
        f"|| {{ cat /var/lib/dkms/{dkms}/$version/build/make.log >&2; exit 1; }}; "
        f"mkdir /out && cp {built}/*.ko* /out/ && unxz -f /out/*.xz; "
        "strip --strip-debug /out/*.ko"
    )
    run(
        [
            *as_root(), *ALONE, "nice",
            "mmdebstrap", "--mode=root", "--variant=essential", "--format=null",
            f"--architectures={ARCHITECTURE}", f"--include={include}",
            # The hook below compiles the modules; without this, the package's script does so too.
            "--essential-hook=mkdir -p $1/etc/dkms && touch $1/etc/dkms/no-autoinstall",
            f"--chrooted-customize-hook={script}",
            f"--customize-hook=copy-out /out {half}",
            # In a user namespace /dev/null is a mount, and processes that dkms leaves keep it busy.
            "--customize-hook=umount --lazy $1/dev/null 2>/dev/null || :",
            archive.suite, "/dev/null", *archive.lines(),
        ],
        env={"TMPDIR": str(work)},
        timeout=COMPILE_SECONDS,
    )  # fmt: skip
    settle(half / "out", done)
    return done


def _pack(name: str, release: str, version: str, made: Mapping[str, Path], deb: Path) -> None:
    """Build the package with dpkg-deb(1); equal modules give equal bytes."""
    tree = deb.parent / "work" / "tree"
    if tree.exists():
        shutil.rmtree(tree)
    place = tree / "usr/lib/modules" / release / "updates/keystone"
    place.mkdir(parents=True)
    for module, path in made.items():
        if not path.is_file():
            raise KeystoneError(f"{name} {version}: dkms did not build {module}.ko for {release}")
        packed = lzma.compress(path.read_bytes(), check=lzma.CHECK_CRC32, preset=9)
        (place / f"{module}.ko.xz").write_bytes(packed)
    size = sum(path.stat().st_size for path in place.iterdir()) // 1024 + 1
    control = tree / "DEBIAN"
    control.mkdir()
    (control / "control").write_text(control_text(name, release, version, size))
    for script, verb in (("postinst", "configure"), ("postrm", "remove")):
        (control / script).write_text(
            "#!/bin/sh\nset -e\n"
            f'if [ "$1" = {verb} ] && [ -e /usr/lib/modules/{release}/modules.order ]; then\n'
            f"\tdepmod -a {release}\nfi\n"
        )
        (control / script).chmod(0o755)
    # dpkg-deb only clamps times after SOURCE_DATE_EPOCH, so set all of them here.
    for path in sorted(tree.rglob("*")):
        os.utime(path, (EPOCH, EPOCH))
    half = deb.with_suffix(".partial")
    run(
        ["dpkg-deb", "--root-owner-group", "-Zxz", "-z1", "--build", tree, half],
        env={"SOURCE_DATE_EPOCH": str(EPOCH)},
    )
    settle(half, deb)


def control_text(name: str, release: str, version: str, size: int) -> str:
    """Return the control file (deb-control(5)). size: installed size in KiB.

    It does not depend on the kernel package: the host has that kernel, so the bundle need not
    carry it.
    """
    return deb822.paragraph(
        {
            "Package": f"{name}-modules-{release}",
            "Version": version,
            "Architecture": ARCHITECTURE,
            "Section": "contrib/kernel",
            "Priority": "optional",
            "Maintainer": "Keystone <keystone@localhost>",
            "Installed-Size": size,
            "Depends": "kmod",
            "Provides": f"{name}-modules (= {version})",
            "Conflicts": f"{name}-dkms",
            "Description": f"{name} modules for Linux {release}\n"
            f" Compiled from Debian's {name}-dkms {version}; no compiler is needed on the host.",
        }
    )


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "keystone" / "modules"


def _key(*parts: str) -> str:
    """Return the cache key of a build: a hash of the recipe and its inputs."""
    return hashlib.sha256("\0".join([RECIPE, *parts]).encode()).hexdigest()[:16]
