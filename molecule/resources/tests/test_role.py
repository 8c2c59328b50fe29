"""What every role leaves: a record of what it converged, and a machine with nothing that failed."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testinfra.host import Host

ROLE = os.environ["MOLECULE_SCENARIO_NAME"]


def test_its_record_is_of_what_it_was_told(host: Host, told: dict[str, Any]) -> None:
    assert record(host)["inputs"] == told[f"{ROLE}_inputs"]


def test_its_files_are_the_ones_in_its_record(host: Host) -> None:
    files = record(host)["files"]
    assert {path: host.file(path).sha256sum for path in files} == files


def test_its_units_run(host: Host) -> None:
    units = record(host)["units"]
    assert {unit: host.service(unit).is_running for unit in units} == dict.fromkeys(units, True)


def test_no_unit_of_the_machine_failed(host: Host) -> None:
    assert host.check_output("systemctl list-units --failed --plain --no-legend") == ""


def record(host: Host) -> dict[str, Any]:
    text = host.file(f"/var/lib/keystone/state/{ROLE}.json").content_string
    found: dict[str, Any] = json.loads(text)
    return found
