"""Real haproxy, with a configuration rendered from the role `endpoint`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from keystone.run import run

if TYPE_CHECKING:
    from collections.abc import Callable


def program(scratch: Callable[[], Path]) -> Path:
    """Unpack haproxy from Debian's packages, without installing it, into the user's cache.

    scratch: makes an empty folder. Returns the folder of the unpacked packages.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keystone/haproxy"
    if not cache.exists():
        folder = scratch()
        wanted = ["apt-get", "install", "--simulate", "--no-install-recommends", "haproxy"]
        names = re.findall(r"^Inst (\S+)", run(wanted).stdout, re.MULTILINE)
        run(["apt-get", "download", *(names or ["haproxy"])], cwd=folder)
        for package in folder.glob("*.deb"):
            run(["dpkg", "-x", package, folder / "root"])
        cache.parent.mkdir(parents=True, exist_ok=True)
        run(["cp", "-aT", folder / "root", f"{cache}.new"])
        Path(f"{cache}.new").rename(cache)
    return cache


def command(root: Path, configuration: Path) -> list[str | Path]:
    """Return the command that runs haproxy with this configuration in the foreground."""
    libraries = ":".join(map(str, sorted(root.glob("usr/lib/*-linux-gnu"))))
    found = f"LD_LIBRARY_PATH={libraries}"
    return ["env", found, root / "usr/sbin/haproxy", "-db", "-f", configuration]
