"""The lab itself: plain machines that reach only each other and survive interruptions.

On containers by default; KEYSTONE_KIND=virtual runs the same on virtual machines.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keystone import run
from keystone.errors import HostError, RefusedError
from keystone.lab.machines import network, saves
from keystone.lab.machines.lab import Lab
from keystone.lab.machines.machine import MEDIA, becomes

from .rig import KIND

if TYPE_CHECKING:
    from tests.lab.conftest import Booted

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]

SEND_DNS = """
import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("9.9.9.9", 53))
"""


def test_boot_sends_no_packet_to_an_undeclared_address(booted: Booted) -> None:
    assert booted.counters["gateway"] > 0, "the counters work: ssh was answered"
    assert {name: booted.counters[name] for name in network.LEAKS} == {"leak": 0, "leak_dns": 0}
    assert network.leaked(booted.lab.settings) == []


def test_machines_reach_each_other(lab: Lab) -> None:
    lab.machine("p1").run(["ping", "-c", "1", "-W", "20", "10.77.0.21"])
    lab.machine("w1").run(["ping", "-c", "1", "-W", "20", "10.77.0.11"])


def test_machine_is_a_plain_debian(lab: Lab) -> None:
    p1 = lab.machine("p1")
    assert p1.run(["hostname"]).strip() == "p1"
    assert p1.run(["systemctl", "--failed", "--no-legend"]) == ""
    p1.run(["python3", "-c", "import sys; assert sys.version_info >= (3, 11)"])
    found = p1.run(["find", "/etc", "/usr", "/var", "-xdev", "-iname", "*keystone*"])
    assert found == ""
    identity = {name: lab.machine(name).run(["cat", "/etc/machine-id"]) for name in ("p1", "w1")}
    assert len(set(identity.values())) == 2


def test_carried_medium_is_complete_and_read_only(lab: Lab, tmp_path: Path) -> None:
    payload = tmp_path / "offline.tar"
    payload.write_bytes(os.urandom(3 << 20))
    p1 = lab.machine("p1")
    assert p1.carry_in([payload]) == MEDIA
    seen = p1.run(["sha256sum", f"{MEDIA}/offline.tar"]).split()[0]
    assert seen == hashlib.sha256(payload.read_bytes()).hexdigest()
    assert p1.host().run(["touch", f"{MEDIA}/offline.tar"], check=False).returncode != 0
    p1.pull()
    assert p1.host().run(["cat", f"{MEDIA}/offline.tar"], check=False).returncode != 0


def test_files_are_copied_completely(lab: Lab, tmp_path: Path) -> None:
    source = tmp_path / "program"
    source.write_bytes(os.urandom(1 << 20))
    w1 = lab.machine("w1")
    w1.copy_to(source, "/root/program", mode=0o750)
    assert w1.run(["sha256sum", "/root/program"]).split()[0] == (
        hashlib.sha256(source.read_bytes()).hexdigest()
    )
    assert w1.run(["stat", "-c", "%a", "/root/program"]).strip() == "750"


def test_leaks_are_counted_and_named(lab: Lab) -> None:
    before = network.counters(lab.settings)
    w1 = lab.machine("w1")
    w1.run(["ping", "-c", "1", "-W", "1", "8.8.8.8"], check=False)
    w1.run(["python3", "-c", SEND_DNS])
    after = network.counters(lab.settings)
    assert after["leak"] == before["leak"] + 1
    assert after["leak_dns"] == before["leak_dns"] + 1
    assert {"10.77.0.21 > 8.8.8.8", "10.77.0.21 > 9.9.9.9"} <= set(network.leaked(lab.settings))


def test_up_again_does_nothing_and_restarts_a_killed_machine(lab: Lab) -> None:
    p1, w1 = lab.machine("p1"), lab.machine("w1")
    pids = p1.pid(), w1.pid()
    assert lab.up(["p1", "w1"]) == {"p1": 0.0, "w1": 0.0}
    assert (p1.pid(), w1.pid()) == pids
    w1.run(["sh", "-c", "echo kept >/root/kept && sync"])
    w1.power_cut()
    assert w1.pid() == 0
    assert lab.up(["p1", "w1"])["w1"] > 0
    assert p1.pid() == pids[0]
    assert w1.run(["cat", "/root/kept"]) == "kept\n"


def test_machine_off_the_network_does_not_answer_until_reconnected(lab: Lab) -> None:
    ping = ["ping", "-c", "1", "-W", "2", "10.77.0.21"]
    p1, w1 = lab.machine("p1"), lab.machine("w1")
    w1.disconnect()
    with pytest.raises(RefusedError, match="w1 is disconnected from the network"):
        lab.up(["w1"])
    assert p1.host().run(ping, check=False).returncode != 0
    w1.connect()
    assert becomes(lambda: p1.host().run(ping, check=False).returncode == 0, 60)


def test_paused_machine_does_nothing_until_resumed(lab: Lab) -> None:
    w1 = lab.machine("w1")
    w1.pause()
    with pytest.raises(HostError):
        w1.host().run(["true"], timeout=3)
    with pytest.raises(RefusedError, match="w1 is paused"):
        lab.up(["w1"])
    w1.resume()
    assert w1.run(["hostname"]).strip() == "w1"


def test_machine_powers_off_on_request(lab: Lab) -> None:
    w1 = lab.machine("w1")
    w1.stop()
    assert w1.pid() == 0
    lab.up(["w1"])


def test_saved_lab_is_restored_unchanged(lab: Lab) -> None:
    p1 = lab.machine("p1")
    p1.run(["sh", "-c", "echo before > /root/file; sync"])
    saves.save(lab, "one")
    assert [saved.name for saved in saves.listed(lab)] == ["one"]
    assert p1.run(["cat", "/root/file"]) == "before\n"
    p1.run(["sh", "-c", "echo after > /root/file; sync"])
    saves.restore(lab, "one")
    assert p1.run(["cat", "/root/file"]) == "before\n"
    saves.restore(lab, "one")
    assert p1.run(["cat", "/root/file"]) == "before\n"


def leftovers(lab: Lab) -> list[str]:
    """Return everything of a lab that is still on this host."""
    namespace = lab.settings.namespace
    found = [str(path) for path in Path("/sys/fs/cgroup").rglob(f"{namespace}-*")]
    found += [name for name in network.names() if name == namespace]
    found += [line for line in Path("/proc/self/mounts").read_text().splitlines()
              if str(lab.folder) in line]  # fmt: skip
    for words in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            said = words.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(lab.folder) in said:
            found.append(said)
    return found


@pytest.mark.parametrize("moment", ["at once", "files", "groups", "running"])
def test_down_leaves_nothing_after_a_killed_up(moment: str) -> None:
    lab = Lab("killed", kind=KIND)
    lab.down(purge=True)
    folder = lab.folder / "machines" / "p1"
    seen = {
        "at once": lambda: True,
        "files": folder.exists,
        "groups": (folder / ("groups" if KIND == "container" else "system.qcow2")).exists,
        "running": lambda: lab.there and bool(lab.machine("p1").pid()),
    }[moment]
    argv = [sys.executable, "-m", "keystone", "lab", "up", "--name", "killed", "--kind", KIND,
            "--machines", "p1,p2"]  # fmt: skip
    with run.spawned(argv) as process:
        assert becomes(seen, 120)
        process.send_signal(signal.SIGKILL)
        process.wait()
    # The same command completes an interrupted start.
    assert set(Lab("killed", kind=KIND).up(["p1", "p2"])) == {"p1", "p2"}
    Lab("killed").down(purge=True)
    assert leftovers(lab) == []
    assert not lab.folder.exists()
