"""Changes to a running control plane: the real kubeadm updates its static pods.

The role's script runs in a mount namespace with its own /etc; the program that waits for the API is
a fake.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from keystone.ansible.playbook import data_root
from keystone.cluster import kubeadm
from keystone.run import Result, run
from keystone.site.model import Patience

from .test_join_kubeadm import context, program

if TYPE_CHECKING:
    from pathlib import Path

    from keystone.cluster.context import Context

__all__ = ["program"]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a mount namespace needs root")

IN = (
    'mount --bind "$1/etc" /etc; mount --bind "$1/lib" /usr/local/lib; PATH="$1/bin:$PATH"; '
    "kube-apiserver -c 'read x' --advertise-address=10.244.1.9 < $1/fifo & "
    "kube-apiserver -c 'read x' --advertise-address=10.77.0.13 < $1/fifo & "
    'own=/proc/$!/comm; exec 9<> $1/fifo; echo "$own" > "$1/own"; '
    'until grep -qx kube-apiserver "$own"; do :; done; shift; "$@"'
)
"""The second API server is this host's; the first is in a pod, of a cluster in the cluster."""
MANIFESTS = "etc/kubernetes/manifests"


@pytest.fixture
def host(tmp_path: Path, program: Path) -> Path:
    """A second control plane's folders, with the role's script and the current manifests."""
    shutil.copytree("/etc", tmp_path / "etc", symlinks=True)
    for folder in ("bin", "lib/keystone", "etc/kubernetes/keystone/patches", MANIFESTS):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / "bin/kubeadm").symlink_to(program)
    values = {"control_plane_config": kubeadm.CONFIG, "control_plane_lock_seconds": 600}
    folder = data_root() / "roles/control_plane/templates"
    script = Environment(
        loader=FileSystemLoader(folder), undefined=StrictUndefined, trim_blocks=True
    )
    text = script.get_template("change.sh.j2").render({**values, "control_plane_first": False})
    place(tmp_path / "lib/keystone/change", text)
    place(tmp_path / "lib/keystone/wait-for-api", f'#!/bin/sh\necho "$@" > {tmp_path}/waited\n')
    shutil.copy2("/bin/sh", tmp_path / "bin/kube-apiserver")
    os.mkfifo(tmp_path / "fifo")
    write(tmp_path, context("normal", 3))
    inside(tmp_path, "kubeadm", "init", "phase", "control-plane", "all",
           "--config", f"{kubeadm.CONFIG}/kubeadm.yaml")  # fmt: skip
    return tmp_path


def place(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def write(host: Path, now: Context) -> None:
    (host / f"{kubeadm.CONFIG}/kubeadm.yaml".lstrip("/")).write_text(kubeadm.init_documents(now))


def inside(host: Path, *words: str) -> Result:
    return run(
        [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child",
            "sh",
            "-ec",
            IN,
            "sh",
            host,
            *words,
        ],
        timeout=120,
    )


def test_unchanged_configuration_leaves_the_manifests(host: Path) -> None:
    before = (host / MANIFESTS / "kube-apiserver.yaml").read_bytes()
    assert "keystone: changed" not in inside(host, "/usr/local/lib/keystone/change").stdout
    assert (host / MANIFESTS / "kube-apiserver.yaml").read_bytes() == before
    assert (host / "waited").read_text().split() == ["300"]


def test_changed_argument_updates_the_manifest_and_waits_for_the_restart(host: Path) -> None:
    here = context("normal", 3)
    write(host, replace(here, site=replace(here.site, patience=Patience("emulated"))))
    assert "keystone: changed" in inside(host, "/usr/local/lib/keystone/change").stdout
    manifest = (host / MANIFESTS / "kube-apiserver.yaml").read_text()
    assert "--etcd-healthcheck-timeout=60s" in manifest
    own = (host / "own").read_text().strip()
    assert (host / "waited").read_text().split() == ["300", own]
