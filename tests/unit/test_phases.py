"""Which hosts a phase converges side by side, and which one after another."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from keystone.bundle.model import Manifest
from keystone.cluster.facts import ClusterFacts, NodeFacts
from keystone.hosts import observe
from keystone.hosts.facts import RoleFacts
from keystone.install import phases
from keystone.install.actions import Converge, LabelNodes
from keystone.install.state import State
from keystone.pki.encryption import READABLE, WRITTEN
from keystone.pki.plan import TrustFacts
from keystone.site.model import Networks, Node, Patience, Site

from .test_contracts import items

CAPTURE = Path(__file__).parents[1] / "cases" / "facts" / "debian13-blank.json"
RUNTIME = "converge kernel, containerd, endpoint"


def state(profile: str = "normal", *, planes: int = 3, joined: str = "") -> State:
    """Three blank Primers; `joined` have the role that makes them nodes, of older inputs."""
    primers = tuple(
        Node(
            f"p{number}", IPv4Address(f"10.77.0.1{number}"), control_plane=number <= planes,
            kubelet=True,
        )
        for number in (1, 2, 3)
    )  # fmt: skip
    blank = observe.parse("p1", json.loads(CAPTURE.read_text()), (0, 0))
    old = RoleFacts("older", ())
    seen = {
        node.name: replace(
            blank,
            name=node.name,
            roles={"control_plane" if node.control_plane else "node": old}
            if node.name in joined.split()
            else {},
        )
        for node in primers
    }
    site = Site(
        name="lab",
        primers=primers,
        networks=Networks(IPv4Network("10.77.0.0/24")),
        patience=Patience(profile),
    )
    trust = TrustFacts((), (), {})
    return State(site, Manifest("platform", 1, items()), "sha256:0", "sha256:1", seen, trust)


def test_a_site_in_plain_text_takes_three_stages_after_all_else() -> None:
    trust = TrustFacts((), (), {}, encryption=READABLE)
    planned = phases.PHASES[-1].plan(replace(state(), trust=trust))
    kinds = [type(action).__name__ for action in planned]
    assert kinds[-6:] == [
        "EncryptSecrets", "Converge", "WaitKey", "RewriteSecrets", "EncryptSecrets", "Converge",
    ]  # fmt: skip
    assert kinds[:-6] == ["WaitNodes", "LabelNodes", "WaitWorkloads"]
    cut = phases.verify(replace(state(), trust=replace(trust, encryption=WRITTEN)))
    assert [type(action).__name__ for action in cut][-4:] == kinds[-4:]


def test_nodes_are_labelled_with_the_pool_once() -> None:
    labelled = [NodeFacts(f"p{n}", ready=True, pool="keystone" if n < 3 else "") for n in (1, 2, 3)]
    (action,) = phases.verify(replace(state(), cluster=ClusterFacts(tuple(labelled))))
    assert action == LabelNodes(("p3",), "keystone")
    labelled[2] = replace(labelled[2], pool="keystone")
    assert phases.verify(replace(state(), cluster=ClusterFacts(tuple(labelled)))) == []


def said(actions: phases.Actions) -> list[str]:
    assert all(isinstance(action, Converge) for action in actions)
    return [action.describe() for action in actions]


def test_control_planes_are_prepared_and_joined_side_by_side_after_the_first() -> None:
    assert said(phases.control_plane(state())) == [
        f"p1 p2 p3: {RUNTIME}",
        "p1: converge control_plane",
        "p2 p3: converge control_plane",
    ]


def test_an_emulated_api_server_is_joined_by_one_at_a_time() -> None:
    assert said(phases.control_plane(state("emulated"))) == [
        f"p1 p2 p3: {RUNTIME}",
        "p1: converge control_plane",
        "p2: converge control_plane",
        "p3: converge control_plane",
    ]


def test_what_runs_already_is_changed_one_after_another() -> None:
    assert said(phases.control_plane(state(joined="p1 p3"))) == [
        f"p2: {RUNTIME}",
        f"p1: {RUNTIME}",
        f"p3: {RUNTIME}",
        "p1: converge control_plane",
        "p2: converge control_plane",
        "p3: converge control_plane",
    ]


@pytest.mark.parametrize(
    ("profile", "joins"),
    [
        ("normal", ["p2 p3: converge node"]),
        ("emulated", ["p2: converge node", "p3: converge node"]),
    ],
)
def test_primers_that_only_carry_pods(profile: str, joins: list[str]) -> None:
    assert said(phases.nodes(state(profile, planes=1))) == [f"p2 p3: {RUNTIME}", *joins]
