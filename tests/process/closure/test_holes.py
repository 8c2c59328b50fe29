"""Missing things ("holes") of every kind in a bundle: each must be found, and nothing else.

Each batch makes several holes in one bundle. The test fails for a hole that is not found, and for a
finding that no hole of the batch explains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from keystone.closure.check import check
from keystone.closure.debs import Deb as ReadDeb
from keystone.closure.finding import KINDS, Finding

pytestmark = pytest.mark.slow

KERNEL = "6.12.1+deb13-amd64"
MEMORY: dict[str, ReadDeb] = {}


@dataclass(frozen=True)
class Change:
    """A change to a bundle. touches: names of the changed parts."""

    do: Callable[[Any], object]
    touches: frozenset[str]


@dataclass(frozen=True)
class Hole:
    """A change and the expected finding: its kind, a part of `missing`, a part of `asks`.

    also: other findings that follow from the change, as parts of "missing | asks".
    """

    change: Change
    kind: str
    missing: str
    asks: str
    also: tuple[str, ...] = ()

    def found(self, finding: Finding) -> bool:
        return (
            finding.kind == self.kind
            and self.missing in finding.missing
            and self.asks in finding.asks
        )

    def fits(self, other: Hole) -> bool:
        """Whether both can be in one bundle and neither hides the other."""
        return not (
            self.change.touches & other.change.touches
            or self.hides & other.needs
            or other.hides & self.needs
        )

    @property
    def hides(self) -> set[str]:
        """The parts of the check that this hole stops: apt's solver, its list, chart rendering."""
        hidden = (
            {"solver"}
            if self.kind in {"package", "package-list", "role-package", "unit", "kernel-module"}
            and not self.needs_solver
            else set()
        )
        if self.missing.startswith("the package list"):
            hidden.add("list")
        if self.kind in {"chart", "chart-dependency"}:
            hidden.add("plain" if "plain" in f"{self.asks} {self.change.touches}" else "operator")
        return hidden

    @property
    def needs(self) -> set[str]:
        needed = {"list"} if self.kind in {"package", "package-list", "unit"} else set()
        if self.needs_solver:
            needed.add("solver")
        if self.kind == "image" and "chart operator" in self.asks:
            needed.add("operator")
        if self.kind == "chart":
            needed |= self.hides
        return needed | ({"plain"} if self.asks in {"Pod/web", "file plain-0.1.0.tgz"} else set())

    @property
    def needs_solver(self) -> bool:
        return self.missing == "cannot be installed"

    def explains(self, finding: Finding) -> bool:
        text = f"{finding.missing} | {finding.asks}"
        same = finding.kind == self.kind and self.missing in finding.missing
        return same or any(part in text for part in self.also)


def drop(table: str, name: str) -> Change:
    return Change(lambda made: getattr(made, table).pop(name), frozenset({name}))


def rename(table: str, old: str, new: str) -> Change:
    def change(made: Any) -> None:
        entries = getattr(made, table)
        entries[new] = entries.pop(old)

    return Change(change, frozenset({old, new}))


def put(table: str, name: str, **fields: Any) -> Change:
    """Set fields of one image, deb or chart; a dict is merged into the existing one."""

    def change(made: Any) -> None:
        entry = getattr(made, table)[name]
        for key, value in fields.items():
            old = getattr(entry, key)
            setattr(entry, key, {**old, **value} if isinstance(value, dict) else value)

    return Change(change, frozenset({name}))


def edit(path: str, old: str, new: str) -> Change:
    """Replace text in a file of the roles or playbooks inside the installer."""

    def change(made: Any) -> None:
        assert old in made.roles[path], path
        made.roles[path] = made.roles[path].replace(old, new)

    return Change(change, frozenset({path}))


def append(path: str, text: str) -> Change:
    def change(made: Any) -> None:
        made.roles[path] = made.roles.get(path, "") + text

    return Change(change, frozenset({path}))


