"""The watchdog restarts a machine that hangs, without a person.

systemd triggers the watchdog regularly. After a crash systemd freezes, and the machine can start
and stop nothing any more. The chipset's watchdog resets the machine after two timeouts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .bench import free_port, written

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .bench import Bench

pytestmark = [pytest.mark.images, pytest.mark.timeout(5400)]
STATE = "/sys/class/watchdog/watchdog0/state"


def test_watchdog_restarts_machine_after_crash_of_systemd(
    bench: Bench, build: Callable[..., Path]
) -> None:
    port = free_port()
    machine = bench.machine(port=port, disks=bench.disks(), cd=build())
    machine.usb = (bench.stick({"site.yaml": bench.site()}),)
    written(machine)
    with machine:
        machine.hear(r"p1 login:")
        host = bench.login(port)
        machine.becomes(
            lambda: host.run(["cat", STATE], check=False).stdout == "active\n",
            "active watchdog",
        )
        host.run(["kill", "-s", "SEGV", "1"])
        took = machine.hear(r"p1 login:", within=3600)
        print(f"login again {took:.0f} s after power-on")
