"""Read the spec of `storage plan` and `storage apply`, and print their result."""

from __future__ import annotations

import json
import sys
from typing import TextIO

from keystone import log
from keystone.errors import ConfigurationError
from keystone.storage import plan as storage
from keystone.storage.converge import Observed
from keystone.storage.plan import StorageAction
from keystone.storage.spec import Spec, parse_spec


def read(spec_file: TextIO) -> Spec:
    """Read a storage spec (JSON). Raises ConfigurationError when it is invalid."""
    try:
        return parse_spec(json.load(spec_file))
    except json.JSONDecodeError as error:
        where = "standard input" if spec_file is sys.stdin else spec_file.name
        raise ConfigurationError(f"storage spec: {where}: not JSON: {error}") from error


def answer(
    spec: Spec, seen: Observed, actions: tuple[StorageAction, ...], *, changed: bool, as_json: bool
) -> None:
    """Print the actions of a plan, and the plan id with which a person approves it."""
    plan_id = storage.plan_id(spec, seen, actions)
    if as_json:
        log.out_json(
            {"changed": changed, "plan": plan_id, "actions": storage.actions_to_json(actions)}
        )
        return
    for action in actions:
        log.out(action.describe())
    log.out(f"plan {plan_id}: {log.count(len(actions), 'action')}" if actions else "nothing to do")