def chart(name: str, path: str, old: str, new: str) -> Change:
    def change(made: Any) -> None:
        files = made.charts[name].files
        assert old in files[path], path
        files[path] = files[path].replace(old, new)

    return Change(change, frozenset({f"chart {name} {path}"}))


def without(table: str, name: str, member: str) -> Change:
    """Remove a file from a deb or an archive."""

    def change(made: Any) -> None:
        entry = getattr(made, table)[name]
        del (entry.files if table == "debs" else entry[1])[member]

    return Change(change, frozenset({name}))


def beside(*names: str) -> Change:
    """No change: marks these things as touched by the hole too."""
    return Change(lambda _: None, frozenset(names))


def many(*changes: Change) -> Change:
    def change(made: Any) -> None:
        for one in changes:
            one.do(made)

    return Change(change, frozenset().union(*(one.touches for one in changes)))


def image_holes() -> list[Hole]:
    found = []
    kube = "registry.k8s.io/"
    for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy"):
        ref = f"{kube}{name}:v1.37.2"
        found.append(Hole(drop("images", ref), "kubernetes", ref, "kubeadm v1.37.2"))
        found.append(
            Hole(
                rename("images", ref, f"{kube}{name}:v1.37.1"),
                "kubernetes",
                f"{ref} (in the bundle: v1.37.1)",
                "kubeadm v1.37.2",
            )
        )
    for name, role in {
        "docker.io/library/busybox:1.37": "addons",
        "docker.io/rancher/local-path-provisioner:v0.0.30": "addons",
        "ghcr.io/flannel-io/flannel-cni-plugin:v1.9.1-flannel1": "addons",
        "ghcr.io/flannel-io/flannel:v0.28.4": "addons",
        "registry.k8s.io/coredns/coredns:v1.14.6": "addons",
        "registry.k8s.io/pause:3.10.2": "containerd",
    }.items():
        plain = name.rpartition(":")[0]
        found.append(
            Hole(
                drop("images", name),
                "item",
                f"image {plain}",
                f"role {role}",
                (f"{name} | kubeadm",),
            )
        )
    parts = {
        "root": "its manifest",
        "manifest amd64": "its manifest for linux/amd64",
        "config": "its config",
        "layer": "its layer 1",
    }
    refs = [
        "kube-apiserver:v1.37.2",
        "kube-proxy:v1.37.2",
        "pause:3.10.2",
        "kube-scheduler:v1.37.2",
    ]
    found += [
        Hole(put("images", name, lost={part}), "image-content", f"{says} sha256:", f"image {name}")
        for ref, (part, says) in zip(refs, parts.items(), strict=True)
        for name in (f"{kube}{ref}", "registry.example/op/job:v1", "quay.io/plain/web:v2")
    ]
    urls = {"urls": ["https://elsewhere.example/layer"]}
    foreign = {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}
    for layer, name in (
        (urls, "registry.example/op/hook:v1"),
        (foreign, "docker.io/library/redis:7.4"),
    ):
        found.append(
            Hole(
                put("images", name, layer=layer),
                "image-content",
                "fetched from another place",
                f"image {name}",
            )
        )
    return found


