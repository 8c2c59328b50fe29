"""Trial sites: roles, kubeadm, kubelet and scripts follow the profile for containers."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from tests.unit.ansible.test_contracts import contexts
from tests.unit.install.test_preflight import host

from keystone.ansible.roles import containerd, etcd, kernel, node
from keystone.cluster import join_config, kubeadm
from keystone.hosts.facts import HostFacts, RoleFacts
from keystone.install import phases, screen
from keystone.install.overview import Overview
from keystone.install.state import State
from keystone.join import script
from keystone.pki.plan import TrustFacts
from keystone.site import host_profile
from keystone.site.model import Storage

ROLES = Path(__file__).parents[3] / "roles"
ORDINARY = next(context for context in contexts() if not context.site.trial)
TRIAL = next(context for context in contexts() if context.site.trial)


def documents(text: str) -> dict[str, Any]:
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def rendered(role: str, template: str, values: dict[str, Any]) -> str:
    """Render a template as Ansible does: with trim_blocks, its default."""
    text = (ROLES / role / "templates" / template).read_text()
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined)
    defaults = yaml.safe_load((ROLES / role / "defaults" / "main.yml").read_text())
    return environment.from_string(text).render({**defaults, **values})


def test_ordinary_site_has_default_profile() -> None:
    assert host_profile.of(ORDINARY.site) == host_profile.HostProfile()
    assert host_profile.of(TRIAL.site) is host_profile.TRIAL


def test_kubeadm_documents_of_trial_site_have_settings_for_containers() -> None:
    found = documents(kubeadm.init_documents(TRIAL))
    kubelet = found["KubeletConfiguration"]
    assert kubelet["failCgroupV1"] is False
    assert kubelet["featureGates"] == {"KubeletInUserNamespace": True}
    assert kubelet["imageGCLowThresholdPercent"] < kubelet["imageGCHighThresholdPercent"] == 100
    assert set(kubelet["evictionHard"].values()) == {"0%"}
    assert found["KubeProxyConfiguration"]["conntrack"] == {"maxPerCore": 0, "min": 0}
    ignored = ["SystemVerification"]
    registration = found["InitConfiguration"]["nodeRegistration"]
    assert registration["ignorePreflightErrors"] == ignored
    joining = documents(kubeadm.join_document(TRIAL))["JoinConfiguration"]
    assert joining["nodeRegistration"]["ignorePreflightErrors"][:1] == ignored


def test_kubeadm_documents_of_ordinary_site_have_no_settings_for_containers() -> None:
    text = kubeadm.init_documents(ORDINARY) + kubeadm.join_document(ORDINARY)
    words = ("failCgroupV1", "SystemVerification", "evictionHard", "conntrack", "featureGates")
    assert [word for word in words if word in text] == []


def test_trial_site_sets_only_sysctls_of_network_namespace() -> None:
    made = kernel.variables(TRIAL)["kernel_sysctls"]
    assert isinstance(made, dict)
    assert made == {name: 1 for name in kernel.SYSCTLS if name.startswith("net.")}
    assert kernel.variables(ORDINARY)["kernel_sysctls"] == kernel.SYSCTLS


@pytest.mark.parametrize(
    ("context", "before", "lowers"), [(ORDINARY, "", True), (TRIAL, "-", False)]
)
def test_containerd_of_trial_site_ignores_modules_and_oom_scores(
    context: Any, before: str, *, lowers: bool
) -> None:
    values = containerd.variables(context)
    unit = rendered("containerd", "containerd.service.j2", values)
    assert f"ExecStartPre={before}/usr/sbin/modprobe" in unit
    assert ("AssertPathIsMountPoint" in unit) is (not context.site.trial)
    config = rendered("containerd", "config.toml.j2", values)
    assert ("restrict_oom_score_adj = true" in config) is not lowers


def test_etcd_requires_mount_point_only_with_pool() -> None:
    assert "AssertPathIsMountPoint" in rendered("etcd", "etcd.service.j2", etcd.variables(ORDINARY))
    assert "AssertPathIsMountPoint" not in rendered(
        "etcd", "etcd.service.j2", etcd.variables(TRIAL)
    )


def test_trial_site_with_disks_requires_mount_points() -> None:
    site = replace(TRIAL.site, storage=Storage())
    here = replace(TRIAL, site=site)
    assert etcd.variables(here)["etcd_on_pool"] is True
    assert containerd.variables(here)["containerd_on_pool"] is True


def test_kubelet_of_trial_site_sees_bind_mounted_settings() -> None:
    files = {file["path"]: file["content"] for file in node.kubelet_files(TRIAL)}
    unit = files[f"/etc/systemd/system/{node.SETTINGS_UNIT_NAME}"]
    binds = [line.split()[-2:] for line in unit.splitlines() if "--bind" in line]
    assert {place: files[ours] for ours, place in binds} == {
        "/proc/sys/vm/overcommit_memory": "1\n",
        "/proc/sys/vm/panic_on_oom": "0\n",
        "/proc/sys/kernel/panic": "10\n",
        "/proc/sys/kernel/panic_on_oops": "1\n",
        "/proc/sys/kernel/keys/root_maxkeys": "1000000\n",
        "/proc/sys/kernel/keys/root_maxbytes": "25000000\n",
    }
    kubelet = files["/etc/systemd/system/kubelet.service"]
    assert kubelet.count(node.SETTINGS_UNIT_NAME) == 2
    ordinary = {file["path"]: file["content"] for file in node.kubelet_files(ORDINARY)}
    assert set(ordinary) < set(files)
    route = "/etc/systemd/system/keystone-service-route.service"
    assert "ip link add keystone-svc arp off type bridge" in files[route]
    assert "ip link add keystone-svc type dummy" in ordinary[route]
    assert "kernel-settings" not in ordinary["/etc/systemd/system/kubelet.service"]


@pytest.mark.parametrize("context", [ORDINARY, TRIAL])
def test_join_script_of_trial_site_has_option_trial(context: Any) -> None:
    config = join_config.parse(yaml.safe_load(join_config.dump(context)))
    assert config.site.trial is context.site.trial
    text = script.render(config, "a CA")
    compile(text, "join.py", "exec")
    assert ('["--trial"]' in text) is context.site.trial


def test_status_of_trial_site_says_so_first() -> None:
    now = dt.datetime.now(dt.UTC)
    for context, says in ((TRIAL, True), (ORDINARY, False)):
        first, *_ = screen.lines(Overview(context.site, {}, {}), (), now)
        assert ("trial" in first) is says


def state(seen: HostFacts) -> State:
    primers = TRIAL.site.primers
    hosts = {primer.name: replace(seen, name=primer.name) for primer in primers}
    return State(TRIAL.site, TRIAL.bundle, "b", "i", hosts, TrustFacts())


def test_storage_phase_makes_missing_folders_then_plans_to_nothing() -> None:
    before = state(replace(host(), folders=("/var/lib/etcd",)))
    (action,) = phases.prepare_storage(before)
    assert action.describe() == "p1 p2 p3: converge storage"
    assert not action.destructive
    inputs = {
        p.name: str(before.variables(p, "storage")["storage_inputs"]) for p in TRIAL.site.primers
    }
    every = tuple(
        folder["path"] for folder in before.variables(TRIAL.host, "storage")["storage_folders"]
    )  # type: ignore[attr-defined]
    done = {
        name: replace(seen, folders=every, roles={"storage": RoleFacts(inputs[name])})
        for name, seen in before.facts.items()
    }
    assert phases.prepare_storage(replace(before, facts=done)) == []
    gone = {**done, "p2": replace(done["p2"], folders=every[1:])}
    (again,) = phases.prepare_storage(replace(before, facts=gone))
    assert again.describe() == "p2: converge storage"
