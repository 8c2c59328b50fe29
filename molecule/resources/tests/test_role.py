"""For every role: it writes a correct marker, and no unit of the machine fails."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testinfra.host import Host

ROLE = os.environ["MOLECULE_SCENARIO_NAME"]


def test_marker_has_the_inputs_of_the_role(host: Host, role_variables: dict[str, Any]) -> None:
    assert marker(host)["inputs"] == role_variables[f"{ROLE}_inputs"]


def test_files_match_the_marker(host: Host) -> None:
    files = marker(host)["files"]
    assert {path: host.file(path).sha256sum for path in files} == files


def test_units_of_the_marker_run(host: Host) -> None:
    units = marker(host)["units"]
    assert {unit: host.service(unit).is_running for unit in units} == dict.fromkeys(units, True)


def test_no_unit_of_the_machine_failed(host: Host) -> None:
    assert host.check_output("systemctl list-units --failed --plain --no-legend") == ""


def marker(host: Host) -> dict[str, Any]:
    text = host.file(f"/var/lib/keystone/state/{ROLE}.json").content_string
    found: dict[str, Any] = json.loads(text)
    return found
