"""Upgrade into the other slot: a good version stays, a broken one falls back by itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml

from keystone.errors import HostError, UntrustedBundleError

from .bench import ROOT, free_port, written

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from keystone.run import Host

    from .bench import Bench
    from .machine import Machine

pytestmark = [pytest.mark.images, pytest.mark.timeout(5400)]
UNHEALTHY = ["systemd.mask=ssh.service", "keystone.patience=30"]
DEAD = ["panic=5", "rdinit=/not/there"]
"""A system without ssh, and a kernel that starts no init."""
UNTRUSTED = UntrustedBundleError.exit_code


def options() -> list[str]:
    document = yaml.safe_load((ROOT / "images/primer/image.yaml").read_text())
    found: list[str] = document["spec"]["kernelOptions"]
    return found


def upgrade(bench: Bench, machine: Machine, port: int, iso: Path, version: int) -> None:
    """Upgrade the running machine from an ISO at its USB port, restart it, wait until it answers.

    The version that answers is marked as good, and the machine is switched off.
    """
    machine.late = iso
    with machine:
        machine.hear(r"p1 login:")
        host = bench.login(port)
        (stick,) = host.run(["sh", "-c", "ls /dev/disk/by-id/usb-*-0:0"]).stdout.split()
        plan = host.run(["keystone-install", "image", "upgrade", stick, "--plan"]).stderr
        assert f"write version {version}" in plan
        release = json.loads(iso.with_suffix(".json").read_text())["release"]
        verify = ["keystone-install", "image", "verify", stick]
        assert f"version {version}" in host.run([*verify, "--release", release]).stdout
        assert host.run([*verify, "--release", "0" * 64], check=False).returncode == UNTRUSTED
        words = ["keystone-install", "image", "upgrade", stick, "--release"]
        assert host.run([*words, "0" * 64], check=False).returncode != 0
        host.run([*words, release], timeout=1800)
        # Simulates an account, haproxy, that only the new version has.
        host.run(["userdel", "--force", "haproxy"])
        before = start(host)
        host.run(["systemctl", "reboot"], check=False)
        machine.becomes(lambda: start(host) not in {"", before}, "new start that answers", 3600)
        print(f"after the upgrade to {version}, version {runs(host)} runs")
        assert host.run(["id", "-un", "haproxy"]).stdout == "haproxy\n"
        host.run(["systemctl", "start", "keystone-bless.service"], timeout=1800)
        host.run(["systemctl", "poweroff"], check=False)
        machine.ended()
    machine.late = None


def start(host: Host) -> str:
    """The id of this start of the machine (random(4)); "" if it does not answer."""
    try:
        return host.run(["cat", "/proc/sys/kernel/random/boot_id"], timeout=120).stdout.strip()
    except HostError:
        return ""


def runs(host: Host) -> str:
    """The running version of the system."""
    return host.run(["sh", "-c", ". /usr/lib/os-release; echo $IMAGE_VERSION"]).stdout.strip()


@pytest.mark.parametrize(("firmware", "broken"), [("uefi", UNHEALTHY), ("bios", DEAD)])
def test_good_version_stays_and_broken_version_falls_back(
    bench: Bench, build: Callable[..., Path], firmware: str, broken: list[str]
) -> None:
    port = free_port()
    machine = bench.machine(port=port, firmware=firmware, disks=bench.disks(), cd=build())
    machine.usb = (bench.stick({"site.yaml": bench.site()}),)
    written(machine)
    for version, iso in (
        (2, build(version=2)),
        (3, build(version=3, kernelOptions=[*options(), *broken])),
    ):
        upgrade(bench, machine, port, iso, version)
        with machine:
            machine.hear(r"p1 login:", within=1800)
            assert runs(bench.login(port)) == "2"
