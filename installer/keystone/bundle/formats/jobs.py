"""How many things are done side by side."""

from __future__ import annotations

import os

VARIABLE = "KEYSTONE_JOBS"


def jobs(usual: int) -> int:
    """`usual`, or fewer or more where the environment says so. It never changes what comes out."""
    wanted = os.environ.get(VARIABLE, "")
    return int(wanted) if wanted.isdigit() and int(wanted) else usual
