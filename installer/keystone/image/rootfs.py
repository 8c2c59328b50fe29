"""The tree of an image, built in layers: packages, kernel modules, the installer, settings.

File times later than the lock's are set to the lock's, so that equal input gives equal trees at any
time. This module also builds the initramfs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone import log
from keystone.bundle.formats import deb822
from keystone.errors import ConfigurationError, KeystoneError
from keystone.image import secureboot, steps
from keystone.packager.sources import cache
from keystone.packager.supply import Supply
from keystone.run import run
from keystone.sandbox import Inside, Tree, spaces

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from keystone.bundle.model import Item
    from keystone.image.recipe import Recipe
    from keystone.image.secureboot import Keys
    from keystone.packager.lock import Lock
    from keystone.packager.sources.upstream import Sources

VERSION = 1
"""Increased when this module makes a different tree from the same input."""
CLEAN = (
    "rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/ldconfig/aux-cache"
    " /var/log/apt /var/log/dpkg.log /var/log/alternatives.log /var/log/bootstrap.log"
    " /var/cache/debconf/*-old /var/lib/dpkg/*-old /etc/*- /etc/hostname /etc/ssh/ssh_host_*"
    " /etc/hostid /etc/nvme/hostid /etc/nvme/hostnqn /boot/initrd.img* /run/* /var/tmp/*"
    " /root/.[a-z]*; "
    ": >/etc/resolv.conf; : >/etc/apt/sources.list; : >/etc/machine-id; "
    "rm -f /var/lib/dbus/machine-id /var/lib/systemd/random-seed; mkdir -p /var/log/journal"
)
"""Removes caches, logs of the build, and identity, which each machine gets itself. An empty
machine-id(5) is filled at the first start without applying systemd.preset(5), which would enable
the services of every package."""

EXCLUDED = (
    "path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/info/*", "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
)  # fmt: skip
"""Options of dpkg(1): no documentation and locales, for there is no man(1). Licences are kept."""

PROGRAM, UNPACKED = "/usr/bin/keystone-install", "/usr/lib/keystone"
"""Paths in the tree: the program keystone-install, and the folder it unpacks itself to."""
UNPACK = f"""
install -m 755 "/mnt/blobs/$1" {PROGRAM}
export SHIV_ROOT={UNPACKED}
{PROGRAM} --version >/dev/null
find $SHIV_ROOT -name __pycache__ -prune -exec rm -r {{}} +
find $SHIV_ROOT -maxdepth 1 -type f -delete
for share in $SHIV_ROOT/*/site-packages/share; do
    if [ -d "$share" ]; then cp -r "$share" /usr; fi
done
python3 -m compileall -q --invalidation-mode unchecked-hash $SHIV_ROOT
echo SHIV_ROOT=$SHIV_ROOT >>/etc/environment
"""
"""Byte code is compiled without times, since files get the lock's date. An older keystone-install
has no man page and completions to copy."""
UNPACK_MODULES = """
umask 022
cd /mnt/tree
for module in usr/lib/modules/*/updates/keystone/*.ko.xz; do
    [ -e "$module" ] || continue
    mkdir -p "/mnt/out/${module%/*}"
    xz -dc "$module" >"/mnt/out/${module%.xz}"
done
"""
PACK_MODULES = "find /mnt/out -name '*.ko' -exec xz --check=crc32 {} +"
"""Compress modules in the format that the kernel decompresses, like the kernel's own build."""
ACCOUNTS = r"""
awk -F: '
FILENAME ~ /sysusers/ {
    split($0, word, " ")
    if (word[1] ~ /^[gu]/) known[substr(word[1], 1, 1), word[2]]
    next
}
FILENAME ~ /group/ { group[$3] = $1 }
$3 == 0 || $3 == 65534 { next }
FILENAME ~ /group/ {
    if (!(("g", $1) in known) && !(("u", $1) in known)) print "g", $1, $3
    count = split($4, member, ",")
    for (n = 1; n <= count; n++) print "m", member[n], $1
    next
}
!(("u", $1) in known) { printf "u %s %s:%s \"%s\" %s %s\n", $1, $3, group[$4], $5, $6, $7 }
' usr/lib/sysusers.d/*.conf etc/group etc/passwd >accounts
mv accounts usr/lib/sysusers.d/keystone.conf
"""
"""Writes sysusers.d(5) for the tree's accounts that no package describes. A state partition keeps
the /etc/passwd of an earlier version, which lacks the new accounts of a later one. Groups are given
by name: on that machine another group may have the number."""
MKINITRAMFS = """\
set -- /boot/vmlinuz-*
[ $# = 1 ]
release=${1#/boot/vmlinuz-}
depmod "$release"
cp "$1" /mnt/out/vmlinuz
printf %s "$release" >/mnt/out/release
mkinitramfs -o /mnt/out/initrd "$release"
"""


@dataclass(frozen=True)
class Materials:
    """The lock of a build, its folder, and the sources for what is not in the cache."""

    lock: Lock
    folder: Path
    sources: Sources

    @property
    def epoch(self) -> int:
        """Date of all files of the build, in seconds since 1970."""
        return int(self.lock.created.timestamp())

    @property
    def env(self) -> dict[str, str]:
        """Environment for every program that writes times."""
        return {"SOURCE_DATE_EPOCH": str(self.epoch), "TZ": "UTC"}

    def debs(self, group: str) -> list[Item]:
        """The packages of a group, and all packages with kernel modules."""
        return [
            item for item in self.lock.items
            if item.kind == "deb"
            and (group in item.labels["groups"].split(",") or "kernel" in item.labels)
        ]  # fmt: skip

    @property
    def installer(self) -> Item:
        """The keystone-install of the lock. Raises ConfigurationError if the lock has none."""
        found = next((item for item in self.lock.items if item.kind == "installer"), None)
        if found is None:
            raise ConfigurationError(
                f"the lock of {self.lock.name} has no installer, but the recipe needs it",
                hint="lock again: keystone-install image lock RECIPE",
            )
        return found

    def fetch(self, items: Sequence[Item]) -> None:
        """Fetch these items into the cache and verify them."""
        supply = Supply(self.folder, self.sources)
        missing = [item for item in items if not cache.has(item.digest, item.size)]
        blobs = [self.lock.blob(item.digest) for item in missing]
        total = sum(blob.size for blob in blobs)
        with log.progress("fetch packages", total) as bar, supply.ahead(blobs):
            for blob in blobs:
                chunks = supply.open(blob)
                if cache.has(blob.digest, blob.size):
                    for _ in chunks:
                        pass
                else:
                    cache.keep(blob.digest, chunks)
                bar.advance(blob.size)


def packages(materials: Materials, group: str, names: Sequence[str]) -> Tree:
    """A tree with these packages of the group in the lock, without identity of a machine."""
    debs = materials.debs(group)
    modules = [item.name for item in debs if "kernel" in item.labels and group == "image"]
    wanted = sorted({*names, *modules})
    suite = debs[0].labels["suite"]
    name = steps.key(
        f"{group}-packages", VERSION, CLEAN, EXCLUDED, suite, wanted, materials.epoch,
        sorted(str(item.digest) for item in debs),
    )  # fmt: skip

    def make(half: Path) -> None:
        materials.fetch(debs)
        archive = half / "archive"
        _flat_archive(materials, debs, archive)
        run(
            [
                *spaces(), "mmdebstrap", "--mode=root", "--variant=essential",
                "--format=directory", "--architectures=amd64", f"--include={','.join(wanted)}",
                *(f"--dpkgopt={option}" for option in EXCLUDED),
                f"--chrooted-customize-hook={CLEAN}",
                "--skip=cleanup/reproducible/machine-id",
                suite, half / "tree", f"deb [trusted=yes] copy:{archive} ./",
            ],
            # INITRD: the initramfs is a separate step (kernel-img.conf(5)).
            env={**materials.env, "TMPDIR": str(half), "INITRD": "No"}, timeout=3600,
        )  # fmt: skip
        steps.remove(archive)
        clamp(half / "tree", materials)

    folder = steps.step(name, f"{group}: {len(debs)} packages", make)
    return Tree(steps.home(), (folder / "tree",))


def clamp(folder: Path, materials: Materials) -> None:
    """Set the time of files that are newer than the lock to the lock's date."""
    then = f"@{materials.epoch}"
    run(
        [*spaces(), "find", folder, "-newermt", then, "-exec", "touch", "-h", "-d", then, "{}", "+"]
    )


def _flat_archive(materials: Materials, debs: Sequence[Item], archive: Path) -> None:
    """Make a flat apt repository of links into the cache, with only what the lock names."""
    archive.mkdir()
    for item in debs:
        (archive / item.labels["filename"]).symlink_to(cache.path(item.digest))
    wanted = {item.labels["filename"] for item in debs}
    stanzas = [
        stanza
        for item in materials.lock.items if item.kind == "packages"
        for stanza in deb822.paragraphs(_inline(materials.lock.blob(item.digest).source))
        if deb822.filename(stanza) in wanted
    ]  # fmt: skip
    packages = ("\n\n".join(stanzas) + "\n").encode()
    (archive / "Packages").write_bytes(packages)
    suite = debs[0].labels["suite"]
    release = deb822.release_file(suite, "amd64", materials.lock.created, packages)
    (archive / "Release").write_bytes(release)


def _inline(source: str) -> str:
    kind, _, text = source.partition(":")
    if kind != "inline":
        raise KeystoneError(
            f"the lock does not contain its list of packages ({kind})", hint="lock again"
        )
    return text.strip()


def installer(materials: Materials, tree: Tree, recipe: Recipe) -> Tree:
    """Add a layer with keystone-install, unpacked and compiled: that takes 20 s when emulated."""
    if not recipe.installer:
        return tree
    item = materials.installer
    name = steps.key("installer", VERSION, tree.stack(), str(item.digest), UNPACK)

    def make(half: Path) -> None:
        materials.fetch([item])
        upper = half / "tree"
        upper.mkdir()
        binds = {"blobs": cache.path(item.digest).parent}
        Inside(tree, upper, binds, materials.env).run(
            ["sh", "-euc", UNPACK, "unpack", item.digest.hex]
        )
        clamp(upper, materials)

    folder = steps.step(name, "keystone-install", make)
    return tree.over(folder / "tree")


def signed_modules(materials: Materials, tree: Tree, tools: Tree, keys: Keys | None) -> Tree:
    """Add a layer with our signatures on kernel modules that Debian did not sign (Secure Boot)."""
    if keys is None:
        return tree
    name = steps.key(
        "signed-modules", VERSION, tree.stack(), tools.stack(), keys.digest, UNPACK_MODULES
    )

    def make(half: Path) -> None:
        upper = half / "tree"
        upper.mkdir()
        binds: dict[str, Path | Tree] = {"tree": tree, "out": upper}
        inside = Inside(tools, None, binds, materials.env)
        inside.run(["sh", "-euc", UNPACK_MODULES])
        for module in sorted(upper.rglob("*.ko")):
            module.write_bytes(secureboot.signed_module(keys, module.read_bytes()))
        inside.run(["sh", "-euc", PACK_MODULES])
        clamp(upper, materials)

    folder = steps.step(name, "sign kernel modules", make)
    return tree.over(folder / "tree")


def settings(materials: Materials, tree: Tree, recipe: Recipe) -> Tree:
    """Add a layer with the recipe's files, states of units, os-release(5) and accounts."""
    binds = {f"files-{number}": folder for number, folder in enumerate(recipe.files)}
    script = [
        *(f"{_copy(name, '/')};" for name in binds),
        *(
            f"systemctl --no-reload {verb} {' '.join(units)};"
            for verb, units in recipe.units.items()
            if units
        ),
        f"printf '{_identity(recipe)}' >>/usr/lib/os-release; {ACCOUNTS}",
        CLEAN,
    ]
    name = steps.key("settings", VERSION, tree.stack(), steps.folder_digest(recipe.files), script)

    def make(half: Path) -> None:
        upper = half / "tree"
        upper.mkdir()
        Inside(tree, upper, binds, materials.env).run(["sh", "-euc", " ".join(script)])
        clamp(upper, materials)

    folder = steps.step(name, "settings", make)
    return tree.over(folder / "tree")


def _copy(name: str, place: str) -> str:
    """A shell command that copies a bound folder to a place with fixed modes, owner and times."""
    return (
        f"tar -C /mnt/{name} -c --mode=u=rwX,go=rX --owner=0 --group=0"
        " --mtime=@$SOURCE_DATE_EPOCH . "
        f"| tar -C {place} -x --no-overwrite-dir"
    )


def _identity(recipe: Recipe) -> str:
    """The lines of os-release(5) that identify an image."""
    return f"IMAGE_ID=keystone-{recipe.name}\\nIMAGE_VERSION={recipe.version}\\n"


def initramfs(materials: Materials, tree: Tree, recipe: Recipe) -> Path:
    """Build a folder with `vmlinuz`, `initrd` and `release` (the kernel's release)."""
    overlay = [recipe.initramfs] if recipe.initramfs else []
    script = (f"{_copy('initramfs', '/etc/initramfs-tools')}; " if overlay else "") + MKINITRAMFS
    name = steps.key("initramfs", VERSION, tree.stack(), steps.folder_digest(overlay), script)

    def make(half: Path) -> None:
        upper = half / "changes"
        upper.mkdir()
        binds = {"out": half / "out"}
        if recipe.initramfs:
            binds["initramfs"] = recipe.initramfs
        binds["out"].mkdir()
        Inside(tree, upper, binds, materials.env).run(["sh", "-euc", script])
        for path in binds["out"].iterdir():
            path.rename(half / path.name)
        steps.remove(upper)
        binds["out"].rmdir()

    return steps.step(name, "initramfs", make)
