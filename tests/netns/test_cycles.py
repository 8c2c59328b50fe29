"""etcd grows, shrinks and gets new members under load, and nothing that was acknowledged is lost.

KEYSTONE_CYCLES: number of cycles (default 5; `make life`: 100). KEYSTONE_SEED repeats a run.
"""

from __future__ import annotations

import json
import os
import random
import subprocess  # noqa: TID251 the exception of a process of run.spawned
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.life import cycles, drive, figures, load, machines

from keystone import log
from keystone.cluster import etcd, etcdctl
from keystone.errors import HostError
from keystone.install import members, quorum
from keystone.run import run, spawned

from .conftest import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.life.cycles import Cycle
    from tests.life.history import Verdict
    from tests.life.load import Load
    from tests.life.machines import Machines

    from keystone.install.actions import World
    from keystone.install.state import State

    from .conftest import Lan

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * 3600)]

ROOT = Path(__file__).parents[2]
CYCLES = int(os.environ.get("KEYSTONE_CYCLES", "5"))
SEED = int(os.environ.get("KEYSTONE_SEED", "0")) or random.randrange(1 << 32)
ADDRESSES = {f"p{number}": f"10.78.0.1{number}" for number in range(1, 6)}
FIRST = ("p1", "p2", "p3")
ELECTION = etcd.TIMINGS["normal"].election


@dataclass(frozen=True)
class Rig:
    """The machines, and the words that run a program on a machine without a member."""

    made: Machines
    client: tuple[str, ...]
    folder: Path

    @property
    def state_file(self) -> Path:
        return self.folder / "machines.json"


@pytest.fixture(scope="module")
def rig(
    namespaces: Callable[[Mapping[str, str]], Lan],
    binary: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Rig]:
    lan = namespaces({**ADDRESSES, "client": "10.78.0.99"})
    programs = {name: binary(name) for name in ("etcd", "etcdctl")}
    folder = tmp_path_factory.mktemp("life")
    ready = Rig(machines.make(lan, ADDRESSES, programs, folder), tuple(lan.at("client")), folder)
    ready.made.save(ready.state_file)
    try:
        yield ready
    finally:
        ready.made.end()


