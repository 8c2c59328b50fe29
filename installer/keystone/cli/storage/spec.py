"""What `storage plan` and `storage apply` are given, and what they answer."""

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
    """The spec in `spec_file`. Raises ConfigurationError for what is none."""
    try:
        return parse_spec(json.load(spec_file))
    except json.JSONDecodeError as error:
        where = "standard input" if spec_file is sys.stdin else spec_file.name
        raise ConfigurationError(f"storage spec: {where}: no JSON: {error}") from error


def answer(
    spec: Spec, seen: Observed, actions: tuple[StorageAction, ...], *, changed: bool, as_json: bool
) -> None:
    """Print a plan: what is done, or was done, and the id by which it is approved."""
    plan_id = storage.plan_id(spec, seen, actions)
    if as_json:
        log.out_json(
            {"changed": changed, "plan": plan_id, "actions": storage.actions_to_json(actions)}
        )
        return
    for action in actions:
        log.out(action.describe())
    log.out(f"plan {plan_id}: {len(actions)} action(s)" if actions else "nothing to do")
