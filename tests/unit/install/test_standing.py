"""What exists on hosts and forbids a run: names that other nodes of the cluster have."""

from __future__ import annotations

import datetime as dt
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
from keystone.pki import certificates
from keystone.site.model import Networks, Node, Site

CASES = Path(__file__).parents[2] / "cases/facts"
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
        # Its own name, also if it was interrupted before its first control plane answered.
        ("p2", True, True, False),
        ("w1", False, True, False),
        # A node that only carries pods is checked when it joins (join.cluster.give).
        ("p2", False, False, False),
    ],
)
def test_new_control_plane_with_the_name_of_another_node_is_refused(
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


def test_new_control_plane_fails_if_the_cluster_does_not_answer() -> None:
    p1, p2 = (Node(f"p{number}", IPv4Address(f"10.77.0.1{number}")) for number in (1, 2))
    site = Site("lab", (p1, p2), NETWORKS)
    runs = replace(
        BLANK, kubernetes=(kubeadm.KUBELET_CONF,), roles={"control_plane": RoleFacts("i", ())}
    )
    (found,) = standing.names(site, None, {"p1": runs, "p2": BLANK})
    assert (found.severity, found.host) == ("failed", "p2")
    # No finding: without a cluster, with one that answers, and for a host that already is a node.
    assert not list(standing.names(site, None, {"p1": BLANK, "p2": BLANK}))
    assert not list(standing.names(site, ClusterFacts(), {"p1": runs, "p2": BLANK}))
    assert not list(standing.names(site, None, {"p1": runs, "p2": runs}))


NOW = dt.datetime(2026, 11, 30, 12, tzinfo=dt.UTC)


def pem(days: float, *, of: float = 90, authority: bool = False) -> str:
    """Return a certificate with a life of `of` days, of which `days` are left."""
    life = dt.timedelta(days=of) - certificates.BACKDATE
    profile = certificates.Profile("a name", "a site", (), life, 0 if authority else None)
    begin = NOW + dt.timedelta(days=days - of)
    signed = certificates.sign(profile, certificates.new_key(), None, begin)
    return certificates.certificate_pem(signed).decode()


def test_certificates_that_end_soon_are_warnings() -> None:
    facts = {
        "p2": {"/etc/etcd/pki/peer.crt": pem(29), "/etc/etcd/pki/server.crt": pem(20)},
        "p3": {
            "/etc/etcd/pki/peer.crt": pem(30),
            "/var/lib/kubelet/pki/kubelet-client-current.pem": pem(10),
        },
        "p1": {
            "/etc/kubernetes/pki/ca.crt": pem(300, of=1095, authority=True),
            "/etc/kubernetes/pki/apiserver.crt": pem(89),
        },
    }
    hosts = {name: replace(BLANK, certificates=seen) for name, seen in facts.items()}
    found = list(standing.certificates(hosts, NOW))
    assert [(one.severity, one.host) for one in found] == [("warning", "p2"), ("warning", "p1")]
    assert "server.crt on 2026-12-20 12:00 UTC and 1 more" in found[0].text
    assert "this run issues" in found[0].hint
    assert "/etc/kubernetes/pki/ca.crt" in found[1].text
    assert "authority" in found[1].hint


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ("", 0),
        ("{", 0),
        ('{"snapshot": 3}', 0),
        ('{"snapshot": {"error": "x", "failing_since": "2026-11-29T13:00:00+00:00"}}', 0),
        ('{"snapshot": {"error": "x", "failing_since": "2026-11-29T11:00:00+00:00"}}', 1),
        ('{"snapshot": {"error": "x", "failing_since": "yesterday"}}', 1),
    ],
)
def test_maintenance_that_fails_for_a_day_is_a_warning(report: str, expected: int) -> None:
    facts = {"p1": replace(BLANK, upkeep={"maintain": report})}
    found = list(standing.maintenance(facts, NOW))
    assert [one.severity for one in found] == ["warning"] * expected
