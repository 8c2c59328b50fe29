"""The role registry on a Primer: the bundle's images, read-only."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from testinfra.host import Host

HOST = "https://127.0.0.1:5000"
ACCEPT = (
    *("--header", "Accept: application/vnd.oci.image.index.v1+json"),
    *("--header", "Accept: application/vnd.oci.image.manifest.v1+json"),
)


def test_catalog_has_images_under_their_upstream_names(http_get: Callable[..., str]) -> None:
    catalog = json.loads(http_get(f"{HOST}/v2/_catalog?n=1000"))["repositories"]
    assert "registry.k8s.io/kube-apiserver" in catalog
    assert "docker.io/library/busybox" in catalog


def test_tag_resolves_to_a_manifest(http_get: Callable[..., str]) -> None:
    name = f"{HOST}/v2/registry.k8s.io/pause"
    (tag,) = json.loads(http_get(f"{name}/tags/list"))["tags"]
    manifest = http_get(f"{name}/manifests/{tag}", *ACCEPT)
    assert json.loads(manifest)["schemaVersion"] == 2


def test_push_is_refused(http_status: Callable[..., str]) -> None:
    assert http_status(f"{HOST}/v2/mine/blobs/uploads/", "--request", "POST") == "405"


def test_request_without_tls_is_refused(http_status: Callable[..., str]) -> None:
    assert http_status(f"{HOST}/v2/".replace("https", "http")) == "400"


def test_registry_does_not_run_as_root(host: Host) -> None:
    assert host.process.get(comm="registry").user != "root"


def test_registry_is_enabled(host: Host) -> None:
    assert host.service("keystone-registry").is_enabled
