"""Kernel modules as Debian packages: compiled once here, so that no host carries a compiler.

`build("zfs", suite, kernel)` compiles Debian's zfs-dkms for one kernel in a throw-away root
(mmdebstrap(1), dkms(8)) and packs the modules as `zfs-modules-<kernel>`, which Provides what
zfsutils-linux and zfs-zed ask for. The result is kept by content: kernel, version of the source
and this recipe. A build that was cut leaves no mount and is begun again.
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
from keystone.lockfile import only_one
from keystone.run import CommandError, run
from keystone.sandbox import ALONE, as_root

if TYPE_CHECKING:
    from collections.abc import Mapping

ARCHITECTURE = "amd64"
KERNEL_PACKAGE = "linux-image-amd64"
KERNEL_RELEASE = re.compile(r"\d+\.\d+\.\d+[a-z0-9.+-]*-amd64")
SOURCES = {"zfs": ("zfs-dkms", ("spl", "zfs"))}
"""Module family: its DKMS package and the modules that it makes."""
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
EPOCH = 1_735_689_600
"""Time stamps inside the packages (2025-01-01), so that equal input gives equal bytes."""
RECIPE = "1"
"""Raised when `_compile` or `_pack` would make other bytes of the same input."""
COMPILE_SECONDS = 3 * 3600


def build(name: str = "zfs", suite: str = "trixie", kernel: str = "current") -> list[Path]:
    """The packages that hold module family `name` for a kernel release, built when not cached.

    kernel: "6.12.57+deb13-amd64", or "current" for the one that the suite's linux-image-amd64
    means now. Needs root, the Debian archive (main and contrib) and some 8 CPU minutes when the
    cache is cold. Raises ConfigurationError on an unknown family or kernel, CommandError when
    the compilation fails.
    """
    if name not in SOURCES:
        raise ConfigurationError(
            f"kernelModules: {name!r} cannot be built", hint=f"known: {', '.join(sorted(SOURCES))}"
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
    """The kernel release that `kernel` means in a suite: "current" is asked of the archive.

    Raises ConfigurationError when it is not the name of a Debian kernel.
    """
    if kernel == "current":
        return kernel_of(_Archive(suite).show(KERNEL_PACKAGE))
    if not KERNEL_RELEASE.fullmatch(kernel):
        raise ConfigurationError(
            f"kernelModules: {kernel!r} is no kernel release of Debian",
            hint='give what `uname -r` says, such as "6.12.57+deb13-amd64", or "current"',
        )
    return kernel


def kernel_of(shown: str) -> str:
    """The kernel release out of `apt-cache show linux-image-amd64` (deb822).

    Raises KeystoneError when its Depends names no kernel.
    """
    for stanza in deb822.paragraphs(shown):
        depends = deb822.field(stanza, "Depends")
        found = re.search(r"\blinux-image-(\d\S*?)(?=[\s,(]|$)", depends)
        if found:
            return found.group(1)
    raise KeystoneError(
        f"{KERNEL_PACKAGE}: its Depends names no kernel", hint=f"apt-cache show {KERNEL_PACKAGE}"
    )


class _Archive:
    """The Debian archive as this machine reaches it, with the suite put in its place."""

    def __init__(self, suite: str) -> None:
        self.suite = suite
        self._root = _cache() / f"apt-{suite}"
        self._fresh = False

    def lines(self) -> list[str]:
        """sources.list(5) lines: this machine's own Debian addresses, main and contrib."""
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
                "/etc/apt: no source for Debian's main component",
                hint="add a line such as: deb <your Debian mirror> trixie main",
            )
        return found

    def version(self, package: str) -> str:
        """The version that the suite has of a package now."""
        found = re.search(r"^Version: (\S+)$", self.show(package), re.MULTILINE)
        if not found:
            raise KeystoneError(f"{package}: {self.suite} has no such package (main, contrib)")
        return found.group(1)

    def show(self, package: str) -> str:
        """`apt-cache show` of the candidate, in a package state of its own."""
        options = self._options()
        try:
            if not self._fresh:
                run(["apt-get", *options, "update", "-qq"], timeout=900)
        except CommandError as error:
            if not any((self._root / "lists").glob("*Packages*")):
                raise
            log.warn(f"archive not reached, its last answer is used: {error.message}")
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
    """The machine's Debian sources with `codename` replaced by `suite`, contrib enabled.

    targets: lines "<URI> <suite> <component>" of `apt-get indextargets`. Base, updates and
    security are taken; backports are not: their kernel is not the suite's current one.
    """
    wanted = {codename: suite, f"{codename}-updates": f"{suite}-updates",
              f"{codename}-security": f"{suite}-security"}  # fmt: skip
    found = (line.split() for line in targets.splitlines())
    pairs = {(uri, wanted[name]) for uri, name, part in found if part == "main" and name in wanted}
    return [f"deb [signed-by={KEYRING}] {uri} {name} main contrib" for uri, name in sorted(pairs)]


def _compile(archive: _Archive, source: str, release: str, work: Path) -> Path:
    """Compile in a throw-away root; returns the folder of bare .ko files.

    mmdebstrap mounts in a namespace of its own, so a build that is killed leaves none behind.
    """
    done = work / "modules"
    if done.is_dir():
        return done
    if work.exists():  # of a build that was cut; a plain user's has files of ids lent to him
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
            # Compiled once, by us, below: not by the package's own script.
            "--essential-hook=mkdir -p $1/etc/dkms && touch $1/etc/dkms/no-autoinstall",
            f"--chrooted-customize-hook={script}",
            f"--customize-hook=copy-out /out {half}",
            # In a user namespace /dev/null is a mount, and what dkms leaves running holds it.
            "--customize-hook=umount --lazy $1/dev/null 2>/dev/null || :",
            archive.suite, "/dev/null", *archive.lines(),
        ],
        env={"TMPDIR": str(work)},
        timeout=COMPILE_SECONDS,
    )  # fmt: skip
    (half / "out").rename(done)
    return done


def _pack(name: str, release: str, version: str, made: Mapping[str, Path], deb: Path) -> None:
    """Make the package with dpkg-deb(1); equal modules give equal bytes."""
    tree = deb.parent / "work" / "tree"
    if tree.exists():
        shutil.rmtree(tree)
    place = tree / "usr/lib/modules" / release / "updates/keystone"
    place.mkdir(parents=True)
    for module, path in made.items():
        if not path.is_file():
            raise KeystoneError(f"{name} {version}: dkms made no {module}.ko for {release}")
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
    # dpkg-deb clamps times that are later than the epoch; these are, all of them.
    for path in sorted(tree.rglob("*")):
        os.utime(path, (EPOCH, EPOCH))
    half = deb.with_suffix(".partial")
    run(
        ["dpkg-deb", "--root-owner-group", "-Zxz", "-z1", "--build", tree, half],
        env={"SOURCE_DATE_EPOCH": str(EPOCH)},
    )
    with half.open("rb") as file:
        os.fsync(file.fileno())
    half.rename(deb)


def control_text(name: str, release: str, version: str, size: int) -> str:
    """The control file (deb-control(5)); `size` in KiB.

    It does not depend on the kernel: the host has one, and the bundle need not carry another.
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
    """What names a build: the recipe and its inputs."""
    return hashlib.sha256("\0".join([RECIPE, *parts]).encode()).hexdigest()[:16]
