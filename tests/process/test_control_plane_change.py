"""A control plane that runs already: its static pods get what has changed, by the real kubeadm.

The role's own script, in a mount namespace with an /etc of its own; who waits for the API is
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
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a mount namespace is root's")

IN = (
    'mount --bind "$1/etc" /etc; mount --bind "$1/lib" /usr/local/lib; PATH="$1/bin:$PATH"; '
    "kube-apiserver -c 'read x' --advertise-address=10.244.1.9 < $1/fifo & "
    "kube-apiserver -c 'read x' --advertise-address=10.77.0.13 < $1/fifo & "
    'own=/proc/$!/comm; exec 9<> $1/fifo; echo "$own" > "$1/own"; '
    'until grep -qx kube-apiserver "$own"; do :; done; shift; "$@"'
)
"""The second is this host's; the first is a pod's, of a cluster in the cluster."""
MANIFESTS = "etc/kubernetes/manifests"


@pytest.fixture
def host(tmp_path: Path, program: Path) -> Path:
    """A second control plane's folders, with the script of its role and manifests of that time."""
    shutil.copytree("/etc", tmp_path / "etc", symlinks=True)
    for folder in ("bin", "lib/keystone", "etc/kubernetes/keystone/patches", MANIFESTS):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / "bin/kubeadm").symlink_to(program)
    told = {"control_plane_config": kubeadm.CONFIG, "control_plane_lock_seconds": 600}
    folder = data_root() / "roles/control_plane/templates"
    script = Environment(
        loader=FileSystemLoader(folder), undefined=StrictUndefined, trim_blocks=True
    )
    text = script.get_template("change.sh.j2").render({**told, "control_plane_first": False})
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


def test_nothing_new_starts_nothing_anew(host: Path) -> None:
    before = (host / MANIFESTS / "kube-apiserver.yaml").read_bytes()
    assert "keystone: changed" not in inside(host, "/usr/local/lib/keystone/change").stdout
    assert (host / MANIFESTS / "kube-apiserver.yaml").read_bytes() == before
    assert (host / "waited").read_text().split() == ["300"]


def test_a_new_argument_reaches_the_api_server_and_its_start_is_waited_for(host: Path) -> None:
    here = context("normal", 3)
    write(host, replace(here, site=replace(here.site, patience=Patience("emulated"))))
    assert "keystone: changed" in inside(host, "/usr/local/lib/keystone/change").stdout
    manifest = (host / MANIFESTS / "kube-apiserver.yaml").read_text()
    assert "--etcd-healthcheck-timeout=60s" in manifest
    own = (host / "own").read_text().strip()
    assert (host / "waited").read_text().split() == ["300", own]
