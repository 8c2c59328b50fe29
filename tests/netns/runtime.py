"""A real containerd with its own folders, mounts and network, without the CRI."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keystone.run import Result, run, spawned

from .conftest import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONFIG = """\
version = 3
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = [
    "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri",
]
[grpc]
address = "{folder}/sock"
[ttrpc]
address = "{folder}/ttrpc"
"""


@dataclass(frozen=True)
class Containerd:
    """What ctr needs: the program, the prefix of its command, the socket's folder."""

    program: Path
    prefix: tuple[str, ...]
    folder: Path

    def ctr(self, *words: str | Path) -> Result:
        """Run ctr; do not check its exit code."""
        argv = [*self.prefix, self.program, "--address", self.folder / "sock", *words]
        return run(argv, check=False, timeout=300)


@contextmanager
def containerd(binary: Callable[[str], Path], *prefix: str) -> Iterator[Containerd]:
    """Run containerd within the block. prefix: a command that enters a network namespace."""
    # Not pytest's folder: the path of a Unix socket is limited to 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="kstest-"))
    try:
        (folder / "config.toml").write_text(CONFIG.format(folder=folder))
        argv = [*prefix, "unshare", "--mount", binary("containerd"), "-c", folder / "config.toml"]
        with spawned(argv, log_file=folder / "log"):
            made = Containerd(binary("ctr"), prefix, folder)
            until(lambda: made.ctr("version").returncode == 0, "containerd answers", 60)
            yield made
    finally:
        shutil.rmtree(folder)
