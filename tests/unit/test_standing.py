"""What stands already and forbids a run: names of nodes that somebody else holds."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from keystone.cluster import kubeadm
from keystone.cluster.facts import ClusterFacts, parse_cluster
from keystone.hosts import observe
from keystone.hosts.facts import RoleFacts
from keystone.install import standing
from keystone.site.model import Networks, Node, Site

CASES = Path(__file__).parents[1] / "cases/facts"
BLANK = observe.parse("p2", json.loads((CASES / "debian13-blank.json").read_text()), (0, 0))
NETWORKS = Networks(
    IPv4Network("10.77.0.0/24"), IPv4Network("10.244.0.0/16"), IPv4Network("10.96.0.0/16")
)


def node(name: str) -> dict[str, object]:
    return {"kind": "Node", "metadata": {"name": name}}


@pytest.mark.parametrize(
    ("there", "joined", "control_plane", "refused"),
    [
        ("p2", False, True, True),
        # Its own, also when it was cut before its first control plane answered.
        ("p2", True, True, False),
        ("w1", False, True, False),
        # One that only carries pods asks the cluster itself (join.cluster.give).
        ("p2", False, False, False),
    ],
)
def test_a_name_that_a_node_has_is_no_new_control_planes(
    there: str, *, joined: bool, control_plane: bool, refused: bool
) -> None:
    host = Node("p2", IPv4Address("10.77.0.12"), control_plane=control_plane)
    has = (kubeadm.KUBELET_CONF,) if joined else ()
    found = list(
        standing.names(
            Site("lab", (host,), NETWORKS),
            parse_cluster({"items": [node(there)]}),
            {"p2": replace(BLANK, kubernetes=has)},
        )
    )
    assert [finding.severity for finding in found] == ["refused"] * refused


def test_a_cluster_that_does_not_answer_may_have_any_name() -> None:
    p1, p2 = (Node(f"p{number}", IPv4Address(f"10.77.0.1{number}")) for number in (1, 2))
    site = Site("lab", (p1, p2), NETWORKS)
    runs = replace(
        BLANK, kubernetes=(kubeadm.KUBELET_CONF,), roles={"control_plane": RoleFacts("i", ())}
    )
    (found,) = standing.names(site, None, {"p1": runs, "p2": BLANK})
    assert (found.severity, found.host) == ("failed", "p2")
    # None that ever was, one that answers, and a host that has an identity of its own.
    assert not list(standing.names(site, None, {"p1": BLANK, "p2": BLANK}))
    assert not list(standing.names(site, ClusterFacts(), {"p1": runs, "p2": BLANK}))
    assert not list(standing.names(site, None, {"p1": runs, "p2": runs}))