def chart_holes() -> list[Hole]:
    found = []
    asks = {
        "operator:v1.2.0": "Deployment/operator",
        "init:v1.2.0": "Deployment/operator",
        "agent:v1.2.0": "DaemonSet/agent",
        "solver:v1.2.0": "Deployment/operator",
        "reloader:v1.2.0": "Deployment/operator",
        "related:v1.2.0": "Deployment/operator",
        "instance:16.4": "Cluster/db",
        "helper:v3": "ConfigMap/helper",
        "job:v1": "Job/job",
        "hook:v1": "Job/hook",
        "default:v9": "CustomResourceDefinition/clusters.db.example.com",
        "volume:v1": "Deployment/operator",
        "cron:v1": "CronJob/cron",
        "migrate:v1": "Job/migrate",
        "note:v5": "annotation: artifacthub.io/images",
        "hip:v6": "annotation: helm.sh/images",
    }
    for ref, where in asks.items():
        name = f"registry.example/op/{ref}"
        found.append(
            Hole(drop("images", name), "image", name, f"chart operator 1.2.0: {_how(where)}")
        )
    for name, who in (
        ("docker.io/library/redis:7.4", "chart operator"),
        ("quay.io/plain/web:v2", "file plain-0.1.0.tgz"),
    ):
        old = rename("images", name, f"{name}-old")
        found.append(
            Hole(old, "image", f"{name} (in the bundle: {name.rpartition(':')[2]}-old)", who)
        )
    split = "registry.example/op/split:2.0"
    found.append(
        Hole(
            put("images", split, salt="rebuilt"),
            "image",
            "registry.example/op/split@sha256:",
            "Deployment/carried",
        )
    )
    found.append(
        Hole(
            drop("images", "registry.example/op/manifest:v1"),
            "image",
            "registry.example/op/manifest:v1",
            "file extra.yaml: Deployment/carried",
        )
    )
    wrong = "a" * 64
    pinned = chart(
        "plain",
        "templates/web.yaml",
        "quay.io/plain/web:v2",
        f"quay.io/plain/web:v2@sha256:{wrong}",
    )
    found.append(Hole(pinned, "image", f"{wrong} (in the bundle, v2 is sha256:", "Pod/web"))
    redis = "charts/redis/Chart.yaml"
    found += [
        Hole(
            chart("operator", redis, "name: redis", "name: valkey"),
            "chart-dependency",
            "chart redis 7.4.0",
            "chart operator 1.2.0: Chart.yaml of operator",
        ),
        Hole(
            chart("operator", redis, "7.4.0", "7.3.9"),
            "chart-dependency",
            "chart redis 7.4.0 (in the bundle: 7.3.9)",
            "chart operator 1.2.0",
        ),
        Hole(
            chart(
                "operator",
                redis,
                "7.4.0",
                "7.4.0\ndependencies:\n  - {name: common, version: 2.x.x, repository: ''}",
            ),
            "chart-dependency",
            "chart common 2.x.x",
            "Chart.yaml of operator/charts/redis",
        ),
        Hole(
            chart(
                "plain",
                "Chart.yaml",
                "0.1.0",
                "0.1.0\ndependencies:\n"
                "  - {name: base, version: '>=1', repository: 'https://c.example'}",
            ),
            "chart-dependency",
            "chart base >=1",
            "file plain-0.1.0.tgz",
        ),
        Hole(
            chart(
                "plain",
                "templates/web.yaml",
                "name: web}",
                "name: '{{ required \"host!\" .Values.h }}'}",
            ),
            "chart",
            "host!",
            "file plain-0.1.0.tgz",
        ),
        Hole(
            Change(lambda made: made.charts["operator"].values.pop(1), frozenset()),
            "chart",
            "values 1 of chart operator",
            "chart operator 1.2.0",
        ),
        Hole(
            chart(
                "operator",
                "Chart.yaml",
                "- name: note\n      image:",
                "- name: note\n      picture:",
            ),
            "chart",
            "the chart does not render: chart operator 1.2.0: annotation artifacthub.io/images",
            "chart operator 1.2.0",
        ),
    ]
    return found


def _how(where: str) -> str:
    return where if where.startswith("annotation") else f"renders: {where}"


