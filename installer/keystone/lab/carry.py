"""What a packager does on a connected workstation, in the lab: lock and create.

The definition is the production one; only `mirrors:` points at the lab's upstream mirror.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from keystone import run
from keystone.ansible import data_root
from keystone.errors import KeystoneError
from keystone.lab import mirror, upstream
from keystone.lab.screen import Screen

DEFINITION = Path("bundles/platform.yaml")


@dataclass(frozen=True)
class Carried:
    """A bundle ready to be carried in: the file, and the fingerprint of its root."""

    bundle: Path
    fingerprint: str


def carry(state: Path, screen: Screen | None = None) -> Carried:
    """Build upstream, lock and create; each only when its inputs changed.

    screen: where what the packager says is shown; without one it is printed.
    Raises KeystoneError with the packager's own message when a verb fails.
    """
    screen = screen or Screen("bundle", ())
    folder = state / "bundle"
    folder.mkdir(parents=True, exist_ok=True)
    bundle, lock, keys = folder / "offline.tar", folder / "platform.lock.json", folder / "keys"
    built = upstream.build()
    if not keys.exists():
        _keystone(screen, "bundle", "keys", "init", "--dir", str(keys), "--no-passphrase")
    with mirror.serve(built) as serving:
        _keystone(
            screen, "bundle", "lock", str(data_root() / DEFINITION),
            "--mirrors", str(serving.mirrors_file), "-o", str(lock),
            "--keys", str(keys),
        )  # fmt: skip
        _keystone(
            screen, "bundle", "create", str(lock), "--mirrors", str(serving.mirrors_file),
            "-o", str(bundle), "--keys", str(keys),
        )  # fmt: skip
    shown = run.run([sys.executable, "-m", "keystone", "bundle", "show", str(bundle), "--json"])
    fingerprint = str(json.loads(shown.stdout)["fingerprint"])
    return Carried(bundle, fingerprint)


def discard(state: Path) -> None:
    """Forget the lab's bundle and its keys."""
    shutil.rmtree(state / "bundle", ignore_errors=True)


def _keystone(screen: Screen, *words: str) -> None:
    code = screen.run([sys.executable, "-m", "keystone", *words], who=" ".join(words[:2]))
    if code != 0:
        raise KeystoneError(f"keystone-install {' '.join(words)}: exit code {code}")
