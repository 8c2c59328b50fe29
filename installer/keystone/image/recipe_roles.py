"""Roles in a recipe: their names and variables, as JSON Schema.

A role's `meta/argument_specs.yml` becomes part of the recipe's JSON Schema, so that mistakes are
reported with their lines before anything is built. Ansible checks again when it runs the role.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from keystone.ansible import playbook

if TYPE_CHECKING:
    from collections.abc import Mapping

TYPES = {
    "str": "string", "path": "string", "int": "integer", "float": "number", "bool": "boolean",
    "list": "array", "dict": "object",
}  # fmt: skip
"""Ansible's types by name, as in JSON Schema. Unlike Ansible's, values are not coerced."""
KERNEL = "@KERNEL@"
"""Placeholder in a variable for the release of the image's kernel, as uname(1) shows it."""


@dataclass(frozen=True)
class Role:
    """A role and its variables, without `<role>_inputs`."""

    name: str
    variables: Mapping[str, object]

    def on(self, kernel: str) -> dict[str, Any]:
        """The variables for a tree with this kernel."""
        return {name: _filled(value, kernel) for name, value in self.variables.items()}


def rules() -> dict[str, Any]:
    """JSON Schema keywords for an entry of `spec.roles`: role names, and variables of each."""
    options = {
        path.parents[1].name: yaml.safe_load(path.read_text())["argument_specs"]["main"]["options"]
        for path in sorted((playbook.data_root() / "roles").glob("*/meta/argument_specs.yml"))
    }
    return {
        "properties": {"role": {"enum": list(options)}, "variables": {"type": "object"}},
        "allOf": [
            {
                "if": {"properties": {"role": {"const": role}}, "required": ["role"]},
                "then": _entry(_variables(role, found)),
            }
            for role, found in options.items()
        ],
    }


def _variables(role: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of a role that people set; the build sets `<role>_inputs`."""
    return _object({name: spec for name, spec in options.items() if name != f"{role}_inputs"})


def _entry(variables: dict[str, Any]) -> dict[str, Any]:
    needed = ["variables"] if variables["required"] else []
    return {"properties": {"variables": variables}, "required": needed}


def _object(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: _value(spec) for name, spec in options.items()},
        "required": [name for name, spec in options.items() if spec.get("required")],
    }


def _value(spec: Mapping[str, Any]) -> dict[str, Any]:
    """One option of an argument spec (docs.ansible.com, "Role argument validation")."""
    kind = spec.get("type", "str")
    if kind not in TYPES:  # raw: anything
        return {}
    found: dict[str, Any] = {"type": TYPES[kind]}
    if "choices" in spec:
        found["enum"] = spec["choices"]
    if kind == "list" and "elements" in spec:
        found["items"] = _value({**spec, "type": spec["elements"]})
    elif kind == "dict" and "options" in spec:
        found |= _object(spec["options"])
    return found


def _filled(value: object, kernel: str) -> object:
    if isinstance(value, str):
        return value.replace(KERNEL, kernel)
    if isinstance(value, list):
        return [_filled(part, kernel) for part in value]
    if isinstance(value, dict):
        return {name: _filled(part, kernel) for name, part in value.items()}
    return value
