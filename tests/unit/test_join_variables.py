"""What nodes are told: mirrors that never fall through, deadlines by profile, a complete worker."""

import tomllib
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
import yaml

from keystone.ansible.roles import addons, containerd, control_plane, endpoint, names, node
from keystone.bundle.model import Digest, Item, Manifest
from keystone.cluster import join_config, kubeadm
from keystone.cluster.context import Context
from keystone.join import client, server
from keystone.pki import certificates, encryption
from keystone.site import host_profile
from keystone.site.model import Networks, Node, Patience, Site

BINARIES = ("kubelet", "kubeadm", "kubectl", "containerd", "runc", "cni-plugins")
IMAGES = ("registry.k8s.io/pause", *addons.IMAGES.values())
WORKER = Node("w1", IPv4Address("10.77.0.21"), control_plane=False)
ROLES = server.WORKER_ROLES


def bundle() -> Manifest:
    names = [
        *(("binary", name) for name in BINARIES),
        *(("image", name) for name in IMAGES),
        ("installer", "keystone-install"),
    ]
    return Manifest(
        "platform",
        1,
        tuple(
            Item(kind, name, "v1.37.2", Digest(f"{number:064x}"), 10 + number)
            for number, (kind, name) in enumerate(names)
        ),
    )


def context(profile: str = "normal", control_planes: int = 3, host: int | None = 0) -> Context:
    primers = tuple(
        Node(f"p{n}", IPv4Address(f"10.77.0.1{n}"), control_plane=n <= control_planes)
        for n in (1, 2, 3)
    )
    site = Site("lab", primers, Networks(IPv4Network("10.77.0.0/24")), patience=Patience(profile))
    return Context(site, WORKER if host is None else primers[host], bundle())


@pytest.mark.parametrize("host", [0, 1, None])
def test_every_registry_ends_at_the_primers(host: int | None) -> None:
    here = context(host=host)
    for upstream, text in containerd.mirrors(here).items():
        mirror = tomllib.loads(text)
        urls = [*mirror["host"], mirror["server"]]
        path = "" if upstream == "_default" else f"/v2/{upstream}"
        assert sorted(urls) == [f"https://10.77.0.1{n}:5000{path}" for n in (1, 2, 3)]
        assert all(entry["ca"].endswith("site-ca.crt") for entry in mirror["host"].values())
        if host is not None:
            assert urls[0].startswith(f"https://{here.host.address}:")
    assert set(containerd.mirrors(here)) == {
        "_default", "docker.io", "ghcr.io", "registry.k8s.io",
    }  # fmt: skip


def documents(text: str) -> dict[str, Any]:
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def test_one_slow_control_plane_elects_nobody_and_is_patient() -> None:
    found = documents(kubeadm.init_documents(context("emulated", 1)))
    cluster = found["ClusterConfiguration"]
    for part in ("controllerManager", "scheduler"):
        assert {"name": "leader-elect", "value": "false"} in cluster[part]["extraArgs"]
    lease = found["KubeletConfiguration"]["nodeLeaseDurationSeconds"]
    patience = kubeadm.PATIENCE["emulated"]
    assert patience.node_status < lease < patience.node_grace
    assert set(kubeadm.patches(context("emulated").site)) == {
        f"kube-{name}+strategic.yaml" for name in ("apiserver", "controller-manager", "scheduler")
    }


def test_at_normal_speed_kubernetes_own_deadlines_hold() -> None:
    found = documents(kubeadm.init_documents(context()))
    assert found["ClusterConfiguration"]["scheduler"]["extraArgs"] == []
    assert kubeadm.patches(context().site) == {}


def test_kubeadm_makes_keys_of_the_kind_that_our_tree_has() -> None:
    found = documents(kubeadm.init_documents(context()))
    assert found["ClusterConfiguration"]["encryptionAlgorithm"] == "ECDSA-P256"
    assert certificates.new_key().curve.name == "secp256r1"


def told(profile: str) -> tuple[set[str], bool]:
    """The static pods' environment by name, and whether kubelet is told how often to look."""
    found = documents(kubeadm.init_documents(context(profile)))
    parts = ("apiServer", "controllerManager", "scheduler")
    names = [
        {variable["name"] for variable in found["ClusterConfiguration"][part].get("extraEnvs", [])}
        for part in parts
    ]
    assert names[0] == names[1] == names[2]
    extra = found["InitConfiguration"]["nodeRegistration"]["kubeletExtraArgs"]
    return names[0], "housekeeping-interval" in {argument["name"] for argument in extra}


def test_only_emulated_machines_are_spared_what_wakes_them() -> None:
    assert told("emulated") == ({"GOMAXPROCS", "GOGC"}, True)
    assert told("normal") == (set(), False)


