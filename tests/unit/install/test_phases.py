"""Which hosts a phase converges in parallel, and which one after another."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from tests.unit.ansible.test_contracts import items

from keystone.bundle.model import Manifest
from keystone.cluster.facts import ClusterFacts, NodeFacts
from keystone.hosts import observe
from keystone.hosts.facts import RoleFacts
from keystone.install import leaving, phases
from keystone.install.actions import Converge, LabelNodes, WaitNodes
from keystone.install.state import State
from keystone.pki.encryption import READABLE, WRITTEN
from keystone.pki.plan import TrustFacts
from keystone.site.model import Networks, Node, Patience, Site

CAPTURE = Path(__file__).parents[2] / "cases" / "facts" / "debian13-blank.json"
RUNTIME = "converge kernel, containerd, endpoint"


def state(profile: str = "normal", *, planes: int = 3, joined: str = "") -> State:
    """Return three blank Primers; those in `joined` have their node role, with older inputs."""
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


def test_verify_encrypts_secrets_in_three_stages_after_all_other_actions() -> None:
    trust = TrustFacts((), (), {}, encryption=READABLE)
    planned = phases.PHASES[-1].plan(replace(state(), trust=trust))
    kinds = [type(action).__name__ for action in planned]
    assert kinds[-6:] == [
        "EncryptSecrets", "Converge", "WaitKey", "RewriteSecrets", "EncryptSecrets", "Converge",
    ]  # fmt: skip
    assert kinds[:-6] == ["WaitNodes", "LabelNodes", "WaitWorkloads"]
    interrupted = phases.verify(replace(state(), trust=replace(trust, encryption=WRITTEN)))
    assert [type(action).__name__ for action in interrupted][-4:] == kinds[-4:]


def test_only_nodes_without_the_pool_label_are_labelled() -> None:
    labelled = [NodeFacts(f"p{n}", ready=True, pool="keystone" if n < 3 else "") for n in (1, 2, 3)]
    (action,) = phases.verify(replace(state(), cluster=ClusterFacts(tuple(labelled))))
    assert action == LabelNodes(("p3",), "keystone")
    labelled[2] = replace(labelled[2], pool="keystone")
    assert phases.verify(replace(state(), cluster=ClusterFacts(tuple(labelled)))) == []


def described(actions: phases.Actions) -> list[str]:
    assert all(isinstance(action, Converge) for action in actions)
    return [action.describe() for action in actions]


def test_control_planes_after_the_first_join_in_parallel() -> None:
    assert described(phases.control_plane(state())) == [
        f"p1 p2 p3: {RUNTIME}",
        "p1: converge control_plane",
        "p2 p3: converge control_plane",
    ]


def test_emulated_control_planes_join_one_at_a_time() -> None:
    assert described(phases.control_plane(state("emulated"))) == [
        f"p1 p2 p3: {RUNTIME}",
        "p1: converge control_plane",
        "p2: converge control_plane",
        "p3: converge control_plane",
    ]


def test_running_control_planes_are_changed_one_after_another() -> None:
    assert described(phases.control_plane(state(joined="p1 p3"))) == [
        f"p2: {RUNTIME}",
        f"p1: {RUNTIME}",
        f"p3: {RUNTIME}",
        "p1: converge control_plane",
        "p3: converge control_plane",
        "p2: converge control_plane",
    ]


def test_single_running_control_plane_changes_after_the_others_joined() -> None:
    """Its API server restarts: until others serve, nobody would answer."""
    planned = phases.control_plane(state(joined="p2"))
    assert [action.describe() for action in planned[2:]] == [
        "p2: publish kubeadm's configuration for those that join",
        "p1 p3: converge control_plane",
        "p2: converge control_plane",
    ]


def test_only_the_first_host_of_a_new_cluster_starts_it() -> None:
    """A first Primer that is not the first any more joins what others run."""
    new, lost = state(), state(joined="p2 p3")
    assert [new.starts(node) for node in new.site.primers] == [True, False, False]
    assert not any(lost.starts(node) for node in lost.site.primers)
    p1 = new.site.primers[0]
    told = [one.variables(p1, "control_plane") for one in (new, lost)]
    assert [one["control_plane_first"] for one in told] == [True, False]
    assert told[0]["control_plane_inputs"] == told[1]["control_plane_inputs"]


def test_node_of_a_replaced_machine_is_deleted_before_the_new_one_joins() -> None:
    seen = replace(
        state(joined="p2 p3"),
        cluster=ClusterFacts(tuple(NodeFacts(name, ready=True) for name in ("p1", "p2", "p3"))),
    )
    delete = leaving.DeleteNode("p1")
    assert delete not in phases.control_plane(seen)
    planned = phases.control_plane(replace(seen, replacing=("p1",)))
    assert planned.index(delete) < len(planned) - 1
    assert described(planned[-1:]) == ["p1: converge control_plane"]


@pytest.mark.parametrize(
    ("profile", "joins"),
    [
        ("normal", ["p2 p3: converge node"]),
        ("emulated", ["p2: converge node", "p3: converge node"]),
    ],
)
def test_primers_that_only_carry_pods_join_as_nodes(profile: str, joins: list[str]) -> None:
    assert described(phases.nodes(state(profile, planes=1))) == [f"p2 p3: {RUNTIME}", *joins]


def test_primer_that_only_votes_gets_what_the_quorum_needs_and_no_more() -> None:
    there = state()
    *others, last = there.site.primers
    voter = replace(last, control_plane=False, kubelet=False)
    there = replace(there, site=replace(there.site, primers=(*others, voter)))
    found = {
        phase.name: any("p3" in action.where() for action in phase.plan(there))
        for phase in phases.PHASES
    }
    assert found == {
        "trust": True, "time": True, "storage": True, "store": True, "registry": True,
        "etcd": True, "join service": False, "control plane": False, "add-ons": False,
        "nodes": False, "seal": True, "removal": False, "maintenance": True, "verify": False,
    }  # fmt: skip
    (wait,) = (one for one in phases.verify(there) if isinstance(one, WaitNodes))
    assert wait.nodes == ("p1", "p2")
