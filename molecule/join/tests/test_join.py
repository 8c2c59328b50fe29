"""What the role join leaves on a Primer: who has a token is answered, everybody else is refused."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from testinfra.host import Host

HOST = "https://127.0.0.1:8444"


def test_it_answers(host: Host, http_get: Callable[..., str]) -> None:
    assert json.loads(http_get(f"{HOST}/v1/health")) == {"status": "ok"}
    assert host.service("keystone-join").is_enabled


def test_a_request_that_is_none_is_refused(http_status: Callable[..., str]) -> None:
    assert http_status(f"{HOST}/v1/join", "--data", "{}") == "400"


def test_an_unknown_token_is_refused(host: Host, http_status: Callable[..., str]) -> None:
    token = f"ks1.{'0' * 12}.{'0' * 40}.{'0' * 64}"
    csr = host.check_output("keystone-install node-identity request w1")
    asked = json.dumps({"token": token, "hostname": "w1", "csr": csr})
    assert http_status(f"{HOST}/v1/join", "--data", asked) == "403"


def test_a_token_names_this_primer_and_the_sites_authority(host: Host) -> None:
    created = host.check_output("keystone-install token create --role worker --json")
    command = json.loads(created)["command"]
    assert host.check_output("hostname -I").split()[0] in command
    authority = host.file("/etc/keystone/pki/site-ca.crt").content_string.strip().encode()
    assert f".{hashlib.sha256(authority).hexdigest()} | python3" in command


def test_tokens_are_for_root_only(host: Host) -> None:
    assert host.file("/var/lib/keystone/join/tokens").mode == 0o2750


def test_the_service_is_nobody(host: Host) -> None:
    (process, *_) = host.process.filter(user="keystone-join")
    status = host.file(f"/proc/{process.pid}/status").content_string
    assert "CapEff:\t0000000000000000" in status
