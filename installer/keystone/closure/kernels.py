"""Check kernel modules: built for their declared kernel, and present for every kernel."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from keystone.closure import debs as packages
from keystone.closure.content import describe
from keystone.closure.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystone.closure.debs import Deb, Debs

_MODULE = re.compile(r"/usr/lib/modules/([^/]+)/(?:.*/)?([^/]+)\.ko(?:\.\w+)?$")


def modules(deb: Deb) -> dict[str, set[str]]:
    """Module names by kernel release, with "_" for "-", because modprobe treats them as equal."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in deb.paths:
        match = _MODULE.match(path)
        if match:
            found[match[1]].add(match[2].replace("-", "_"))
    return dict(found)


def kernels(debs: Debs) -> dict[str, Deb]:
    """The kernels in the bundle, by release."""
    return {
        path.removeprefix("/boot/vmlinuz-"): deb
        for deb in debs
        for path in deb.paths
        if path.startswith("/boot/vmlinuz-")
    }


def check(debs: Debs) -> Iterator[Finding]:
    """Check each package of modules against its kernel, and its presence for every kernel."""
    built: dict[str, set[str]] = defaultdict(set)
    for deb in debs:
        release = deb.item.labels.get("kernel", "")
        if not release:
            continue
        name = deb.item.name.removesuffix(f"-{release}")
        found = modules(deb)
        real = packages.vermagic(debs, deb) or release
        if release not in found or real != release:
            others = ", ".join(sorted({*found, real} - {release}))
            yield Finding(
                "kernel-module", f"modules for kernel {release} (found: {others or 'none'})",
                describe(deb.item), f"lock again, with kernel {release} in spec.kernelModules",
            )  # fmt: skip
        else:
            built[name].add(release)
    for release, kernel in sorted(kernels(debs).items()):
        for name in sorted(built):
            if release not in built[name]:
                yield Finding(
                    "kernel-module", f"{name} for kernel {release}", describe(kernel.item),
                    f"spec.kernelModules: add {release} to kernels",
                )  # fmt: skip