def test_only_the_first_control_plane_starts_the_cluster() -> None:
    first, second = (control_plane.variables(context(host=host)) for host in (0, 1))
    assert (first["control_plane_first"], second["control_plane_first"]) == (True, False)
    names = [{file["path"] for file in each["control_plane_files"]} for each in (first, second)]
    assert names[1] - names[0] == {f"{kubeadm.CONFIG}/join.yaml"}


def test_no_kubelet_is_told_a_label_of_its_own() -> None:
    """What a kubelet may set on its node decides nothing: the installer labels nodes."""
    for host in (0, 2, None):
        assert "node-labels" not in kubeadm.join_document(context(host=host))


def test_machines_know_the_primers_and_themselves_by_name() -> None:
    primers = ["10.77.0.11 p1", "10.77.0.12 p2", "10.77.0.13 p3"]
    assert names.variables(context(host=1)) == {"names_lines": primers}
    assert names.variables(context(host=None)) == {"names_lines": [*primers, "10.77.0.21 w1"]}


def test_the_api_server_encrypts_logs_and_finds_its_files() -> None:
    here = context()
    told = documents(kubeadm.init_documents(here))["ClusterConfiguration"]["apiServer"]
    arguments = {argument["name"]: argument["value"] for argument in told["extraArgs"]}
    assert arguments["encryption-provider-config"] == encryption.PLACE
    policy = arguments["audit-policy-file"]
    (written,) = [
        file["content"]
        for file in control_plane.variables(here)["control_plane_files"]
        if file["path"] == policy
    ]
    levels = {rule["level"] for rule in yaml.safe_load(written)["rules"]}
    assert levels == {"None", "Metadata"}
    assert yaml.safe_load(written)["rules"][-1] == {"level": "Metadata"}
    mounted = {volume["mountPath"] for volume in told["extraVolumes"]}
    assert {policy.rpartition("/")[0], arguments["audit-log-path"].rpartition("/")[0]} == mounted
    assert int(arguments["audit-log-maxsize"]) * (int(arguments["audit-log-maxbackup"]) + 1) <= 250


@pytest.mark.parametrize("control_plane", [False, True])
def test_kubeadm_joins_with_an_identity_and_without_a_token(*, control_plane: bool) -> None:
    text = kubeadm.join_document(context(host=1), control_plane=control_plane)
    (found,) = documents(text).values()
    # A control plane's kubelet.conf leads to its own API server, which is not there yet.
    read = "admin.conf" if control_plane else "kubelet.conf"
    assert found["discovery"] == {"file": {"kubeConfigPath": f"/etc/kubernetes/{read}"}}
    assert "oken" not in text


def test_a_worker_takes_packages_from_a_primer_over_tls() -> None:
    assert endpoint.package_source(context())[0].startswith("directory:")
    source, ca_file = endpoint.package_source(context(host=None))
    assert "https://10.77.0.1" in source
    assert ca_file


@pytest.mark.parametrize("trial", [False, True])
def test_the_join_service_computes_what_the_primer_would(*, trial: bool) -> None:
    here = context("emulated", 1)
    here = replace(here, site=replace(here.site, trial=trial))
    config = join_config.parse(yaml.safe_load(join_config.dump(here)))
    roles = server.worker_roles(config, WORKER.name, WORKER.address, ROLES)
    there = Context(here.site, WORKER, here.bundle)
    assert roles["containerd"] == containerd.variables(there)
    assert roles["node"] == node.variables(there)
    assert ("SystemVerification" in str(roles["node"]["node_join"])) is trial
    wanted = {blob["name"] for blob in server.blobs(config, roles)}
    assert wanted == set(BINARIES)


def test_all_that_keeps_a_machine_out_is_said_at_once() -> None:
    bad = client.Machine(
        root=False, architecture="aarch64", swaps=("/dev/sda2",), cgroup2=False, hostname="w1",
        machine_id="",
    )  # fmt: skip
    text = "\n".join(client.findings(bad))
    assert [word in text for word in ("root", "aarch64", "/dev/sda2", "cgroup", "machine-id")] == (
        [True] * 5
    )
    good = client.Machine(
        root=True, architecture="x86_64", swaps=(), cgroup2=True, hostname="w1", machine_id="1" * 32
    )
    assert client.findings(good) == []
    (nameless,) = client.findings(replace(good, hostname="debian"))
    assert "hostnamectl" in nameless


def test_a_container_is_a_worker_of_a_trial_site_only() -> None:
    container = client.Machine(
        root=True, architecture="x86_64", swaps=("/dev/sda2",), cgroup2=False, hostname="w1",
        machine_id="1" * 32, container="container-other",
    )  # fmt: skip
    assert client.findings(container, host_profile.TRIAL) == []
    text = "\n".join(client.findings(container))
    assert [word in text for word in ("container-other", "spec.trial", "/dev/sda2", "cgroup")] == (
        [True] * 4
    )
    swapping = replace(container, container="")
    (found,) = client.findings(swapping, host_profile.TRIAL)
    assert found.startswith("swap is on")
