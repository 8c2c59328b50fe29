"""What the role follow leaves: a timer, whose service waits for the join."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from testinfra.host import Host


def test_timer_starts_at_boot(host: Host) -> None:
    assert host.service("keystone-follow.timer").is_enabled


def test_service_does_nothing_before_the_join(host: Host) -> None:
    host.run_expect([0], "systemctl start keystone-follow.service")
    asked = "systemctl show keystone-follow.service --property=ConditionResult"
    assert host.check_output(asked) == "ConditionResult=no"


def test_service_names_the_primers(host: Host) -> None:
    assert "--primer" in host.file("/etc/systemd/system/keystone-follow.service").content_string
