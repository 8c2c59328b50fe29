"""Waits: what they observe, how often, and how they end."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from keystone.cluster.facts import parse_cluster
from keystone.errors import HostError
from keystone.install import actions, members
from keystone.run import Result, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keystone.bundle.read.bundle import Bundle
    from keystone.install.actions import World
    from keystone.install.state import State
    from keystone.run import Host


@dataclass
class Clock:
    """A clock that advances only by sleeps and checks; in seconds."""

    now: float = 0.0
    slept: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@dataclass(frozen=True)
class Until(actions.WaitState):
    """A wait whose condition holds at check number `checks`; each check takes `seconds`."""

    clock: Clock
    checks: int
    seconds: float

    def describe(self) -> str:
        return "wait for enough checks"

    def refresh(self, world: World) -> State:
        self.clock.now += self.seconds
        return cast("State", cast("int", world.seen) + 1)

    def wants(self, state: State) -> str:
        return "" if cast("int", state) >= self.checks else f"only {state} checks so far"

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
        observe=lambda: pytest.fail("a wait must not observe everything"),
        state=cast("State", 0),
    )


def test_wait_whose_condition_holds_does_not_sleep(clock: Clock) -> None:
    Until(clock, checks=1, seconds=2).apply(world())
    assert clock.slept == []


def test_checks_take_at_most_a_quarter_of_the_time(clock: Clock) -> None:
    Until(clock, checks=5, seconds=20).apply(world())
    assert clock.slept == [60, 60, 60, 60]


def test_pauses_grow_from_half_a_second_to_15_seconds(clock: Clock) -> None:
    Until(clock, checks=45, seconds=0.1).apply(world())
    assert clock.slept[0] == 0.5
    assert max(clock.slept) == 15


def test_success_is_noticed_within_an_eighth_of_the_time_waited(clock: Clock) -> None:
    """And at most 15 seconds late."""
    Until(clock, checks=45, seconds=0.1).apply(world())
    passed = 0.0
    for pause in clock.slept:
        passed += 0.1
        assert pause <= max(0.5, min(passed / 8, 15))
        passed += pause


def test_wait_times_out_and_says_what_is_missing(clock: Clock) -> None:
    with pytest.raises(HostError, match="timed out after 300 s: only ") as ended:
        Until(clock, checks=10**6, seconds=1).apply(world())
    assert ended.value.message.endswith("checks so far")
    assert 300 < clock.now < 330


READY = parse_cluster({"items": [{"kind": "Node", "metadata": {"name": "p1"}, "status": {
    "conditions": [{"type": "Ready", "status": "True"}]}}]})  # fmt: skip


@pytest.mark.parametrize(
    ("wait", "seen", "why"),
    [
        (
            members.WaitEtcd(("p1", "p2", "p3")),
            {"members": (), "site": None},
            "etcd members healthy: 0/3",
        ),
        (actions.WaitNodes(("p1", "p2")), {"cluster": READY}, "not Ready yet: p2"),
        (actions.WaitNodes(("p1",)), {"cluster": READY}, ""),
        (actions.WaitNodes(("p1",)), {"cluster": None}, actions.NO_ANSWER),
        (actions.WaitWorkloads(), {"cluster": None}, actions.NO_ANSWER),
        (actions.WaitWorkloads(), {"cluster": READY}, ""),
    ],
)
def test_wait_names_what_is_missing(
    wait: actions.WaitState, seen: dict[str, object], why: str
) -> None:
    assert wait.wants(cast("State", SimpleNamespace(**seen))) == why


SECRETS = json.dumps({"kind": "List", "items": [{"metadata": {"name": n}} for n in ("b", "a")]})
WRITTEN = "secret/b\nsecret/a\n"


@dataclass
class Kubectl:
    """A host whose kubectl returns these exit codes and outputs; in a shell `cat` follows it.

    If it fails, it writes its output to standard error too.
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
        code, output = self.read if "get" in argv else self.written
        return Result(tuple(argv), code, output, output if code else "", 0)


def world_with(kubectl: Kubectl) -> World:
    """Return a world whose first Primer has only etcd: the API server is on the second."""
    p1, p2 = SimpleNamespace(name="p1"), SimpleNamespace(name="p2", address="10.77.0.12")
    site = SimpleNamespace(primers=[p1, p2], control_planes=[p2])
    seen = cast("State", SimpleNamespace(site=site, patience="normal", api=p2))
    return actions.World(cast("Bundle", None), cast("dict[str, Host]", {"p2": kubectl}), str,
                         lambda: seen, seen)  # fmt: skip


def rewritten(kubectl: Kubectl) -> bool:
    return actions.RewriteSecrets().missing(world_with(kubectl)) == ""


def test_rewriting_secrets_reports_the_refusal_or_the_count() -> None:
    no = "Error from server: admission webhook policy.site denied the request: frozen"
    assert actions.RewriteSecrets().missing(world_with(Kubectl((0, SECRETS), (1, no)))) == no
    assert actions.RewriteSecrets().missing(
        world_with(Kubectl((0, SECRETS), (0, "secret/a\n")))
    ) == ("secrets rewritten: 1 of 2")


def test_nodes_are_labelled_through_a_host_with_an_api_server() -> None:
    class ExpectsLabel(Kubectl):
        def run(
            self, argv: Sequence[str], *, data: str | None = None, check: bool = True
        ) -> Result:
            assert "label" in argv
            return Result(tuple(argv), 0, "", "", 0)

    actions.LabelNodes(("p2",), "keystone").apply(world_with(ExpectsLabel((0, ""), (0, ""))))


def test_rewriting_secrets_is_done_when_every_listed_secret_was_replaced() -> None:
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
def test_rewriting_secrets_is_not_done_after_failed_list_or_partial_replace(
    read: tuple[int, str], written: tuple[int, str]
) -> None:
    """The next stage makes the API servers refuse plain text: it must not come too early."""
    assert not rewritten(Kubectl(read, written))
