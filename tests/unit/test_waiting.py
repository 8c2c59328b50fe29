"""Waiting: what is looked at, how often, and how it ends."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from keystone.cluster.facts import parse_cluster
from keystone.errors import HostError
from keystone.install import actions
from keystone.run import Result, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keystone.bundle.read.bundle import Bundle
    from keystone.install.actions import World
    from keystone.install.state import State
    from keystone.run import Host


@dataclass
class Clock:
    """Seconds that pass when somebody sleeps or looks."""

    now: float = 0.0
    slept: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@dataclass(frozen=True)
class Until(actions._WaitState):
    """Holds at a number of looks, each of which takes some seconds."""

    clock: Clock
    looks: int
    seconds: float

    def describe(self) -> str:
        return "wait until it was looked at often enough"

    def look(self, world: World) -> State:
        self.clock.now += self.seconds
        return cast("State", cast("int", world.seen) + 1)

    def wants(self, state: State) -> str:
        return "" if cast("int", state) >= self.looks else f"{state} looks are too few"

    def patience(self, state: State) -> float:
        return 300


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(actions, "time", made)
    return made


def world() -> World:
    return actions.World(
        bundle=cast("Bundle", None),
        hosts={},
        passphrase=str,
        observe=lambda: pytest.fail("a wait looks at what it waits for, not at everything"),
        state=cast("State", 0),
    )


def test_it_ends_at_the_first_look_without_a_pause(clock: Clock) -> None:
    Until(clock, looks=1, seconds=2).apply(world())
    assert clock.slept == []


def test_looking_takes_a_quarter_of_the_time_at_most(clock: Clock) -> None:
    Until(clock, looks=5, seconds=20).apply(world())
    assert clock.slept == [60, 60, 60, 60]


def test_a_quick_look_is_taken_often_at_first(clock: Clock) -> None:
    Until(clock, looks=45, seconds=0.1).apply(world())
    assert clock.slept[0] == 0.5
    assert max(clock.slept) == 15


def test_what_came_true_is_seen_soon(clock: Clock) -> None:
    """Late by an eighth of the time that it took, and by no more than 15 seconds."""
    Until(clock, looks=45, seconds=0.1).apply(world())
    passed = 0.0
    for pause in clock.slept:
        passed += 0.1
        assert pause <= max(0.5, min(passed / 8, 15))
        passed += pause


def test_there_is_an_end(clock: Clock) -> None:
    with pytest.raises(HostError, match="no end of waiting: wait until it was looked at") as ended:
        Until(clock, looks=10**6, seconds=1).apply(world())
    assert ended.value.message.endswith("looks are too few")
    assert 300 < clock.now < 330


READY = parse_cluster({"items": [{"kind": "Node", "metadata": {"name": "p1"}, "status": {
    "conditions": [{"type": "Ready", "status": "True"}]}}]})  # fmt: skip


@pytest.mark.parametrize(
    ("wait", "seen", "why"),
    [
        (actions.WaitEtcd(3), {"etcd": None}, "0 are"),
        (actions.WaitNodes(("p1", "p2")), {"cluster": READY}, "not yet: p2"),
        (actions.WaitNodes(("p1",)), {"cluster": READY}, ""),
        (actions.WaitNodes(("p1",)), {"cluster": None}, actions.SILENT),
        (actions.WaitWorkloads(), {"cluster": None}, actions.SILENT),
        (actions.WaitWorkloads(), {"cluster": READY}, ""),
    ],
)
def test_a_wait_says_what_it_still_wants(
    wait: actions._WaitState, seen: dict[str, object], why: str
) -> None:
    assert wait.wants(cast("State", SimpleNamespace(**seen))) == why


SECRETS = json.dumps({"kind": "List", "items": [{"metadata": {"name": n}} for n in ("b", "a")]})
WRITTEN = "secret/b\nsecret/a\n"


@dataclass
class Kubectl:
    """A host with a kubectl that says these things; in a shell it is followed by `cat`.

    What it says when it fails, it says on standard error too.
    """

    read: tuple[int, str]
    written: tuple[int, str]
    given: list[str | None] = field(default_factory=list)

    def run(self, argv: Sequence[str], *, data: str | None = None, check: bool = True) -> Result:
        if argv[0] == "sh":
            here = f"kubectl() {{ case $* in *get*) return {self.read[0]};; *) cat;; esac; }}; "
            text = argv[2].replace(" ".join(actions.KUBECTL_ADMIN), "kubectl")
            return run(["sh", "-c", here + text], check=check)
        assert "get" in argv or "replace" in argv
        self.given.append(data)
        code, said = self.read if "get" in argv else self.written
        return Result(tuple(argv), code, said, said if code else "", 0)


def asked(kubectl: Kubectl) -> World:
    """The first Primer of the site only votes: the API is the second's."""
    p1, p2 = SimpleNamespace(name="p1"), SimpleNamespace(name="p2", address="10.77.0.12")
    site = SimpleNamespace(primers=[p1, p2], control_planes=[p2])
    seen = cast("State", SimpleNamespace(site=site, patience="normal"))
    return actions.World(cast("Bundle", None), cast("dict[str, Host]", {"p2": kubectl}), str,
                         lambda: seen, seen)  # fmt: skip


def rewritten(kubectl: Kubectl) -> bool:
    return actions.RewriteSecrets().missing(asked(kubectl)) == ""


def test_what_refuses_to_write_secrets_is_named() -> None:
    no = "Error from server: admission webhook policy.site denied the request: frozen"
    assert actions.RewriteSecrets().missing(asked(Kubectl((0, SECRETS), (1, no)))) == no
    assert actions.RewriteSecrets().missing(asked(Kubectl((0, SECRETS), (0, "secret/a\n")))) == (
        "1 of 2 were written"
    )


def test_nodes_are_labelled_where_the_api_is() -> None:
    class Told(Kubectl):
        def run(
            self, argv: Sequence[str], *, data: str | None = None, check: bool = True
        ) -> Result:
            assert "label" in argv
            return Result(tuple(argv), 0, "", "", 0)

    actions.LabelNodes(("p2",), "keystone").apply(asked(Told((0, ""), (0, ""))))


def test_secrets_are_written_anew_when_each_that_was_read_was_replaced() -> None:
    kubectl = Kubectl((0, SECRETS), (0, WRITTEN))
    assert rewritten(kubectl)
    assert kubectl.given == [None, SECRETS]
    assert rewritten(Kubectl((0, '{"kind": "List", "items": []}'), (1, "")))


@pytest.mark.parametrize(
    ("read", "written"),
    [
        ((1, ""), (0, "")),
        ((1, SECRETS), (0, WRITTEN)),
        ((0, ""), (0, "")),
        ((0, '{"kind": "Status"}'), (0, "")),
        ((0, SECRETS), (1, WRITTEN)),
        ((0, SECRETS), (0, "")),
        ((0, SECRETS), (0, "secret/a\n")),
    ],
)
def test_nothing_read_or_less_replaced_is_not_done(
    read: tuple[int, str], written: tuple[int, str]
) -> None:
    """What comes next lets no API server read plain text."""
    assert not rewritten(Kubectl(read, written))
