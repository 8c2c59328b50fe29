"""etcd and Kubernetes run with issuing CAs of the operator's own PKI."""

from __future__ import annotations

import datetime as dt
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.process.test_brought_authorities import Pki

from keystone.pki import brought
from keystone.pki import tree as pki

from .cluster import cluster
from .conftest import NODES, Lan, Placed, place, until
from .test_quorum import Quorum

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def placed(pki_site: Placed, tmp_path_factory: pytest.TempPathFactory) -> Placed:
    """A tree with the operator's authorities, under an RSA root, placed on three Primers."""
    top = tmp_path_factory.mktemp("brought")
    lifetime, now = pki_site.site.trust.certificate_lifetime, dt.datetime.now(dt.UTC)
    given = brought.read(Pki(top / "own").folder, lifetime, now)
    made = replace(pki_site, tree=top / "pki", hosts=top / "hosts")
    pki.init(made.site, made.tree, top / "no-root", pytest.fail, given=given)
    place(made)
    return made


def test_members_and_their_clients_verify_each_other(
    placed: Placed,
    namespaces: Callable[[Mapping[str, str]], Lan],
    binary: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    programs = {name: binary(name) for name in ("etcd", "etcdctl")}
    with ExitStack() as stack:
        quorum = Quorum(namespaces(NODES), placed, programs, tmp_path, stack)
        for host in NODES:
            quorum.start(host)
        until(lambda: len(quorum.healthy()) == 3, "three healthy members")


def test_api_server_and_controllers_work_with_what_kubeadm_signed_by_the_operators_ca(
    placed: Placed,
    namespaces: Callable[[Mapping[str, str]], Lan],
    binary: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    with cluster(namespaces(NODES), placed, binary, tmp_path) as made:
        words = ("-n", "kube-public", "configmap", "kube-root-ca.crt")
        until(lambda: bool(made.get(*words)), "the controllers publish the CA", 120)
        anchors = made.get(*words)["data"]["ca.crt"]
        assert anchors == placed.at("p1", "/etc/kubernetes/pki/ca.crt").read_text()
