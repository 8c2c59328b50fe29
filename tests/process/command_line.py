"""The packager's command line, as a test types it."""

from __future__ import annotations

import json
import os
import subprocess  # noqa: TID251 the commands are tried from outside
import sys
from pathlib import Path
from typing import Any


class CommandLine:
    """`keystone-install` in a folder of its own, which is its home too, with its own cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, code: int, *words: str) -> subprocess.CompletedProcess[str]:
        """Run it; it must end with this exit code, and never with a traceback."""
        environment = {
            **os.environ, "XDG_CACHE_HOME": str(self.folder / "cache"), "HOME": str(self.folder)
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "keystone", *words], cwd=self.folder, env=environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    def said(self, code: int, *words: str) -> str:
        """What it told the person before it."""
        return self.run(code, *words).stderr

    def items(self, *kinds: str) -> list[dict[str, Any]]:
        """Items of small.lock.json; all, or those of these kinds."""
        document = json.loads((self.folder / "small.lock.json").read_bytes())
        return [item for item in document["items"] if not kinds or item["kind"] in kinds]
