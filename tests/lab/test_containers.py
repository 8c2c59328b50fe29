"""What a container machine must not be able to change on its host."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keystone.lab.machines import cgroups
from keystone.lab.machines.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    made = Lab("containers", kind="container")
    made.down(purge=True)
    try:
        made.up(["p1"])
        yield made
    finally:
        made.down(purge=True)


def test_container_cannot_change_its_host(lab: Lab) -> None:
    p1 = lab.machine("p1")
    assert p1.run(["systemd-detect-virt"]).strip() == "container-other"
    for setting in ("kernel/panic", "vm/overcommit_memory"):
        output = p1.run(["sh", "-c", f"(echo 1 > /proc/sys/{setting}) 2>&1 || :"])
        assert "Read-only" in output
    forwarding = Path("/proc/sys/net/ipv4/ip_forward").read_text()
    p1.run(["sysctl", "-w", f"net.ipv4.ip_forward={1 - int(forwarding)}"])
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == forwarding
    assert p1.host().run(["date", "-s", "+1 day"], check=False).returncode != 0
    assert p1.host().run(["modprobe", "dummy"], check=False).returncode != 0
    output = p1.run(["sh", "-c", "mknod /root/disk b 254 0; cat /root/disk 2>&1 || :"])
    assert "not permitted" in output


def test_container_machine_runs_in_a_cgroup_v2_hierarchy(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a hybrid host: in its cgroup2 hierarchy, which has no controllers there."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    mounted = "\n".join(line for line in lines if " - cgroup2 " in line)
    layout = cgroups.layout(mounted, "", exists=Path.is_dir)
    assert layout.version == 2
    monkeypatch.setattr(cgroups, "detect", lambda: layout)
    made = Lab("second", kind="container")
    made.down(purge=True)
    try:
        made.up(["p1"])
        p1 = made.machine("p1")
        assert p1.run(["stat", "-fc", "%T", "/sys/fs/cgroup"]).strip() == "cgroup2fs"
        assert p1.run(["systemctl", "--failed", "--no-legend"]) == ""
        p1.pause()
        events = Path(f"{layout.hierarchies[0].parent}/keystone-second-p1/cgroup.events")
        assert "frozen 1" in events.read_text()
        p1.resume()
        p1.stop()
        assert p1.pid() == 0
        assert not events.exists()
    finally:
        made.down(purge=True)
