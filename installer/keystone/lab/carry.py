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

DEFINITION = Path("bundles/platform.yaml")


@dataclass(frozen=True)
class Carried:
    """A bundle ready to be carried in: the file, and the fingerprint of its root."""

    bundle: Path
    fingerprint: str


def carry(state: Path) -> Carried:
    """Build upstream, lock and create; each only when its inputs changed.

    Raises KeystoneError with the packager's own message when a verb fails.
    """
    folder = state / "bundle"
    folder.mkdir(parents=True, exist_ok=True)
    bundle, lock, keys = folder / "offline.tar", folder / "platform.lock.json", folder / "keys"
    built = upstream.build()
    if not keys.exists():
        _keystone("bundle", "keys", "init", "--dir", str(keys), "--no-passphrase")
    with mirror.serve(built) as serving:
        _keystone(
            "bundle", "lock", str(data_root() / DEFINITION),
            "--mirrors", str(serving.mirrors_file), "-o", str(lock),
            "--keys", str(keys),
        )  # fmt: skip
        _keystone(
            "bundle", "create", str(lock), "--mirrors", str(serving.mirrors_file),
            "-o", str(bundle), "--keys", str(keys),
        )  # fmt: skip
    shown = run.run([sys.executable, "-m", "keystone", "bundle", "show", str(bundle), "--json"])
    fingerprint = str(json.loads(shown.stdout)["fingerprint"])
    return Carried(bundle, fingerprint)


def discard(state: Path) -> None:
    """Forget the lab's bundle and its keys."""
    shutil.rmtree(state / "bundle", ignore_errors=True)


def _keystone(*words: str) -> None:
    code = run.attached([sys.executable, "-m", "keystone", *words])
    if code != 0:
        raise KeystoneError(f"keystone-install {' '.join(words)}: exit code {code}")