def package_holes() -> list[Hole]:
    found = []
    needed = {
        "ucf": "chrony",
        "adduser": "chrony",
        "libzfs6linux": "zfsutils-linux",
        "python3-cffi-backend": "python3-pyzfs",
        "nginx-common": "nginx",
        "libxtables12": "iptables",
        "libnetfilter-conntrack3": "conntrack",
        "libcap2-bin": "iproute2",
    }
    names = {"python3-cffi-backend": "python3-cffi-backend-api-max"}
    also = {
        "ucf": ("ucf (package ucf)",),
        "adduser": ("adduser (package adduser)",),
        "libcap2-bin": ("setcap (package libcap2-bin)",),
        "nginx-common": ("nginx.service | role",),
    }
    for name, asks in needed.items():
        found.append(
            Hole(
                many(drop("debs", name), beside(asks)),
                "package",
                f"package {names.get(name, name)}",
                f"package {asks} ",
                also.get(name, ()),
            )
        )
    older = {
        "libzfs6linux": ("2.3.8-0", "zfsutils-linux"),
        "libnetfilter-conntrack3": ("0.9", "conntrack"),
        "nginx-common": ("1.26.3-2", "nginx"),
        "libxtables12": ("1.0-2", "iptables"),
    }
    for name, (version, asks) in older.items():
        older_one = many(put("debs", name, version=version), beside(asks))
        found.append(Hole(older_one, "package", f"package {name} (", asks))
    no_virtual = put("debs", "debconf", fields={"Provides": ""})
    found += [
        Hole(
            many(no_virtual, put("debs", "ucf", fields={"Depends": "debconf-2.0"})),
            "package",
            "package debconf-2.0",
            "package ucf",
        ),
        Hole(
            put("debs", "socat", fields={"Depends": "libwrap0 (>= 7) | tcpd"}),
            "package",
            "package libwrap0 (>= 7) | tcpd",
            "package socat",
        ),
        Hole(
            put("debs", "kmod", fields={"Pre-Depends": "libkmod2"}),
            "package",
            "package libkmod2",
            "Pre-Depends",
        ),
        Hole(
            many(put("debs", "libxtables12", architecture="arm64"), beside("iptables")),
            "package",
            "package libxtables12",
            "package iptables",
        ),
        Hole(
            many(put("debs", "socat", fields={"Conflicts": "kmod"}), beside("kmod")),
            "package",
            "cannot be installed",
            "group node",
            ("apt finds no solution: ", "cannot be installed"),
        ),
        Hole(
            put("debs", "socat", lost=True),
            "package-list",
            "socat_1.0-1_amd64.deb",
            "package list of trixie",
        ),
        Hole(
            put("debs", "nvme-cli", stanza={"SHA256": "b" * 64}),
            "package-list",
            "nvme-cli_2.13-2_amd64.deb with SHA-256 bbb",
            "package list of trixie",
        ),
        Hole(
            put("debs", "iptables", listed=False),
            "package-list",
            "the entry of iptables_1.0-1_amd64.deb",
            "deb iptables",
        ),
        Hole(
            put("debs", "haproxy", stanza={"Depends": ""}),
            "package-list",
            "Depends: libc6 (>= 2.38)",
            "the list has nothing",
        ),
        Hole(
            put("debs", "chrony", stanza={"Pre-Depends": "ucf"}),
            "package-list",
            "Pre-Depends: adduser",
            "the list has ucf",
        ),
        Hole(
            Change(lambda made: setattr(made, "package_list", False), frozenset()),
            "package-list",
            "the package list of trixie",
            "packages",
        ),
    ]
    scripts = {
        "update-initramfs -u": ("update-initramfs (package initramfs-tools)", "kmod"),
        "[ -d /x ] && dkms autoinstall": ("dkms (package dkms)", "socat"),
        "if pam-auth-update --package; then :; fi": (
            "pam-auth-update (package libpam-runtime)",
            "nvme-cli",
        ),
        "/usr/bin/update-mime-database /x": (
            "update-mime-database (package shared-mime-info)",
            "haproxy",
        ),
        "udevadm trigger": ("udevadm (package udev)", "iptables"),
        "update-binfmts --import x": ("update-binfmts (package binfmt-support)", "conntrack"),
    }
    for line, (missing, name) in scripts.items():
        script = {"postinst": f"#!/bin/sh\nset -e\n# dkms, openssl\n{line}\n"}
        found.append(Hole(put("debs", name, scripts=script), "tool", missing, f"deb {name}"))
    confmodule = without("debs", "debconf", "/usr/share/debconf/confmodule")
    found.append(
        Hole(
            many(confmodule, beside("ucf")),
            "tool",
            "debconf's confmodule (package debconf)",
            "deb ucf 3.0052: its postinst",
        )
    )
    installed = ("chrony", "nvme-cli", "python3-pyzfs", "zfsutils-linux", "haproxy", "nginx")
    for name in (*installed, "clevis", "tang"):
        follows = {
            "chrony": ("chrony.service | role time", "chronyd | role time"),
            "zfsutils-linux": (
                "zfsutils-linux | package python3-pyzfs",
                "zfs.target",
                "zfs-mount",
                "zfs-import-cache",
            ),
            "haproxy": ("haproxy.service | role endpoint",),
            "tang": ("tangd.socket | role seal", "tangd-keygen | role seal"),
        }
        found.append(
            Hole(
                drop("debs", name),
                "role-package",
                f"package {name} (amd64)",
                "role ",
                follows.get(name, ()),
            )
        )
    return found


