"""The real kubeadm validates our documents; the lab builds it on first use."""

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from keystone import run
from keystone.bundle.model import Digest, Item, Manifest
from keystone.cluster import kubeadm
from keystone.cluster.context import Context
from keystone.hosts import probe
from keystone.join import identity as join_identity
from keystone.lab.mirror import upstream
from keystone.site.model import Networks, Node, Patience, Site

IMAGES = {"registry.k8s.io/coredns/coredns": "v1.14.6", "registry.k8s.io/pause": "3.10.2"}


@pytest.fixture(scope="module")
def program() -> Path:
    return upstream.binary("kubeadm")


def context(profile: str, control_planes: int, *, trial: bool = False) -> Context:
    primers = tuple(
        Node(f"p{n}", IPv4Address(f"10.77.0.1{n}"), control_plane=n <= control_planes)
        for n in (1, 2, 3)
    )
    networks = Networks(IPv4Network("10.77.0.0/24"))
    site = Site("lab", primers, networks, patience=Patience(profile), trial=trial)
    items = [Item("image", name, tag, Digest("a" * 64), 1) for name, tag in IMAGES.items()]
    items.append(Item("binary", "kubeadm", "v1.37.2", Digest("b" * 64), 1))
    return Context(site, primers[control_planes - 1], Manifest("platform", 1, tuple(items)))


@pytest.mark.parametrize("control_planes", [1, 3])
@pytest.mark.parametrize("kind", ["normal", "emulated", "trial"])
def test_kubeadm_validates_all_documents(
    program: Path, tmp_path: Path, kind: str, control_planes: int
) -> None:
    trial = kind == "trial"
    here = context("normal" if trial else kind, control_planes, trial=trial)
    identity = tmp_path / "kubelet.conf"  # kubeadm requires that it exists
    identity.write_text(join_identity.kubeconfig(join_identity.Identity("", "CA")))
    joining = kubeadm.join_document(here, control_plane=True)
    joining = joining.replace(f" {kubeadm.ADMIN_CONF}", f" {identity}")
    texts = {
        "init": kubeadm.init_documents(here),
        "join": joining,
    }
    for name, text in texts.items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        run.run([program, "config", "validate", "--config", path])


def test_kubeadm_lists_only_images_of_the_bundle(program: Path, tmp_path: Path) -> None:
    path = tmp_path / "init.yaml"
    path.write_text(kubeadm.init_documents(context("normal", 1)))
    listed = run.run([program, "config", "images", "list", "--config", path]).stdout.split()
    assert {f"{name}:{tag}" for name, tag in IMAGES.items()} <= set(listed)
    assert not [name for name in listed if "/etcd:" in name]


def test_probe_reads_the_versions_of_kubeadm_and_etcd(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = {"keys": [], "initial": [], "timing": [], "rotation": 0}
    nothing = {"root": "", "member": False, "kubernetes": "", "etcd": "", **none}
    for name in ("ROOT", "MEMBER", "API_SERVER"):
        monkeypatch.setattr(probe, name, str(tmp_path / name))
    assert probe.standing() == nothing
    config = tmp_path / "init.yaml"
    text = kubeadm.init_documents(context("normal", 1))
    config.write_text(text.replace(f"{kubeadm.CONFIG}/patches", str(tmp_path)))
    run.run(
        [program, "init", "phase", "control-plane", "apiserver", "--config", config, "--dry-run"],
        env={"KUBEADM_INIT_DRYRUN_DIR": str(tmp_path)},
    )
    (manifest,) = tmp_path.glob("**/kube-apiserver.yaml")
    monkeypatch.setattr(probe, "API_SERVER", str(manifest))
    etcd = upstream.binary("etcd")
    monkeypatch.setattr(probe, "ETCD", str(etcd))
    (tmp_path / "MEMBER").mkdir()
    (tmp_path / "ROOT").write_text("a certificate")
    assert probe.standing()["kubernetes"] == "", "an API server that never ran does not count"
    (tmp_path / "DONE").write_text("")
    monkeypatch.setattr(probe, "DONE", str(tmp_path / "DONE"))
    version = run.run([etcd, "--version"]).stdout.split()
    assert probe.standing() == {
        "root": "a certificate", "member": True, "kubernetes": "v1.37.2", "etcd": version[2],
        **none, "keys": [""],
    }  # fmt: skip
