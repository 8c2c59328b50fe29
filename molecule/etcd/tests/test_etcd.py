"""What the role etcd leaves on three Primers: a quorum that speaks TLS only with who it knows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from testinfra.host import Host

ETCDCTL = "set -a; . /etc/etcd/etcdctl.env; set +a; /usr/local/bin/etcdctl"
MEMBERS = 3


def test_the_service_runs_and_starts_at_boot(host: Host) -> None:
    assert host.service("etcd").is_running
    assert host.service("etcd").is_enabled


def test_all_members_are_healthy(host: Host) -> None:
    endpoints = json.loads(host.check_output(f"{ETCDCTL} endpoint health --cluster -w json"))
    assert [endpoint["health"] for endpoint in endpoints] == [True] * MEMBERS


def test_no_member_is_a_learner(host: Host) -> None:
    members = json.loads(host.check_output(f"{ETCDCTL} member list -w json"))["members"]
    assert len(members) == MEMBERS
    assert not any(member.get("isLearner") for member in members)


def test_without_a_certificate_it_is_refused(host: Host) -> None:
    command = (
        "/usr/local/bin/etcdctl --endpoints https://127.0.0.1:2379 "
        "--cacert /etc/etcd/pki/peer-ca.crt --command-timeout 20s get a"
    )
    assert host.run(command).rc != 0


def test_plain_text_is_refused(host: Host) -> None:
    command = "/usr/local/bin/etcdctl --endpoints http://127.0.0.1:2379 --command-timeout 20s get a"
    assert host.run(command).rc != 0


def test_what_one_member_takes_all_members_tell(host: Host) -> None:
    name = host.check_output("hostname")
    host.check_output(f"{ETCDCTL} put molecule/{name} {name}")
    members = json.loads(host.check_output(f"{ETCDCTL} member list -w json"))["members"]
    for member in members:
        # etcdctl refuses a flag that says what its environment says too.
        one = ETCDCTL.replace("set +a", f"ETCDCTL_ENDPOINTS={member['clientURLs'][0]}; set +a")
        assert host.check_output(f"{one} get molecule/{name} --print-value-only") == name
