"""The CA of Kubernetes is rotated under a real API server, with certificates of real kubeadm."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from cryptography import x509

from keystone.cluster import kubeadm, kubeconfigs
from keystone.pki import certificates, host_files, rotate
from keystone.pki import tree as pki
from keystone.pki.rotation import DROPPED, REISSUED, TRUSTED

from . import control_plane
from .conftest import NODES, Lan, Placed, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from .control_plane import ControlPlane

pytestmark = pytest.mark.timeout(900)
CONFIG = f"{kubeadm.CONFIG}/kubeadm.yaml"
CA = "etc/kubernetes/pki/ca.crt"
ADMIN, OLD = "etc/kubernetes/admin.conf", "etc/kubernetes/old.conf"
RELOAD = 150
"""Seconds: an API server looks at its files at least once a minute."""


@pytest.fixture(scope="module")
def plane(
    namespaces: Callable[[Mapping[str, str]], Lan],
    pki_site: Placed,
    binary: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ControlPlane]:
    folder = tmp_path_factory.mktemp("p1")
    with control_plane.running(namespaces(NODES), pki_site, binary, folder) as made:
        # The second administrator's file, which kubeadm renews under its name.
        (folder / OLD).write_text((folder / ADMIN).read_text())
        yield made


def advance(plane: ControlPlane, placed: Placed, stage: str) -> None:
    """Take the tree to a stage, and place its files as the role trust does."""

    def root() -> certificates.Pair:
        file = placed.tree.parent / "root.pem"
        return rotate.opened(placed.site, placed.tree, file, "passphrase")

    start = dt.datetime.now(dt.UTC).replace(microsecond=0) - certificates.BACKDATE
    rotate.advance(placed.site, placed.tree, "kubernetes", stage, root, start)
    pki.issue(placed.site, placed.tree)
    control_plane.place(placed.tree, plane.folder)
    plane.machine.run(["kubeadm", "certs", "renew", "apiserver", "--config", CONFIG])
    plane.machine.run(["kubeadm", "certs", "renew", "admin.conf", "--config", CONFIG])
    kubeconfigs.trust(plane.folder / ADMIN, (plane.folder / CA).read_text())


def answers(plane: ControlPlane, config: str) -> bool:
    argv = ["kubectl", "--server=https://127.0.0.1:6443", f"--kubeconfig=/{config}",
            "auth", "whoami", "-o", "name"]  # fmt: skip
    return plane.machine.run(argv, check=False).returncode == 0


def issuer(plane: ControlPlane) -> str:
    """Return which CA signed the certificate with which the API server answers."""
    script = "openssl s_client -connect 127.0.0.1:6443 </dev/null 2>/dev/null | openssl x509"
    pem = plane.machine.run(["sh", "-c", script]).stdout
    served = x509.load_pem_x509_certificate(pem.encode())
    found = certificates.load_all((plane.folder / CA).read_bytes(), CA)
    return next(certificates.pin(ca) for ca in found if certificates.issued_by(served, ca))


def pins(text: str) -> list[str]:
    return [certificates.pin(one) for one in certificates.load_all(text.encode(), "")]


def test_clients_of_both_cas_are_answered_until_the_old_one_is_dropped(
    plane: ControlPlane, pki_site: Placed
) -> None:
    assert answers(plane, ADMIN)
    (before,) = pins((plane.folder / CA).read_text())

    advance(plane, pki_site, TRUSTED)
    old, new = pins((plane.folder / CA).read_text())
    assert old == before
    assert issuer(plane) == old
    assert answers(plane, ADMIN)
    assert answers(plane, OLD)

    # A client that took the first stage keeps its old certificate through the second one.
    kubeconfigs.trust(plane.folder / OLD, (plane.folder / CA).read_text())
    advance(plane, pki_site, REISSUED)
    assert pins((plane.folder / CA).read_text()) == [new, old]
    until(lambda: issuer(plane) == new, "the API server has its new certificate", RELOAD)
    assert answers(plane, ADMIN)
    assert answers(plane, OLD)

    advance(plane, pki_site, DROPPED)
    assert pins((plane.folder / CA).read_text()) == [new]
    assert answers(plane, ADMIN)
    until(lambda: not answers(plane, OLD), "the certificate of the old CA is refused", RELOAD)
    assert answers(plane, ADMIN)


def test_controller_manager_gets_one_signer_however_many_cas_are_trusted(
    plane: ControlPlane,
) -> None:
    phase = ["kubeadm", "init", "phase", "control-plane", "controller-manager", "--config", CONFIG]
    plane.machine.run(phase)
    manifest = plane.folder / "etc/kubernetes/manifests/kube-controller-manager.yaml"
    words = yaml.safe_load(manifest.read_text())["spec"]["containers"][0]["command"]
    signers = [word for word in words if word.startswith("--cluster-signing-cert-file=")]
    assert signers == [f"--cluster-signing-cert-file={host_files.SIGNER}"]
    assert "--root-ca-file=/etc/kubernetes/pki/ca.crt" in words
