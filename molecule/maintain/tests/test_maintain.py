"""What the role maintain leaves: a timer, and a run of it that takes a snapshot and restores it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testinfra.host import Host

INSTALLER = "keystone-install"
ENV = "set -a; . /etc/etcd/etcdctl.env"


def test_timer_starts_at_boot(host: Host) -> None:
    assert host.service("keystone-maintain.timer").is_enabled


def test_run_takes_a_snapshot_and_restores_it_for_trial(host: Host) -> None:
    host.run_expect([0], "systemctl start keystone-maintain.service")
    report = json.loads(host.file("/var/lib/keystone/maintain.json").content_string)
    assert {name: one["error"] for name, one in report.items()} == dict.fromkeys(report, "")
    assert report["snapshot"]["done"].startswith("etcd-")
    assert "keys" in report["trial restore"]["done"]


def test_snapshot_names_the_site(host: Host) -> None:
    (newest, *_) = listed(host)
    said = host.check_output(f"{ENV}; etcdctl get /keystone/site --print-value-only")
    assert newest["site"] == said
    assert len(said) == 64


def test_unchanged_database_gets_no_second_snapshot(host: Host) -> None:
    host.run_expect([0], "systemctl start keystone-maintain.service")
    before = listed(host)
    host.run_expect([0], "systemctl start keystone-maintain.service")
    assert listed(host) == before


def test_changed_database_gets_a_newer_snapshot(host: Host) -> None:
    before = listed(host)
    host.check_output(f"{ENV}; etcdctl put /molecule changed")
    host.run_expect([0], "systemctl start keystone-maintain.service")
    after = listed(host)
    # Two of the same five minutes: only the newer one is kept.
    assert after[0]["revision"] > before[0]["revision"]
    host.run_expect([0], f"{INSTALLER} etcd snapshot verify {after[0]['file']}")


def test_damaged_snapshot_is_refused(host: Host) -> None:
    host.check_output(f"cp {listed(host)[0]['file']} /var/tmp/damaged.db")
    host.check_output("printf x | dd of=/var/tmp/damaged.db bs=1 seek=9000 conv=notrunc")
    host.run_expect([5], f"{INSTALLER} etcd snapshot verify /var/tmp/damaged.db")
    host.check_output("truncate --size -4096 /var/tmp/damaged.db")
    host.run_expect([5], f"{INSTALLER} etcd snapshot verify /var/tmp/damaged.db")


def listed(host: Host) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        host.check_output(f"{INSTALLER} etcd snapshot list --json")
    )
    return found