def driver(rig: Rig, target: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", "tests.life.drive", str(rig.state_file), ",".join(target)]


def lead(rig: Rig, target: tuple[str, ...], *, runs: int = 1) -> None:
    """Run the driver to its end, and again after a failure, as its message says."""
    for left in reversed(range(runs)):
        done = run(driver(rig, target), cwd=ROOT, timeout=900, check=False)
        assert done.returncode == 0 or left, done.stdout + done.stderr
        if done.returncode == 0:
            return
        log.info(f"run again: {done.stderr.strip().splitlines()[-2:]}")


@contextmanager
def under_load(rig: Rig, folder: Path) -> Iterator[Load]:
    pki = rig.made.hosts["p1"].at("/etc/etcd/pki")
    urls = ",".join(f"https://{address}:2379" for address in ADDRESSES.values())
    words: list[str | Path] = ["etcd", "--endpoints", urls, "--ca", pki / "peer-ca.crt",
             "--cert", pki / "client.crt", "--key", pki / "client.key"]  # fmt: skip
    with load.running(folder, words, rig.client) as running:
        until(lambda: running.writes() > 10, "the load writes")
        yield running


def apply(rig: Rig, cycle: Cycle) -> None:
    """Let the cycle happen: its faults, and runs of the driver, of which the last one ends."""
    if cycle.wiped:
        rig.made.hosts[cycle.wiped].wipe()
    lost = threading.Thread()
    if cycle.killed:
        lost = threading.Timer(cycle.kill_after, rig.made.hosts[cycle.killed].kill)
    lost.start()
    for seconds in cycle.drivers:
        log_file = rig.folder / "driver.log"
        with spawned(driver(rig, cycle.target), cwd=ROOT, log_file=log_file) as process:
            with suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            process.kill()
    lead(rig, cycle.target, runs=4 if cycle.killed else 1)
    lost.join()
    lead(rig, cycle.target)  # for a member that was killed after the end


def assert_reached(rig: Rig, target: tuple[str, ...]) -> None:
    state = drive.observe(rig.made, target)
    assert state.etcd is not None
    voters = {one.name for one in state.etcd.members if one.healthy and not one.learner}
    assert voters == set(target)
    assert len(state.etcd.members) == len(target)
    assert quorum.steps(state) == ()
    running = {name for name, host in rig.made.hosts.items() if host.member()}
    assert running == set(target)


def test_baseline_without_a_change(rig: Rig, tmp_path: Path) -> None:
    lead(rig, FIRST)
    with under_load(rig, tmp_path) as running:
        until(lambda: running.writes() > 500, "500 writes")
        verdict = running.end()
    log.info(f"baseline: {verdict.line()}")
    assert (verdict.lost, verdict.wrong, verdict.failed) == ((), (), 0)
    figures.record("baseline-stall", verdict.longest(), f"{verdict.writes} writes")


def test_no_acknowledged_write_is_lost_in_cycles(rig: Rig, tmp_path: Path) -> None:
    lead(rig, FIRST)
    chosen = cycles.cycles(random.Random(SEED), tuple(ADDRESSES), FIRST)
    faults: list[tuple[int, int]] = []
    with under_load(rig, tmp_path) as running:
        for number, cycle in zip(range(CYCLES), chosen, strict=False):
            log.info(f"seed {SEED}, cycle {number}: {json.dumps(cycle.__dict__)}")
            began = time.time_ns()
            apply(rig, cycle)
            assert_reached(rig, cycle.target)
            if cycle.faulty:
                faults.append((began, time.time_ns()))
        verdict = running.end()
    report(verdict, faults)
    assert (verdict.lost, verdict.wrong, verdict.compactions) == ((), (), 0)


def test_last_voter_that_is_killed_right_after_a_removal_starts_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a later entry in its log it does not know that the removal was committed."""
    lead(rig, ("p1", "p2"))
    until(lambda: leads(rig) == "p1", "p1 leads")
    removed: list[bool] = []
    tell, refresh = members.tell, members.refresh

    def telling(world: World, *words: str, **options: Any) -> bool:
        done = tell(world, *words, **options)
        removed.extend([done] if done and words[:2] == ("member", "remove") else [])
        return done

    def killing(world: World) -> State:
        """Kill p1 before the first look after the removal."""
        if removed:
            assert rig.made.hosts["p1"].kill()
            raise HostError("p1 was killed")
        return refresh(world)

    monkeypatch.setattr(members, "tell", telling)
    monkeypatch.setattr(members, "refresh", killing)
    state = drive.observe(rig.made, ("p1",))
    with pytest.raises(HostError, match="p1 was killed"):
        drive.take(rig.made, state, etcd.Remove("p2"))
    rig.made.hosts["p2"].wipe()
    lead(rig, ("p1",))
    assert_reached(rig, ("p1",))


def leads(rig: Rig) -> str:
    """Return which of p1 and p2 leads; if it is p2, ask it to hand over to p1."""
    state = drive.observe(rig.made, ("p1", "p2"))
    names = {one.name: one for one in state.members}
    leader = next((name for name, one in names.items() if one.leads), "")
    if leader == "p2":
        words = etcdctl.words("move-leader", names["p1"].id)
        rig.made.hosts["p2"].run(words, check=False)
    return leader


def report(verdict: Verdict, faults: list[tuple[int, int]]) -> None:
    detail = f"{CYCLES} cycles, seed {SEED}, {verdict.writes} writes"
    log.info(f"{detail}: {verdict.line()}")
    figures.record("cycles-lost", len(verdict.lost), detail, times=CYCLES)
    figures.record("cycles-stall", verdict.longest(faults), detail, times=CYCLES)
    figures.record("cycles-stall-faults", verdict.longest(), detail, times=CYCLES)
    figures.record("cycles-failed", verdict.failed, detail, times=CYCLES)
