"""Find the programs that serve a bundle: in the bundle, or else on this host.

The nginx in a bundle may be a package of another Debian release than this host's. It is started
with the loader and libraries from the bundle, so it runs on any distribution.
"""

from __future__ import annotations

import platform
import re
import shutil
from pathlib import Path
from typing import IO, TYPE_CHECKING

from keystone import log
from keystone.bundle.formats import deb822, foreign_tar
from keystone.bundle.formats.compressed import expanded
from keystone.bundle.formats.pieces import UnreadableError, of_file
from keystone.errors import DamagedBundleError, PreflightError
from keystone.run import environment, run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.bundle.model import Item
    from keystone.bundle.read.bundle import Bundle

MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
LIBRARIES = "libs"
"""Debian's archive section of shared libraries (Debian policy, 2.4)."""


def registry(bundle: Bundle, folder: Path) -> list[str]:
    """The command line that starts CNCF distribution. folder: to unpack the bundle's program.

    Raises PreflightError when neither the bundle nor the host has it.
    """
    for item in bundle.manifest.of_kind("binary"):
        if item.name == "registry" and _runs_here(item):
            target = folder / "registry"
            with bundle.open(item.digest) as archive, target.open("wb") as file:
                _copy_out(archive, "registry", file)
            target.chmod(0o755)
            return [str(target)]
    return _on_path("registry", "CNCF distribution (Debian: docker-registry; or its release file)")


def nginx(bundle: Bundle, folder: Path) -> list[str]:
    """The command line that starts nginx; see `registry`."""
    debs = {item.name: item for item in bundle.manifest.of_kind("deb") if _runs_here(item)}
    if "nginx" in debs and shutil.which("dpkg-deb", path=environment()["PATH"]):
        suite = debs["nginx"].labels.get("suite", "")
        for name in closure("nginx", _packages(bundle, suite)) & debs.keys():
            _unpack(bundle, debs[name], folder)
        return [*_loader(folder), str(folder / "usr/sbin/nginx")]
    return _on_path("nginx", "nginx (Debian: nginx-light)")


def closure(name: str, packages: Mapping[str, Mapping[str, str]]) -> frozenset[str]:
    """A package with its dependencies in section "libs", recursively. packages: fields by name."""
    found, left = {name}, [name]
    while left:
        fields = packages.get(left.pop(), {})
        words = re.split(r"[,|]", f"{fields.get('depends', '')},{fields.get('pre-depends', '')}")
        for word in filter(None, map(str.strip, words)):
            needed = re.split(r"[\s(:]", word)[0]
            if needed not in found and packages.get(needed, {}).get("section") == LIBRARIES:
                found.add(needed)
                left.append(needed)
    return frozenset(found)


def _copy_out(archive: IO[bytes], name: str, target: IO[bytes]) -> None:
    """The one member of this name out of upstream's archive. Raises DamagedBundleError."""
    try:
        source = expanded(of_file(archive))
        if foreign_tar.copy_out(source, lambda member: member == name, target.write):
            return
        said = "it is not in it"
    except UnreadableError as error:
        said = str(error)
    raise DamagedBundleError(f"binary {name}: {said}", hint="lock and create the bundle again")


def _packages(bundle: Bundle, suite: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for item in bundle.manifest.of_kind("packages"):
        if item.labels.get("suite") == suite:
            with bundle.open(item.digest) as file:
                for fields in map(deb822.fields, deb822.paragraphs(file.read().decode())):
                    found[fields.get("package", "")] = fields
    return found


def _unpack(bundle: Bundle, item: Item, folder: Path) -> None:
    package = folder / "package.deb"
    with bundle.open(item.digest) as source, package.open("wb") as target:
        shutil.copyfileobj(source, target)
    run(["dpkg-deb", "--extract", package, folder])
    package.unlink()


def _loader(folder: Path) -> list[str]:
    """The dynamic linker from the bundle's libc6, with its library path (ld.so(8))."""
    loaders = sorted(folder.glob("usr/lib/*/ld-linux-*.so.*"))
    if not loaders:
        return []
    return [str(loaders[0]), "--library-path", str(loaders[0].parent)]


def _runs_here(item: Item) -> bool:
    here = MACHINES.get(platform.machine(), platform.machine())
    return item.labels.get("architecture", here) in {here, "all"}


def _on_path(name: str, what: str) -> list[str]:
    found = shutil.which(name, path=environment()["PATH"])
    if found is None:
        raise PreflightError(
            f"{name}: neither in the bundle nor on this machine",
            hint=f"install {what}, or add it to the bundle's definition",
        )
    log.debug(f"{name}: using {found}, because the bundle does not carry it")
    return [found]
