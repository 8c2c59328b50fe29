"""The role join on a Primer: requests with a valid token are answered, all others refused."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from testinfra.host import Host

HOST = "https://127.0.0.1:8444"


def test_health_check_is_answered(host: Host, http_get: Callable[..., str]) -> None:
    assert json.loads(http_get(f"{HOST}/v1/health")) == {"status": "ok"}
    assert host.service("keystone-join").is_enabled


def test_malformed_request_is_refused(http_status: Callable[..., str]) -> None:
    assert http_status(f"{HOST}/v1/join", "--data", "{}") == "400"


def test_unknown_token_is_refused(host: Host, http_status: Callable[..., str]) -> None:
    token = f"ks1.{'0' * 12}.{'0' * 40}.{'0' * 64}"
    csr = host.check_output("keystone-install node-identity request w1")
    request = json.dumps({"token": token, "hostname": "w1", "csr": csr})
    assert http_status(f"{HOST}/v1/join", "--data", request) == "403"


def test_join_command_has_this_primers_address_and_the_ca_pin(host: Host) -> None:
    created = host.check_output("keystone-install token create --role worker --json")
    command = json.loads(created)["command"]
    assert host.check_output("hostname -I").split()[0] in command
    authority = host.file("/etc/keystone/pki/site-ca.crt").content_string.strip().encode()
    assert f".{hashlib.sha256(authority).hexdigest()} | python3" in command


def test_folder_of_tokens_is_not_readable_by_others(host: Host) -> None:
    assert host.file("/var/lib/keystone/join/tokens").mode == 0o2750


def test_service_has_no_capabilities(host: Host) -> None:
    (process, *_) = host.process.filter(user="keystone-join")
    status = host.file(f"/proc/{process.pid}/status").content_string
    assert "CapEff:\t0000000000000000" in status
