"""References, locks, apt stanzas and mirrors: values in, values out."""

from __future__ import annotations

import pytest

from keystone.errors import ConfigurationError
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
    ],
)
def test_reference(text: str, parts: tuple[str, str, str]) -> None:
    found = Reference.parse(text)
    assert (found.host, found.repository, found.tag) == parts


@pytest.mark.parametrize(
    "text", ["busybox", "busybox:1", "library/busybox:1", "quay.io/a", "x.io/A:1"]
)
def test_reference_must_be_whole(text: str) -> None:
    with pytest.raises(ValueError, match="host/repository:tag"):
        Reference.parse(text)


def test_mirrors_rewrite_the_longest_prefix_at_a_boundary() -> None:
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


def test_plain_http_is_for_loopback_only() -> None:
    require_private("http://127.0.0.1:5000/x")
    require_private("https://dl.k8s.io/x")
    with pytest.raises(ConfigurationError, match="without TLS"):
        require_private("http://dl.k8s.io/x")


def test_deb_from_stanza_keeps_the_archive_s_file_name() -> None:
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
