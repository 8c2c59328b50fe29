"""A machine that hangs is started again by its watchdog, without hands.

systemd feeds it. When systemd crashes it freezes, and nothing is started or ended on that machine
any more. The chipset's watchdog waits for its time-out twice.
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


def test_a_machine_whose_systemd_crashed_is_started_again(
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
            "watchdog that systemd feeds",
        )
        host.run(["kill", "-s", "SEGV", "1"])
        took = machine.hear(r"p1 login:", within=3600)
        print(f"the machine was there again {took:.0f} s after power-on")
