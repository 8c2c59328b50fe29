"""The approval of a plan by its id, which also holds for what an interrupted run left of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keystone import log
from keystone.errors import RefusedError
from keystone.files import write_whole

if TYPE_CHECKING:
    from keystone.install.actions import World
    from keystone.install.engine import Plan

FILE = Path("/var/lib/keystone/approved.json")
"""The plan that was approved by its id last, on this machine."""


def require(made: Plan[World], identity: str) -> None:
    """Raise RefusedError unless this id approves the plan; remember what it approves.

    It does if it is the plan's own, and if nothing in the plan is destructive that was not in the
    plan which had this id: a run that was cut has done a part of it.
    """
    if identity == made.id:
        record = {"id": made.id, "destructive": sorted(made.destructive)}
        FILE.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_whole(FILE, json.dumps(record).encode(), 0o600)
        return
    before = _remembered(identity)
    if made.empty or (before is not None and made.destructive <= before):
        return
    raise RefusedError(
        f"plan {identity} is not this one, which is {made.id}",
        hint="read the plan above; if it is what you want, approve its id",
    )


def confirm(what: str, question: str) -> None:
    """Ask a person. Raises RefusedError without a terminal, with what, and for a no."""
    if not sys.stdin.isatty():
        raise RefusedError(
            f"{what}, and there is no terminal to ask on",
            hint="show it with --plan, then run again with --yes",
        )
    if not click.confirm(question, err=True):
        raise RefusedError("not approved", hint="nothing was changed")


def _remembered(identity: str) -> frozenset[str] | None:
    """Return the destructive actions that this id approved, None if it is not known here."""
    if not FILE.exists():
        return None
    try:
        record = json.loads(FILE.read_text())
        return frozenset(record["destructive"]) if record["id"] == identity else None
    except (ValueError, LookupError, TypeError) as error:
        log.warn(f"{FILE}: invalid, and approves nothing: {error!r}")
        return None
