"""Machines with a bundle on a stick, how to run commands on them and interrupt a run on p1."""

from __future__ import annotations

import json
import os
import shlex
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from keystone import run
from keystone.errors import InterruptedRunError
from keystone.lab import demo
from keystone.lab.carry import Carried
from keystone.lab.machines import network
from keystone.lab.machines.lab import Lab

if TYPE_CHECKING:
    import subprocess  # noqa: TID251 the type of what run.spawned gives
    from collections.abc import Iterator, Sequence

    from keystone.lab.machines.lab import Machine

KIND = os.environ.get("KEYSTONE_KIND", "container")
"""The kind of machines: containers on every change, virtual ones before a release."""
KUBECTL = "kubectl --kubeconfig /etc/kubernetes/admin.conf --request-timeout=120s"
NVME = "/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_"


@dataclass(frozen=True)
class Rig:
    """The machines, the bundle on its stick, and how to run commands on p1."""

    lab: Lab
    bundle: Carried

    def machine(self, name: str) -> Machine:
        return self.lab.machine(name)

    def sh(self, name: str, script: str, *, check: bool = True, timeout: float = 900) -> str:
        host = self.machine(name).host()
        return host.run(["sh", "-ec", script], check=check, timeout=timeout).stdout

    def kubectl(self, words: str, *, check: bool = True) -> str:
        return self.sh("p1", f"{KUBECTL} {words}", check=check)

    def install(self, *extra: str, site: str = f"{demo.WORK}/site.yaml") -> run.Result:
        argv = [w if w != f"{demo.WORK}/site.yaml" else site
                for w in demo.install_argv(self.bundle, *extra)]  # fmt: skip
        return self.machine("p1").host().run(argv, check=False, timeout=3500)


@contextmanager
def started(
    name: str,
    bundle: Carried,
    primers: Sequence[str],
    others: Sequence[str] = (),
    *,
    kind: str = KIND,
) -> Iterator[Rig]:
    """Start Primers and other machines, with the stick and a site file of these Primers in p1."""
    lab = Lab(name, kind=kind)
    keep = "KEYSTONE_KEEP_LAB" in os.environ  # to repeat one test on the existing machines
    if not keep:
        lab.down(purge=True)
    try:
        lab.up([*primers, *others])
        demo.insert(lab, bundle)
        demo.write_site(lab, list(primers))
        yield Rig(lab, bundle)
    finally:
        if not keep:
            lab.down(purge=True)


WITHOUT_TASKS = ("store",)
"""Phases that run no playbook: they have begun as soon as their action has."""


def interrupt(rig: Rig, phase: str, signal: str) -> None:
    """Interrupt the installer in a phase, a moment after its first change began."""
    with under_way(rig, phase) as process:
        rig.sh("p1", f"kill -{signal} $(cat /run/keystone-install.lock)")
        if signal == "INT":
            assert process.stdout is not None
            rest = process.stdout.read().decode(errors="replace")
            assert process.wait() == InterruptedRunError.exit_code, rest
            assert "run the same command again" in rest
            assert "Traceback" not in rest


@contextmanager
def under_way(rig: Rig, phase: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start the installer; return its process once the first task of a phase has ended."""
    host = rig.machine("p1").host()
    argv = demo.install_argv(rig.bundle, "--yes", "--log-format", "json")
    seen, inside = [], False
    with run.spawned(
        [*host.ssh_argv(), "--", f"{shlex.join(argv)} 2>&1"], stdout=run.PIPE
    ) as process:
        assert process.stdout is not None
        for raw in process.stdout:
            seen.append(raw.decode(errors="replace"))
            output = json.loads(seen[-1]) if seen[-1].startswith("{") else {}
            inside = inside or (output.get("event"), output.get("phase")) == ("action", phase)
            if inside and (phase in WITHOUT_TASKS or "results" in output):
                yield process
                return
        pytest.fail(f"phase {phase} never began:\n{''.join(seen[-30:])}")


def assert_pool(rig: Rig, name: str) -> None:
    """Assert that a Primer's pool is online, a mirror, with disks by id and 4096-byte sectors."""
    status = json.loads(rig.sh(name, "zpool status -jP --json-int keystone"))["pools"]["keystone"]
    assert status["state"] == "ONLINE"
    text = rig.sh(name, "zpool status -P keystone")
    for serial in rig.machine(name).settings.serials:
        assert f"{NVME}{serial}" in text
    assert rig.sh(name, "zpool get -Hpo value ashift keystone").strip() == "12"
    assert "mirror-0" in text


def assert_clock(rig: Rig, name: str) -> None:
    """Assert that a machine's clock follows a Primer's."""
    rig.sh(name, "chronyc -n waitsync 60 0 0 10", timeout=900)
    assert "10.77.0.1" in rig.sh(name, "chronyc -n -c tracking")


def assert_no_leak(rig: Rig, *, counted: str = "declared") -> None:
    """Assert that no packet leaked, and that the counters work: ssh traffic was counted."""
    counters = network.counters(rig.lab.settings)
    assert counters[counted] > 0, "the counters work"
    leaks = {name: counters[name] for name in network.LEAKS}
    assert leaks == dict.fromkeys(network.LEAKS, 0), network.leaked(rig.lab.settings)