def host_holes() -> list[Hole]:
    found = []
    etcd = "etcd-v3.6.16-linux-amd64"
    for name, role in (
        ("kubelet", "control_plane"),
        ("kubectl", "control_plane"),
        ("containerd", "containerd"),
        ("runc", "containerd"),
        ("etcd", "etcd"),
        ("cni-plugins", "containerd"),
        ("registry", "registry"),
    ):
        found.append(Hole(drop("binaries", name), "item", f"binary {name}", f"role {role}"))
    for name, members, role in (
        ("containerd", ("bin/containerd", "bin/containerd-shim-runc-v2", "bin/ctr"), "containerd"),
        ("cni-plugins", ("bridge", "host-local", "loopback", "portmap"), "containerd"),
        ("etcd", (f"{etcd}/etcd", f"{etcd}/etcdctl", f"{etcd}/etcdutl"), "etcd"),
        ("registry", ("registry",), "registry"),
    ):
        found += [
            Hole(
                without("binaries", name, member),
                "file",
                f"{member} in binary {name}",
                f"role {role}",
            )
            for member in members
        ]
    units = "/usr/lib/systemd/system"
    for name, unit, role in (
        ("chrony", "chrony.service", "time"),
        ("nginx-common", "nginx.service", "mirror"),
        ("haproxy", "haproxy.service", "endpoint"),
        ("tang", "tangd.socket", "seal"),
        ("zfsutils-linux", "zfs.target", "storage"),
        ("zfsutils-linux", "zfs-mount.service", "storage"),
        ("zfsutils-linux", "zfs-import-cache.service", "storage"),
    ):
        found.append(Hole(without("debs", name, f"{units}/{unit}"), "unit", unit, f"role {role}"))
    service = "roles/containerd/templates/containerd.service.j2"
    found += [
        Hole(
            without("debs", "iproute2", "/sbin/ip"),
            "program",
            "/usr/sbin/ip",
            "keystone-service-route.service",
        ),
        Hole(
            without("debs", "kmod", "/sbin/modprobe"),
            "program",
            "/usr/sbin/modprobe",
            "containerd.service",
            ("modprobe | role storage",),
        ),
        Hole(
            without("debs", "systemd", "/usr/lib/systemd/systemd-sysctl"),
            "program",
            "/usr/lib/systemd/systemd-sysctl",
            "role containerd",
        ),
        Hole(without("debs", "chrony", "/usr/sbin/chronyd"), "program", "chronyd", "role time"),
        Hole(
            edit(
                service,
                "ExecStart=/usr/local/bin/containerd",
                "ExecStart=/usr/local/bin/containerdd",
            ),
            "program",
            "/usr/local/bin/containerdd",
            "role containerd",
        ),
        Hole(
            edit("roles/node/templates/join.sh.j2", "set -eu", "set -eu\njq . /x | tee /y"),
            "program",
            "jq",
            "role node: /usr/local/lib/keystone/join-node",
        ),
        Hole(
            edit(
                "roles/etcd/templates/etcd.service.j2",
                "[Unit]",
                "[Unit]\nRequires=lvm2-monitor.service",
            ),
            "unit",
            "lvm2-monitor.service",
            "role etcd: /etc/systemd/system/etcd.service",
        ),
        Hole(
            many(
                edit(
                    "roles/containerd/templates/config.toml.j2",
                    "{{ containerd_sandbox_image }}",
                    "registry.k8s.io/pause:3.8",
                ),
                beside("registry.k8s.io/pause:3.10.2"),
            ),
            "image",
            "registry.k8s.io/pause:3.8 (in the bundle: 3.10.2)",
            "role containerd: /etc/containerd/config.toml: ",
        ),
        Hole(
            edit(
                "roles/addons/templates/flannel.yaml.j2",
                "image: {{ addons_images.flannel_plugin }}",
                "image: ghcr.io/flannel-io/flannel-cni-plugin:v1.0",
            ),
            "image",
            "ghcr.io/flannel-io/flannel-cni-plugin:v1.0",
            "DaemonSet/kube-flannel/kube-flannel-ds",
        ),
        Hole(
            many(
                edit(
                    "roles/addons/templates/storage.yaml.j2",
                    "{{ addons_images.busybox }}",
                    "busybox",
                ),
                beside("docker.io/library/busybox:1.37"),
            ),
            "image",
            "docker.io/library/busybox:latest (in the bundle: 1.37)",
            "ConfigMap/local-path-storage",
        ),
        Hole(
            put(
                "debs",
                f"zfs-modules-{KERNEL}",
                files={
                    f"/lib/modules/{KERNEL}/updates/{name}.ko": b"\0vermagic=6.1.0-9-amd64 SMP\0"
                    for name in ("zfs", "spl")
                },
            ),
            "kernel-module",
            f"modules for kernel {KERNEL} (found: 6.1.0-9-amd64)",
            "deb zfs-modules",
            ("zfs-modules for kernel",),
        ),
        Hole(
            put("debs", f"zfs-modules-{KERNEL}", kernel="6.12.9+deb13-amd64"),
            "kernel-module",
            f"modules for kernel 6.12.9+deb13-amd64 (found: {KERNEL})",
            "deb zfs-modules",
            ("for kernel",),
        ),
        Hole(
            many(
                put(
                    "debs", f"linux-image-{KERNEL}", files={"/boot/vmlinuz-6.12.2+deb13-amd64": b""}
                ),
                put("debs", f"zfs-modules-{KERNEL}"),
            ),
            "kernel-module",
            "zfs-modules for kernel 6.12.2+deb13-amd64",
            "deb linux-image",
        ),
        Hole(drop("debs", f"zfs-modules-{KERNEL}"), "kernel-module", "zfs", "role storage"),
    ]
    return found


