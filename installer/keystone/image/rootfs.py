"""The tree of an image: packages, then what the recipe lays over them, then the first root.

Each is a layer of its own. Times after the lock's are set to the lock's, so that equal input gives
equal trees whenever it is built.
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
"""Raised when this module makes another tree of the same input."""
CLEAN = (
    "rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/ldconfig/aux-cache"
    " /var/log/apt /var/log/dpkg.log /var/log/alternatives.log /var/log/bootstrap.log"
    " /var/cache/debconf/*-old /var/lib/dpkg/*-old /etc/*- /etc/hostname /etc/ssh/ssh_host_*"
    " /etc/hostid /etc/nvme/hostid /etc/nvme/hostnqn /boot/initrd.img* /run/* /var/tmp/*"
    " /root/.[a-z]*; "
    ": >/etc/resolv.conf; : >/etc/apt/sources.list; : >/etc/machine-id; "
    "rm -f /var/lib/dbus/machine-id /var/lib/systemd/random-seed; mkdir -p /var/log/journal"
)
"""Identity is the machine's own; caches and logs tell of the build. An empty machine-id(5) is
filled at the first start, without systemd.preset(5): that would enable every package's services."""

LEFT_OUT = (
    "path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/info/*", "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
)  # fmt: skip
"""dpkg(1): what nobody reads on a machine without man(1), in C.UTF-8. Licences are kept."""

PROGRAM, UNPACKED = "/usr/bin/keystone-install", "/usr/lib/keystone"
"""Where the tree has keystone-install, and where unpacked: by the program's name, and its own."""
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
"""Byte code without times: the tree is dated by the lock. An older keystone-install has no man page
and no completions to copy."""
TAKE_OUT = """
umask 022
cd /mnt/tree
for module in usr/lib/modules/*/updates/keystone/*.ko.xz; do
    [ -e "$module" ] || continue
    mkdir -p "/mnt/out/${module%/*}"
    xz -dc "$module" >"/mnt/out/${module%.xz}"
done
"""
PUT_IN = "find /mnt/out -name '*.ko' -exec xz --check=crc32 {} +"
"""As the kernel's own build does it, then packed again in the form that the kernel unpacks."""
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
"""The tree's accounts as sysusers.d(5), but for those that packages describe. A state keeps the
/etc/passwd that a role has written: with it, a later version's own accounts would not be there.
Groups go by name: on that machine another one may have the number."""
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
    """What a build has: the lock, its folder, and who fetches what is not in the cache."""

    lock: Lock
    folder: Path
    sources: Sources

    @property
    def epoch(self) -> int:
        """Seconds since 1970 that date what is built."""
        return int(self.lock.created.timestamp())

    @property
    def env(self) -> dict[str, str]:
        """For every program that writes times."""
        return {"SOURCE_DATE_EPOCH": str(self.epoch), "TZ": "UTC"}

    def debs(self, group: str) -> list[Item]:
        """The packages of a group, kernel modules with those of the image."""
        return [
            item for item in self.lock.items
            if item.kind == "deb"
            and (group in item.labels["groups"].split(",") or "kernel" in item.labels)
        ]  # fmt: skip

    @property
    def installer(self) -> Item:
        """keystone-install of the lock. Raises ConfigurationError when the lock has none."""
        found = next((item for item in self.lock.items if item.kind == "installer"), None)
        if found is None:
            raise ConfigurationError(
                f"the lock of {self.lock.name} has no installer, but the recipe wants it or roles",
                hint="make it anew: keystone-install image lock RECIPE",
            )
        return found

    def fetch(self, items: Sequence[Item]) -> None:
        """Have these in the cache, checked."""
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
    """A tree with these packages, which are in that group of the lock, and nothing of anybody."""
    debs = materials.debs(group)
    modules = [item.name for item in debs if "kernel" in item.labels and group == "image"]
    wanted = sorted({*names, *modules})
    suite = debs[0].labels["suite"]
    name = steps.key(
        f"{group}-packages", VERSION, CLEAN, LEFT_OUT, suite, wanted, materials.epoch,
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
                *(f"--dpkgopt={option}" for option in LEFT_OUT),
                f"--chrooted-customize-hook={CLEAN}",
                "--skip=cleanup/reproducible/machine-id",
                suite, half / "tree", f"deb [trusted=yes] copy:{archive} ./",
            ],
            # The initramfs is a step of its own (kernel-img.conf(5)).
            env={**materials.env, "TMPDIR": str(half), "INITRD": "No"}, timeout=3600,
        )  # fmt: skip
        steps.remove(archive)
        clamp(half / "tree", materials)

    folder = steps.step(name, f"{group}: {len(debs)} packages", make)
    return Tree(steps.home(), (folder / "tree",))


def clamp(folder: Path, materials: Materials) -> None:
    """Date what is newer than the lock as the lock is."""
    then = f"@{materials.epoch}"
    run(
        [*spaces(), "find", folder, "-newermt", then, "-exec", "touch", "-h", "-d", then, "{}", "+"]
    )


def _flat_archive(materials: Materials, debs: Sequence[Item], archive: Path) -> None:
    """A flat apt repository of links into the cache: what apt sees is what the lock names."""
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
        raise KeystoneError(f"the lock's list of packages is not in it ({kind})", hint="lock again")
    return text.strip()


def installer(materials: Materials, tree: Tree, recipe: Recipe) -> Tree:
    """keystone-install on top, unpacked and compiled: an emulated machine needs 20 s for that."""
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
    """Kernel modules that Debian did not sign, signed by our key: Secure Boot loads no others."""
    if keys is None:
        return tree
    name = steps.key("signed-modules", VERSION, tree.stack(), tools.stack(), keys.digest, TAKE_OUT)

    def make(half: Path) -> None:
        upper = half / "tree"
        upper.mkdir()
        binds: dict[str, Path | Tree] = {"tree": tree, "out": upper}
        inside = Inside(tools, None, binds, materials.env)
        inside.run(["sh", "-euc", TAKE_OUT])
        for module in sorted(upper.rglob("*.ko")):
            module.write_bytes(secureboot.signed_module(keys, module.read_bytes()))
        inside.run(["sh", "-euc", PUT_IN])
        clamp(upper, materials)

    folder = steps.step(name, "sign kernel modules", make)
    return tree.over(folder / "tree")


def settings(materials: Materials, tree: Tree, recipe: Recipe) -> Tree:
    """Files of the recipe and its units, on top."""
    binds = {f"files-{number}": folder for number, folder in enumerate(recipe.files)}
    script = [
        *(f"{_laid(name, '/')};" for name in binds),
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


def _laid(name: str, place: str) -> str:
    """Shell words that lay a bound folder over a place, whatever umask it was made with."""
    return (
        f"tar -C /mnt/{name} -c --mode=u=rwX,go=rX --owner=0 --group=0"
        " --mtime=@$SOURCE_DATE_EPOCH . "
        f"| tar -C {place} -x --no-overwrite-dir"
    )


def _identity(recipe: Recipe) -> str:
    """What os-release(5) says of an image."""
    return f"IMAGE_ID=keystone-{recipe.name}\\nIMAGE_VERSION={recipe.version}\\n"


def initramfs(materials: Materials, tree: Tree, recipe: Recipe) -> Path:
    """The folder with `vmlinuz`, `initrd` and `release` (the kernel's name)."""
    overlay = [recipe.initramfs] if recipe.initramfs else []
    script = (f"{_laid('initramfs', '/etc/initramfs-tools')}; " if overlay else "") + MKINITRAMFS
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
