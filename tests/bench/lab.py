"""Measure the lab at native speed: machine start, installation, second run, join, idle, restore.

It uses container machines, three Primers and a worker, and the bundle of `make demo`. Needs root.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from measure import at_most

from keystone.lab import demo, nodes, workload
from keystone.lab.carry import carry
from keystone.lab.machines import cgroups, saves
from keystone.lab.machines.container import ContainerMachine
from keystone.lab.machines.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from measure import Row

PRIMERS, WORKER = ["p1", "p2", "p3"], "w1"
IDLE_SECONDS = 60.0


def rows() -> Iterator[Row]:
    """Install a site, measure the steps that users wait for, and remove the site."""
    bundle = carry(Lab("").folder)
    lab = Lab("bench", kind="container")
    lab.down(purge=True)
    try:
        alone = lab.up(["p1"])["p1"]
        yield at_most("a machine's start to ssh", alone, 5, "s")
        lab.up([*PRIMERS, WORKER])
        demo.insert(lab, bundle)
        demo.write_site(lab, PRIMERS)
        argv = demo.install_argv(bundle, "--yes")
        p1 = lab.machine("p1").host()
        yield at_most(
            "installation, three Primers", _taken(lambda: p1.run(argv, timeout=3600)), 90, "s"
        )
        yield at_most("the same command again", _taken(lambda: p1.run(argv, timeout=3600)), 5, "s")
        yield at_most("join to Ready", _taken(lambda: demo.join(lab, WORKER)), 15, "s")
        workload.deploy(p1)
        yield _idle(lab)
        saves.save(lab, "installed")
        yield at_most("restore to every node Ready", _taken(lambda: _restored(lab)), 30, "s")
    finally:
        lab.down(purge=True)


def _restored(lab: Lab) -> None:
    start = time.time()
    saves.restore(lab, "installed")
    nodes.wait_ready(lab.machine("p1").host(), frozenset([*PRIMERS, WORKER]), since=start)


def _idle(lab: Lab) -> Row:
    """Measure the CPU usage of an idle site of four machines, in cores."""
    machines = [m for m in lab.machines([*PRIMERS, WORKER]) if isinstance(m, ContainerMachine)]
    before, start = sum(map(_used, machines)), time.monotonic()
    time.sleep(IDLE_SECONDS)
    share = (sum(map(_used, machines)) - before) / (time.monotonic() - start)
    return at_most("idle site of four machines", share, 0.25, "cores", f"{share:.2f} cores")


def _used(machine: ContainerMachine) -> float:
    """Return the CPU seconds of a machine's processes."""
    return cgroups.processor_seconds(machine.groups())


def _taken(work: Callable[[], object]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start