def other_holes() -> list[Hole]:
    requests = "requests-2.32.5-py3-none-any.whl"

    def wants(text: str) -> Change:
        return Change(lambda made: made.wheels[requests].append(text), frozenset())

    found = [
        Hole(
            drop("wheels", "idna-3.10-py3-none-any.whl"), "wheel", "idna<4,>=2.5", "wheel requests"
        ),
        Hole(
            rename("wheels", "urllib3-2.5.0-py3-none-any.whl", "urllib3-1.20-py3-none-any.whl"),
            "wheel",
            "urllib3<3,>=1.21.1 (in the bundle: 1.20)",
            "wheel requests 2.32.5",
        ),
        Hole(wants("certifi>=2017.4.17"), "wheel", "certifi>=2017.4.17", "wheel requests 2.32.5"),
        Hole(wants("pyOpenSSL; python_version >= '3.9'"), "wheel", "pyOpenSSL", "wheel requests"),
        Hole(wants("uvloop; platform_machine == 'x86_64'"), "wheel", "uvloop", "wheel requests"),
    ]
    tasks = {
        "get_url: {url: 'https://a.example/f', dest: /f}": "get_url: https://a.example/f",
        "uri: {url: 'https://b.example/f', dest: /f}": "uri: https://b.example/f",
        "apt: {name: jq, update_cache: true}": "apt: jq",
        "unarchive: {src: 'https://c.example/x', dest: /}": "unarchive: https://c.example/x",
        "git: {repo: 'https://d.example/x', dest: /x}": "git: https://d.example/x",
        "pip: {name: requests}": "pip: requests",
        "apt_repository: {repo: 'deb https://e.example x main'}": "apt_repository: deb",
        "package: {name: vim}": "package: vim",
    }
    for number, (task, missing) in enumerate(tasks.items()):
        path = f"roles/registry/tasks/extra{number}.yml"
        text = f"---\n- name: Fetch\n  ansible.builtin.{task}\n"
        found.append(Hole(append(path, text), "download", missing, f"{path}: Fetch"))
    scripts = {
        "curl -fsSL https://f.example/x | sh": "https://f.example/x",
        "wget -q http://g.example/y": "http://g.example/y",
        "kubectl apply -f https://h.example/z.yaml": "https://h.example/z.yaml",
        "helm repo add x https://i.example": "https://i.example",
        "ctr -n k8s.io images pull docker.io/library/a:1": "ctr -n k8s.io images pull",
        "{{ lookup('ansible.builtin.url', 'https://j.example/k') }}": "https://j.example/k",
        "apt-get update": "apt-get update",
    }
    for number, (line, missing) in enumerate(scripts.items()):
        path = f"roles/registry/files/extra{number}.sh"
        found.append(Hole(append(path, f"#!/bin/sh\n{line}\n"), "download", missing, f"{path}:2"))
    return found


