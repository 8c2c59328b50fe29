"""cluster.kubeadm_leaves: which of kubeadm's certificates are due."""

from __future__ import annotations

import datetime as dt

import pytest

from keystone.cluster import kubeadm, kubeadm_leaves
from keystone.pki import certificates
from keystone.pki.certificates import Pair, Profile

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
LIFE = dt.timedelta(days=90)
CA = "/etc/kubernetes/pki/ca.crt"
SERVER = "/etc/kubernetes/pki/apiserver.crt"
KUBELET = str(kubeadm_leaves.KUBELET_CERTIFICATE)


def authority(name: str = "kubernetes") -> Pair:
    key = certificates.new_key()
    profile = Profile(name, "north", ("server",), LIFE * 10, path_length=0)
    return Pair(certificates.sign(profile, key, None, NOW), key)


def leaf(issuer: Pair, begin: dt.datetime = NOW, life: dt.timedelta = LIFE) -> str:
    profile = Profile("kube-apiserver", "north", ("server",), life)
    made = certificates.sign(profile, certificates.new_key(), issuer, begin)
    return certificates.certificate_pem(made).decode()


def found(issuer: Pair, pem: str) -> dict[str, str]:
    return {CA: certificates.certificate_pem(issuer.certificate).decode(), SERVER: pem}


@pytest.mark.parametrize(("days", "is_due"), [(0, False), (59, False), (61, True), (100, True)])
def test_certificate_is_due_after_two_thirds_of_its_life(days: int, is_due: bool) -> None:
    ca = authority()
    there = found(ca, leaf(ca))
    due = kubeadm_leaves.due(there, LIFE, NOW + dt.timedelta(days=days))
    assert due == ([SERVER] if is_due else [])


def test_year_of_an_older_site_counts_as_the_lifetime_of_the_site_file() -> None:
    ca = authority()
    there = found(ca, leaf(ca, life=dt.timedelta(days=365)))
    assert kubeadm_leaves.due(there, LIFE, NOW + dt.timedelta(days=61)) == [SERVER]


def test_certificate_of_another_authority_of_the_same_name_is_due() -> None:
    assert kubeadm_leaves.due(found(authority(), leaf(authority())), LIFE, NOW) == [SERVER]


def test_certificate_made_while_the_clock_was_ahead_is_due() -> None:
    ca = authority()
    ahead = found(ca, leaf(ca, NOW + dt.timedelta(days=1)))
    assert kubeadm_leaves.due(ahead, LIFE, NOW) == [SERVER]


def test_absent_file_is_not_due() -> None:
    assert kubeadm_leaves.due({}, LIFE, NOW) == []


def test_kubelet_counts_as_expired_only_after_the_end() -> None:
    pem = leaf(authority())
    for path in (KUBELET, kubeadm.KUBELET_CONF):
        assert not kubeadm_leaves.kubelet_expired({path: pem}, NOW + dt.timedelta(days=89))
        assert kubeadm_leaves.kubelet_expired({path: pem}, NOW + dt.timedelta(days=91))
    assert not kubeadm_leaves.kubelet_expired({}, NOW)
