"""Variables of nodes: mirrors without upstream, timeouts by profile, all a worker needs."""

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
from keystone.pki import certificates, encryption, seal
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
def test_every_registry_is_mirrored_by_all_primers_only(host: int | None) -> None:
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


def test_single_emulated_control_plane_has_no_leader_election_and_long_timeouts() -> None:
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


def test_normal_profile_keeps_the_defaults_of_kubernetes() -> None:
    found = documents(kubeadm.init_documents(context()))
    assert found["ClusterConfiguration"]["scheduler"]["extraArgs"] == []
    assert kubeadm.patches(context().site) == {}


def test_kubeadm_uses_the_key_type_of_the_trust_tree() -> None:
    found = documents(kubeadm.init_documents(context()))
    assert found["ClusterConfiguration"]["encryptionAlgorithm"] == "ECDSA-P256"
    assert certificates.new_key().curve.name == "secp256r1"


def tuning(profile: str) -> tuple[set[str], bool]:
    """Return the static pods' environment names; whether kubelet's housekeeping interval is set."""
    found = documents(kubeadm.init_documents(context(profile)))
    parts = ("apiServer", "controllerManager", "scheduler")
    names = [
        {variable["name"] for variable in found["ClusterConfiguration"][part].get("extraEnvs", [])}
        for part in parts
    ]
    assert names[0] == names[1] == names[2]
    extra = found["InitConfiguration"]["nodeRegistration"]["kubeletExtraArgs"]
    return names[0], "housekeeping-interval" in {argument["name"] for argument in extra}


def test_only_emulated_machines_get_go_variables_and_longer_housekeeping() -> None:
    assert tuning("emulated") == ({"GOMAXPROCS", "GOGC"}, True)
    assert tuning("normal") == (set(), False)


def test_every_control_plane_has_a_join_document() -> None:
    """The host that started the cluster joins it again when its machine is replaced."""
    starts = replace(context(host=0), starts_cluster=True)
    for one in (starts, context(host=0), context(host=1)):
        made = control_plane.variables(one)
        assert made["control_plane_first"] == one.starts_cluster
        paths = {file["path"] for file in made["control_plane_files"]}
        assert f"{kubeadm.CONFIG}/join.yaml" in paths


def test_join_document_sets_no_node_labels() -> None:
    """Nothing depends on labels that a kubelet may set itself: the installer labels nodes."""
    for host in (0, 2, None):
        assert "node-labels" not in kubeadm.join_document(context(host=host))


def test_names_lines_list_the_primers_and_the_machine_itself() -> None:
    primers = ["10.77.0.11 p1", "10.77.0.12 p2", "10.77.0.13 p3"]
    assert names.variables(context(host=1)) == {"names_lines": primers}
    assert names.variables(context(host=None)) == {"names_lines": [*primers, "10.77.0.21 w1"]}


def test_api_server_has_encryption_and_audit_with_mounted_files() -> None:
    here = context()
    api_server = documents(kubeadm.init_documents(here))["ClusterConfiguration"]["apiServer"]
    arguments = {argument["name"]: argument["value"] for argument in api_server["extraArgs"]}
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
    mounted = {volume["mountPath"] for volume in api_server["extraVolumes"]}
    opened = str(seal.PLACES.opened)
    assert {
        policy.rpartition("/")[0],
        arguments["audit-log-path"].rpartition("/")[0],
        opened,
    } == mounted
    assert int(arguments["audit-log-maxsize"]) * (int(arguments["audit-log-maxbackup"]) + 1) <= 250


@pytest.mark.parametrize("control_plane", [False, True])
def test_join_document_uses_the_identity_and_no_token(*, control_plane: bool) -> None:
    text = kubeadm.join_document(context(host=1), control_plane=control_plane)
    (found,) = documents(text).values()
    # A control plane's kubelet.conf points to its own API server, which does not run yet.
    read = "admin.conf" if control_plane else "kubelet.conf"
    assert found["discovery"] == {"file": {"kubeConfigPath": f"/etc/kubernetes/{read}"}}
    assert "oken" not in text


def test_package_source_of_a_worker_is_a_primer_over_tls() -> None:
    assert endpoint.package_source(context())[0].startswith("directory:")
    source, ca_file = endpoint.package_source(context(host=None))
    assert "https://10.77.0.1" in source
    assert ca_file


@pytest.mark.parametrize("trial", [False, True])
def test_join_service_computes_the_same_variables_as_the_installer(*, trial: bool) -> None:
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


def test_findings_list_all_problems_of_a_machine() -> None:
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


def test_container_is_accepted_only_on_a_trial_site() -> None:
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