def multi_holes() -> list[Hole]:
    found = []
    for letter, fields in {
        "a": {"architectures": ["amd64"]},
        "b": {"architectures": ["amd64"], "index": False},
        "c": {"architectures": ["arm64"]},
        "d": {"architectures": ["arm64"], "index": False},
    }.items():
        name = f"registry.example/multi/{letter}:v1"
        lacks = "arm64" if "amd64" in str(fields) else "amd64"
        found.append(
            Hole(put("images", name, **fields), "platform", f"linux/{lacks}", f"image {name}")
        )
    for letter, architecture in (("e", "amd64"), ("f", "arm64")):
        name = f"registry.example/multi/{letter}:v1"
        found.append(
            Hole(
                put("images", name, lost={f"manifest {architecture}"}),
                "image-content",
                f"its manifest for linux/{architecture}",
                f"image {name}",
            )
        )
    found += [
        Hole(
            drop("debs", "shared"),
            "package",
            "package shared",
            f"package {name} 1.0-1 (trixie, {a})",
        )
        for name, a in (("one", "amd64"), ("two", "arm64"))
    ]
    return found


def batches() -> list[list[Hole]]:
    """Batches in which no two holes touch the same thing or hide each other."""
    dealt: list[list[Hole]] = []
    for hole in [*image_holes(), *chart_holes(), *package_holes(), *host_holes(), *other_holes()]:
        batch = next((b for b in dealt if all(map(hole.fits, b))), None)
        if batch is None:
            dealt.append(batch := [])
        batch.append(hole)
    return dealt


def compare(made: Any, holes: list[Hole]) -> None:
    for hole in holes:
        hole.change.do(made)
    report = check(made.content(), MEMORY)
    lost = [hole for hole in holes if not any(map(hole.found, report.findings))]
    false = [f for f in report.findings if not any(hole.explains(f) for hole in holes)]
    assert ([(h.kind, h.missing, h.asks) for h in lost], false) == ([], [])


def test_complete_bundle_has_no_findings(complete: Any, small: Any) -> None:
    for made in (complete, small):
        assert check(made.content(), MEMORY).findings == ()


@pytest.mark.parametrize("number", range(len(batches())))
def test_every_missing_thing_is_found(complete: Any, number: int) -> None:
    compare(complete, batches()[number])


@pytest.mark.parametrize("number", range(len(multi_holes())))
def test_missing_platform_or_part_is_found(small: Any, number: int) -> None:
    compare(small, [multi_holes()[number]])


def test_cases_cover_every_kind_of_finding() -> None:
    kinds = Counter(hole.kind for batch in [*batches(), multi_holes()] for hole in batch)
    assert set(kinds) == set(KINDS)
    assert sum(kinds.values()) >= 100
