"""Fixtures for the tests of every scenario: the variables of the roles, and HTTP requests."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from testinfra.host import Host

CURL = "curl --silent --show-error --max-time 60"
SITE_CA = "/etc/keystone/pki/site-ca.crt"


@pytest.fixture
def role_variables(host: Host) -> dict[str, Any]:
    """The variables of the machine's roles, as prepare.yml wrote them."""
    name = host.check_output("hostname")
    path = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "vars", f"{name}.json")
    values: dict[str, Any] = json.loads(path.read_text(), object_hook=_text)
    return values


def _text(values: dict[str, Any]) -> object:
    """Undo what keystone.ansible.playbook does to each text so that Ansible renders none."""
    return values["__ansible_unsafe"] if values.keys() == {"__ansible_unsafe"} else values


@pytest.fixture
def http_status(host: Host) -> Callable[..., str]:
    """A function that runs curl(1) on the machine with more arguments; returns the HTTP status."""

    def ask(url: str, *words: str, ca_file: str = SITE_CA) -> str:
        given = ("%{http_code}", "/dev/null", ca_file, *words, url)
        options = "--path-as-is --write-out %s --output %s --cacert %s"
        return host.check_output(" ".join([CURL, options, *["%s"] * (len(words) + 1)]), *given)

    return ask


@pytest.fixture
def http_get(host: Host) -> Callable[..., str]:
    """A function that runs curl(1) on the machine with more arguments; returns the body."""

    def ask(url: str, *words: str) -> str:
        given = (SITE_CA, *words, url)
        options = "--fail --cacert %s"
        return host.check_output(" ".join([CURL, options, *["%s"] * (len(words) + 1)]), *given)

    return ask
