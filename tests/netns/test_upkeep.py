"""The upkeep of three real etcd members: locks, defragmentation, a quota that is filled.

Each Primer's part runs in its own machine, with that machine's member and certificates.
"""

from __future__ import annotations

import json
import sys
import textwrap
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from keystone.run import PIPE, Result, run, spawned

from .conftest import NODES, until
from .test_quorum import ALL, FIRST, Quorum, running

if TYPE_CHECKING:
    import subprocess  # noqa: TID251 the type of what run.spawned gives
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from .conftest import Lan, Placed

MIB = 1 << 20
QUOTA = 24 * MIB
LEASE = 3
PREPARE = """
import signal, sys, time
from pathlib import Path
from keystone.cluster import defragment, etcdctl, lock, upkeep
from keystone.errors import KeystoneError
etcdctl.PROGRAM, etcdctl.PKI = sys.argv[1], Path(sys.argv[2])
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
lock.LEASE_SECONDS, upkeep.FREE_BYTES = {lease}, 4 << 20
try:
{work}
except KeystoneError as error:
    print(error, error.hint, file=sys.stderr)
    sys.exit(error.exit_code)
"""
TAKE = """
with lock.held({name}, wait={wait}):
    print("held", flush=True)
"""
HOLD = TAKE + "    time.sleep(600)"


def program(quorum: Quorum, host: str, work: str) -> list[str]:
    text = PREPARE.format(lease=LEASE, work=textwrap.indent(work.strip(), "    "))
    pki = quorum.placed.at(host, "/etc/etcd/pki")
    return quorum.lan.at(host, sys.executable, "-c", text, quorum.programs["etcdctl"], str(pki))


def on(quorum: Quorum, host: str, work: str) -> Result:
    return run(program(quorum, host, work), check=False, timeout=120)


def take(quorum: Quorum, host: str, wait: float = 1) -> Result:
    """Take the lock "work" on a machine, and give it back at once."""
    return on(quorum, host, TAKE.format(name='"work"', wait=wait))


