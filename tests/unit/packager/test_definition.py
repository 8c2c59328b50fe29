"""References, locks, apt stanzas and mirrors: values in, values out."""

from __future__ import annotations

import pytest

from keystone.errors import ConfigurationError
from keystone.packager import image_list
from keystone.packager.charts.discovery import Need
from keystone.packager.charts.image_names import ImageName
from keystone.packager.definition import Image, SignaturePolicy
from keystone.packager.sources import apt
from keystone.packager.sources.addresses import require_private
from keystone.packager.sources.oci import Reference
from keystone.packager.sources.upstream import Sources


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("registry.k8s.io/pause:3.10.1", ("registry.k8s.io", "pause", "3.10.1")),
        ("localhost:5000/a/b:v1", ("localhost:5000", "a/b", "v1")),
        (f"quay.io/a/b@sha256:{'0' * 64}", ("quay.io", "a/b", f"sha256:{'0' * 64}")),
        # Docker Hub stores images with a single part below library/, and has three names.
        ("docker.io/busybox:1.36", ("docker.io", "library/busybox", "1.36")),
        ("index.docker.io/library/busybox:1.36", ("docker.io", "library/busybox", "1.36")),
        ("registry-1.docker.io/team/app:v1", ("docker.io", "team/app", "v1")),
        ("quay.io/busybox:latest", ("quay.io", "busybox", "latest")),
    ],
)
def test_reference_is_parsed_into_host_repository_and_tag(
    text: str, parts: tuple[str, str, str]
) -> None:
    found = Reference.parse(text)
    assert (found.host, found.repository, found.tag) == parts


@pytest.mark.parametrize(
    "text",
    [
        "busybox",
        "busybox:1",
        "library/busybox:1",
        "quay.io/a",
        "x.io/A:1",
        "x.io:5000",
        "ghcr.io/x/y:\u00e9",
        "ghcr.io/../../x:1",
        "ghcr.io/x//y:1",
        "ghcr.io/x/y:1@sha256:0",
    ],
)
def test_incomplete_reference_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="host/repository:tag"):
        Reference.parse(text)


def test_all_names_of_docker_hub_are_the_same_registry() -> None:
    hub = "https://registry-1.docker.io/v2/library/busybox"
    for text in ("docker.io/busybox:1", "index.docker.io/library/busybox:1"):
        found = Reference.parse(text)
        assert Sources().registry(found.host, found.repository) == hub
        for key in ("docker.io", "index.docker.io/library"):
            mirrored = Sources({key: "https://proxy.example/hub"})
            address = mirrored.registry(found.host, found.repository)
            assert address.startswith("https://proxy.example/v2/hub/")
            assert address.endswith("/busybox")


def test_signature_policy_covers_all_spellings_of_an_image() -> None:
    name = Reference.parse("docker.io/busybox:1").name
    for pattern in ("docker.io/busybox", "docker.io/library/*", "index.docker.io/library/busybox"):
        assert SignaturePolicy((pattern,), ()).covers(name), pattern
    for pattern in ("docker.io/busy", "quay.io/*", "busybox"):
        assert not SignaturePolicy((pattern,), ()).covers(name), pattern


def test_docker_hub_image_of_definition_and_chart_is_listed_once() -> None:
    listed = Image(Reference.parse("docker.io/busybox:1.36"), "node")
    need = Need(ImageName.parse("busybox:1.36"), "web", "renders", "Job/a")
    (found,) = image_list.wanted((listed,), [(need, "")])
    assert str(found.reference) == "docker.io/library/busybox:1.36"


def test_longest_matching_mirror_prefix_is_replaced() -> None:
    sources = Sources(
        {
            "https://dl.k8s.io": "http://127.0.0.1:1/dl",
            "https://dl.k8s.io/release": "http://127.0.0.1:2",
            "registry.k8s.io": "http://127.0.0.1:5000/registry.k8s.io",
        }
    )
    assert sources.rewrite("https://dl.k8s.io/release/v1") == "http://127.0.0.1:2/v1"
    assert sources.rewrite("https://dl.k8s.io/other") == "http://127.0.0.1:1/dl/other"
    assert sources.rewrite("https://dl.k8s.io.evil/x") == "https://dl.k8s.io.evil/x"
    assert (
        sources.registry("registry.k8s.io", "pause")
        == "http://127.0.0.1:5000/v2/registry.k8s.io/pause"
    )
    assert sources.registry("docker.io", "library/a") == "https://registry-1.docker.io/v2/library/a"


def test_plain_http_is_refused_except_for_loopback() -> None:
    require_private("http://127.0.0.1:5000/x")
    require_private("https://dl.k8s.io/x")
    with pytest.raises(ConfigurationError, match="without TLS"):
        require_private("http://dl.k8s.io/x")


def test_deb_of_stanza_has_the_decoded_file_name() -> None:
    digest = "a" * 64
    stanza = (
        "Package: libstdc++6\nVersion: 14.2.0-19\nArchitecture: amd64\n"
        f"Filename: pool/main/g/gcc-14/libstdc++6_14.2.0-19_amd64.deb\nSize: 7\nSHA256: {digest}\n"
    )
    url = "http://archive/pool/main/g/gcc-14/libstdc%2b%2b6_14.2.0-19_amd64.deb"
    deb = apt.deb_of(stanza, url)
    assert deb.filename == "libstdc++6_14.2.0-19_amd64.deb"
    assert "Filename: ./libstdc++6_14.2.0-19_amd64.deb" in deb.control
    assert (deb.size, deb.digest.hex, deb.url) == (7, digest, url)
