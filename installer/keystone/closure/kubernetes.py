"""Find the images that this version of Kubernetes needs, from the kubeadm in the bundle."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from keystone import log, run
from keystone.closure.content import MACHINES
from keystone.closure.images import Question
from keystone.closure.sites import NOT_INSIDE
from keystone.cluster import kubeadm
from keystone.errors import ConfigurationError
from keystone.packager.charts.image_names import ImageName

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystone.bundle.model import Item
    from keystone.closure.content import Content
    from keystone.cluster.context import Context

STATIC_PODS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy")
REPOSITORY = "registry.k8s.io"
ELF_MACHINES = {0x3E: "amd64", 0xB7: "arm64"}
"""e_machine in an ELF header (gABI 4.1, "Machine")."""


def questions(content: Content, context: Context) -> Iterator[Question]:
    """The images by name and version, and those of `kubeadm config images list` if it runs here."""
    carried = [i for i in content.manifest.of_kind("binary") if i.name == "kubeadm"]
    for item in carried:
        version = kubeadm.version(content.manifest)
        for name in STATIC_PODS:
            image = ImageName.parse(f"{REPOSITORY}/{name}:{version}")
            yield Question(image, f"kubeadm {version}: static pods and kube-proxy", "kubernetes")
        for text in _listed(content, item, context):
            image = ImageName.parse(text)
            if image.tag != NOT_INSIDE:
                yield Question(image, f"kubeadm {version}: config images list", "kubernetes")


def _listed(content: Content, item: Item, context: Context) -> list[str]:
    if item.digest not in content.inside:
        return []
    with content.open(item.digest) as file:
        head = file.read(20)
    machine = MACHINES.get(os.uname().machine)
    if head[:4] == b"\x7fELF" and ELF_MACHINES.get(head[18] | head[19] << 8) != machine:
        log.warn(
            f"kubeadm {item.version} does not run on this machine: "
            "its list of images is not checked"
        )
        return []
    with content.file(item.digest, "kubeadm", 0o700) as program:
        documents = program.with_name("kubeadm.yaml")
        documents.write_text(kubeadm.init_documents(context))
        try:
            output = run.run([program, "config", "images", "list", "--config", documents]).stdout
        except (run.CommandError, OSError) as error:
            raise ConfigurationError(
                f"kubeadm in the bundle ({item.version}) does not list its images: {error}",
                hint="use the kubeadm that upstream publishes",
            ) from error
    return [line for line in output.split() if re.match(r"[\w.:-]+/", line)]