@contextmanager
def holding(
    quorum: Quorum, host: str, name: str = '"work"', wait: float = 1
) -> Iterator[subprocess.Popen[bytes]]:
    """Hold a lock on a machine until the block ends."""
    argv = program(quorum, host, HOLD.format(name=name, wait=wait))
    with spawned(argv, stdout=PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"held"
        yield process


@pytest.fixture(scope="module")
def quorum(
    namespaces: Callable[[Mapping[str, str]], Lan],
    pki_site: Placed,
    binary: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Quorum]:
    folder = tmp_path_factory.mktemp("etcd")
    with running(namespaces(NODES), pki_site, binary, folder, quota=QUOTA) as made:
        yield made


def answers(quorum: Quorum) -> list[dict[str, Any]]:
    said = quorum.ctl("endpoint", "status", "--endpoints", ALL, "-w", "json").stdout
    found: list[dict[str, Any]] = json.loads(said)
    return found


def leader(quorum: Quorum) -> str:
    for host, answer in zip(NODES, answers(quorum), strict=True):
        if answer["Status"]["leader"] == answer["Status"]["header"]["member_id"]:
            return host
    pytest.fail("no member leads")


def sizes(quorum: Quorum) -> dict[str, int]:
    return {
        host: answer["Status"]["dbSize"]
        for host, answer in zip(NODES, answers(quorum), strict=True)
    }


def put(quorum: Quorum, key: str, size: int = MIB) -> Result:
    argv = ("sh", "-c", f"head -c {size} /dev/zero | tr '\\0' x | \"$@\"", "sh")
    folder = quorum.placed.at("p1", "/etc/etcd/pki")
    flags = ("--endpoints", FIRST, "--command-timeout", "30s", "--cacert", f"{folder}/peer-ca.crt",
             "--cert", f"{folder}/client.crt", "--key", f"{folder}/client.key")  # fmt: skip
    words = quorum.lan.at("p1", *argv, quorum.programs["etcdctl"], *flags, "put", key)
    return run(words, check=False, timeout=60)


def churn(quorum: Quorum) -> None:
    """Leave more than 4 MiB of free pages in each database."""
    for number in range(10):
        done = put(quorum, f"churn{number}")
        assert done.returncode == 0, done.stderr
    quorum.ctl("del", "churn", "--prefix", "--endpoints", FIRST)
    revision = max(answer["Status"]["header"]["revision"] for answer in answers(quorum))
    assert quorum.ctl("compact", "--physical", str(revision), "--endpoints", FIRST).returncode == 0

    def freed() -> bool:
        seen = [answer["Status"] for answer in answers(quorum)]
        return all(one["dbSize"] - one["dbSizeInUse"] > 4 * MIB for one in seen)

    until(freed, "every member has compacted")


def test_second_contender_is_told_who_holds_the_lock(quorum: Quorum) -> None:
    with holding(quorum, "p1") as process:
        done = take(quorum, "p2")
        assert done.returncode == 7, done.stderr
        assert f"(process {process.pid}, since 20" in done.stderr
    assert take(quorum, "p2").stdout.strip() == "held"


def test_lock_of_a_killed_holder_ends_with_its_lease(quorum: Quorum) -> None:
    with holding(quorum, "p1") as process:
        process.kill()
        process.wait()
        assert take(quorum, "p2", wait=0.5).returncode == 7
        assert take(quorum, "p2", wait=60).stdout.strip() == "held"


def test_waiting_contender_gets_the_lock_when_it_is_released(quorum: Quorum) -> None:
    with ExitStack() as first:
        first.enter_context(holding(quorum, "p1"))
        waits = program(quorum, "p3", TAKE.format(name='"work"', wait=60))
        with spawned(waits, stdout=PIPE) as waiting:
            assert waiting.poll() is None
            first.close()
            assert waiting.wait(60) == 0


def test_lock_whose_lease_ended_is_an_error_of_the_work(quorum: Quorum) -> None:
    done = on(quorum, "p1", """
with lock.held("lost") as one:
    etcdctl.tell("lease", "revoke", f"{one.lease:x}")
    one.process.wait(30)
    one.require()
""")  # fmt: skip
    assert done.returncode == 8, done.stdout + done.stderr
    assert "the lock lost was lost: etcd did not renew it in time" in done.stderr


def test_followers_are_defragmented_first_and_the_leader_hands_over(quorum: Quorum) -> None:
    churn(quorum)
    first = leader(quorum)
    before = sizes(quorum)
    work = "print(defragment.defragment_here())"
    done = on(quorum, first, work)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
    assert "comes first" in done.stderr
    for host in (name for name in NODES if name != first):
        done = on(quorum, host, work)
        assert "became" in done.stdout, done.stderr
    assert leader(quorum) == first
    assert "became" in on(quorum, first, work).stdout
    assert leader(quorum) != first
    after = sizes(quorum)
    assert all(after[host] < before[host] / 4 for host in NODES), (before, after)
    for host in NODES:
        done = on(quorum, host, work)
        assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_no_member_is_defragmented_while_another_does_not_answer(quorum: Quorum) -> None:
    churn(quorum)
    first = leader(quorum)
    lost, left = (name for name in NODES if name != first)
    before = sizes(quorum)[left]
    quorum.kill(lost)
    done = on(quorum, left, "print(defragment.defragment_here())")
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
    assert f"{lost} does not answer" in done.stderr
    quorum.start(lost)
    until(lambda: len(quorum.healthy()) == 3, "three healthy members")
    assert sizes(quorum)[left] >= before
    for host in (lost, left, first):
        on(quorum, host, "defragment.defragment_here()")


def test_while_one_defragments_another_does_not(quorum: Quorum) -> None:
    churn(quorum)
    follower, other = (name for name in NODES if name != leader(quorum))
    with holding(quorum, other, "defragment.LOCK"):
        done = on(quorum, follower, "print(defragment.defragment_here())")
        assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
        assert "is at it" in done.stderr


def fill(quorum: Quorum, prefix: str) -> None:
    """Write until etcd refuses; a different prefix keeps what was written, one key does not."""
    for number in range(40):
        if put(quorum, prefix.format(number)).returncode != 0:
            break
    until(lambda: "NOSPACE" in quorum.ctl("alarm", "list", "--endpoints", FIRST).stdout, "alarm")


def make_room(quorum: Quorum) -> Result:
    return on(quorum, leader(quorum), "print(defragment.make_room(0))")


def test_full_quota_of_old_history_is_made_room_for(quorum: Quorum) -> None:
    fill(quorum, "same")
    other = next(name for name in NODES if name != leader(quorum))
    assert on(quorum, other, "print(defragment.make_room(0))").stdout.strip() == ""
    done = make_room(quorum)
    assert done.returncode == 0, done.stderr
    assert "NOSPACE ended" in done.stdout
    assert put(quorum, "after").returncode == 0
    assert all(size < QUOTA / 2 for size in sizes(quorum).values())
    assert make_room(quorum).stdout.strip() == ""


def test_full_quota_of_live_objects_asks_a_person(quorum: Quorum) -> None:
    for attempt in range(6):  # at first the file is full of free pages, which are made room of
        fill(quorum, f"kept{attempt}-{{}}")
        done = make_room(quorum)
        if done.returncode != 0:
            break
    assert done.returncode == 8, done.stdout
    assert "its database is nearly as large as its quota" in done.stderr
    assert "remove objects" in done.stderr
    assert quorum.ctl("del", "kept", "--prefix", "--endpoints", FIRST).returncode == 0
    first = leader(quorum)
    work = "print(defragment.make_room(max(one.revision for one in etcdctl.members())))"
    done = on(quorum, first, work)
    assert done.returncode == 0, done.stderr
    assert "old history removed" in done.stdout
    for host in (*(name for name in NODES if name != first), first):  # unless the quota was filled
        on(quorum, host, "defragment.defragment_here()")
    assert all(size < QUOTA / 2 for size in sizes(quorum).values())
    assert put(quorum, "after").returncode == 0
