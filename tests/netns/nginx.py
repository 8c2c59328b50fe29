"""Real nginx, with server blocks rendered from a role."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from keystone.run import run

if TYPE_CHECKING:
    from collections.abc import Callable

AROUND = """\
daemon off;
pid {folder}/pid;
error_log stderr;
user root root;
events {{}}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/keystone.conf;
}}
"""


def program(scratch: Callable[[], Path]) -> Path:
    """Unpack nginx from Debian's package, without installing it, into the user's cache.

    scratch: makes an empty folder.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keystone/nginx"
    found = cache / "usr/sbin/nginx"
    if not found.exists():
        folder = scratch()
        run(["apt-get", "download", "nginx"], cwd=folder)
        run(["dpkg", "-x", *folder.glob("*.deb"), folder / "root"])
        cache.parent.mkdir(parents=True, exist_ok=True)
        run(["cp", "-aT", folder / "root", f"{cache}.new"])
        Path(f"{cache}.new").rename(cache)
    return found


def command(nginx: Path, folder: Path, configuration: str) -> list[str | Path]:
    """Return the command that runs nginx in the foreground; all its files are in a folder."""
    (folder / "keystone.conf").write_text(configuration)
    (folder / "nginx.conf").write_text(AROUND.format(folder=folder))
    return [nginx, "-p", folder, "-e", "stderr", "-c", folder / "nginx.conf"]
