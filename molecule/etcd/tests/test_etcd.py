"""The role etcd on three Primers: a quorum that requires mutual TLS."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from testinfra.host import Host

ETCDCTL = "set -a; . /etc/etcd/etcdctl.env; set +a; /usr/local/bin/etcdctl"
MEMBERS = 3


def test_service_runs_and_is_enabled(host: Host) -> None:
    assert host.service("etcd").is_running
    assert host.service("etcd").is_enabled


def test_all_members_are_healthy(host: Host) -> None:
    endpoints = json.loads(host.check_output(f"{ETCDCTL} endpoint health --cluster -w json"))
    assert [endpoint["health"] for endpoint in endpoints] == [True] * MEMBERS


def test_no_member_is_a_learner(host: Host) -> None:
    members = json.loads(host.check_output(f"{ETCDCTL} member list -w json"))["members"]
    assert len(members) == MEMBERS
    assert not any(member.get("isLearner") for member in members)


def test_request_without_certificate_is_refused(host: Host) -> None:
    command = (
        "/usr/local/bin/etcdctl --endpoints https://127.0.0.1:2379 "
        "--cacert /etc/etcd/pki/peer-ca.crt --command-timeout 20s get a"
    )
    assert host.run(command).rc != 0


def test_request_without_tls_is_refused(host: Host) -> None:
    command = "/usr/local/bin/etcdctl --endpoints http://127.0.0.1:2379 --command-timeout 20s get a"
    assert host.run(command).rc != 0


def test_value_written_to_one_member_is_readable_on_all(host: Host) -> None:
    name = host.check_output("hostname")
    host.check_output(f"{ETCDCTL} put molecule/{name} {name}")
    members = json.loads(host.check_output(f"{ETCDCTL} member list -w json"))["members"]
    for member in members:
        # etcdctl refuses a flag that is also set by its environment.
        one = ETCDCTL.replace("set +a", f"ETCDCTL_ENDPOINTS={member['clientURLs'][0]}; set +a")
        assert host.check_output(f"{one} get molecule/{name} --print-value-only") == name
