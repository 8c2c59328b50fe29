"""What the tests of every scenario have: what the machine's roles were told, and a way to ask."""

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
def told(host: Host) -> dict[str, Any]:
    """The variables of the machine's roles, as prepare.yml laid them out."""
    name = host.check_output("hostname")
    path = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "vars", f"{name}.json")
    values: dict[str, Any] = json.loads(path.read_text())
    return values


@pytest.fixture
def http_status(host: Host) -> Callable[..., str]:
    """The status of an answer to curl(1) on the machine, which is given more words."""

    def ask(url: str, *words: str, ca_file: str = SITE_CA) -> str:
        given = ("%{http_code}", "/dev/null", ca_file, *words, url)
        options = "--path-as-is --write-out %s --output %s --cacert %s"
        return host.check_output(" ".join([CURL, options, *["%s"] * (len(words) + 1)]), *given)

    return ask


@pytest.fixture
def http_get(host: Host) -> Callable[..., str]:
    """The body of an answer to curl(1) on the machine, which is given more words."""

    def ask(url: str, *words: str) -> str:
        given = (SITE_CA, *words, url)
        options = "--fail --cacert %s"
        return host.check_output(" ".join([CURL, options, *["%s"] * (len(words) + 1)]), *given)

    return ask
