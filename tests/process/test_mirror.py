"""The upstream mirror with a real registry serves the declared images and files."""

from __future__ import annotations

import hashlib
import http.client
import json
from typing import TYPE_CHECKING

import pytest
import yaml

from keystone.lab.mirror import catalogue, images, serve
from keystone.lab.mirror.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystone.lab.mirror.serve import Mirror

PROGRAM = b"#!/bin/sh\necho pause\n" * 1000
PAUSE = "registry.k8s.io/pause"


def get(address: str, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    """A mirror with one image and one file, made from a small script, with the real registry."""
    kept = catalogue.load().only(["kubelet", f"{PAUSE}:3.10.2"])
    folder = tmp_path_factory.mktemp("upstream")
    program, blobs = folder / "pause", folder / "blobs"
    program.write_bytes(PROGRAM)
    layer = images.layer(blobs, [images.Entry("pause", program)])
    built = images.image(blobs, [layer], {"Cmd": ["/pause"]})
    content = Upstream({}, ((kept.files[0], program),), ((kept.images[0], built),), blobs)
    with serve.serve(content) as running:
        yield running


def test_every_blob_is_reachable_from_the_tag(serving: Mirror) -> None:
    status, index = get(serving.registry, f"/v2/{PAUSE}/manifests/3.10.2", Accept=images.INDEX)
    assert status == http.client.OK
    digest = json.loads(index)["manifests"][0]["digest"]
    status, body = get(serving.registry, f"/v2/{PAUSE}/manifests/{digest}", Accept=images.MANIFEST)
    assert status == http.client.OK
    manifest = json.loads(body)
    for descriptor in (manifest["config"], *manifest["layers"]):
        status, data = get(serving.registry, f"/v2/{PAUSE}/blobs/{descriptor['digest']}")
        assert (status, len(data)) == (http.client.OK, descriptor["size"])
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == descriptor["digest"]


def test_push_is_refused(serving: Mirror) -> None:
    status, _ = get(serving.registry, f"/v2/{PAUSE}/blobs/uploads/", method="POST")
    assert status == http.client.METHOD_NOT_ALLOWED


def test_unknown_tag_and_file_are_not_found(serving: Mirror) -> None:
    assert get(serving.registry, f"/v2/{PAUSE}/manifests/3.9")[0] == http.client.NOT_FOUND
    assert get(serving.files, "/dl.k8s.io/release/")[0] == http.client.NOT_FOUND
    assert get(serving.files, "/dl.k8s.io/../../registry.yaml")[0] == http.client.NOT_FOUND


def test_file_checksum_and_range_are_served(serving: Mirror) -> None:
    path = "/dl.k8s.io/release/v1.37.2/bin/linux/amd64/kubelet"
    assert get(serving.files, path) == (http.client.OK, PROGRAM)
    digest = hashlib.sha256(PROGRAM).hexdigest().encode()
    assert get(serving.files, f"{path}.sha256") == (http.client.OK, digest)
    part = get(serving.files, path, Range="bytes=100-")
    assert part == (http.client.PARTIAL_CONTENT, PROGRAM[100:])
    beyond = get(serving.files, path, Range=f"bytes={len(PROGRAM)}-")
    assert beyond[0] == http.client.REQUESTED_RANGE_NOT_SATISFIABLE


def test_mirrors_document_contains_the_running_addresses(serving: Mirror) -> None:
    mirrors = yaml.safe_load(serving.mirrors_file.read_text())["spec"]["mirrors"]
    assert mirrors["registry.k8s.io"] == f"http://{serving.registry}/registry.k8s.io"
    assert mirrors["https://dl.k8s.io"] == f"http://{serving.files}/dl.k8s.io"
