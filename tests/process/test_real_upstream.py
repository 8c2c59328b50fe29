"""The lab with real upstreams, simulated by a registry and a file server: nothing is compiled."""

from __future__ import annotations

import hashlib
import json
import socket
import sys
import tarfile
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import yaml

from keystone import run
from keystone.errors import HostError, SourceError, WrongContentError
from keystone.lab import carry
from keystone.lab.mirror import catalogue, fileserver, golang, images, real, serve
from keystone.lab.mirror.upstream import Upstream
from keystone.lab.parts import Parts
from keystone.lab.settings import load
from keystone.packager.sources.upstream import Sources

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from keystone.lab.mirror.serve import Mirror

WHOLE = catalogue.load()
USUAL = WHOLE.usual()


def script(name: str) -> bytes:
    """Return a script that stands for one program; all differ."""
    return f"#!/bin/sh\necho {name}\n".encode()


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    """A mirror with everything that upstreams publish for the platform, as small scripts."""
    folder = tmp_path_factory.mktemp("upstream")
    programs = {}
    for name in USUAL.programs:
        programs[name] = folder / name
        programs[name].write_bytes(script(name))
    files = []
    for file in USUAL.files:
        path = folder / file.url.rpartition("/")[2]
        if file.members:
            images.archive(path, {member: programs[name] for member, name in file.members.items()})
        else:
            path = programs[file.name]
        files.append((file, path))
    blobs = folder / "blobs"
    made = []
    for image in USUAL.images:
        entries = [images.Entry(path, programs[name]) for path, name in image.files.items()]
        layer = images.layer(blobs, entries or [images.Entry("bin/sh", programs["pause"])])
        made.append((image, images.image(blobs, [layer], {"Cmd": [image.ref]})))
    with serve.serve(Upstream({}, tuple(files), tuple(made), blobs)) as running:
        yield running


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty user cache: compiled programs would be put there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_reachable_upstreams_are_used(mirror: Mirror) -> None:
    sources = real.sources_of(mirror.mirrors_file)
    addresses = real.addresses(USUAL, sources)
    assert set(addresses) == {"dl.k8s.io", "github.com", "get.helm.sh",
                          "registry.k8s.io", "ghcr.io", "docker.io"}  # fmt: skip
    assert real.unreachable(addresses, sources) == {}
    assert real.chosen("auto", USUAL, sources)
    assert real.chosen("real", USUAL, sources)
    assert not real.chosen("build", USUAL, sources)


def test_unreachable_upstream_is_named_and_everything_is_built(mirror: Mirror) -> None:
    """Programs are either all real or all built, never mixed."""
    mirrors = real.sources_of(mirror.mirrors_file).mirrors
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        sources = Sources({**mirrors, "ghcr.io": f"http://127.0.0.1:{closed.getsockname()[1]}"})
        assert not real.chosen("auto", USUAL, sources)
        with pytest.raises(HostError, match=r"do not answer: ghcr\.io: .*refused") as caught:
            real.chosen("real", USUAL, sources)
    assert "spec.upstream" in caught.value.hint


def test_upstream_without_the_image_is_unreachable(mirror: Mirror) -> None:
    mirrors = real.sources_of(mirror.mirrors_file).mirrors
    sources = Sources({**mirrors, "ghcr.io": f"http://{mirror.registry}/nowhere"})
    assert real.unreachable(real.addresses(USUAL, sources), sources) == {"ghcr.io": "HTTP 404"}


def test_silent_upstream_times_out() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        addresses = {"ghcr.io": f"http://127.0.0.1:{silent.getsockname()[1]}/v2/"}
        assert real.unreachable(addresses, Sources(), seconds=1) == {"ghcr.io": "no answer in 1 s"}


def test_bundle_is_locked_and_created_from_real_upstreams(
    mirror: Mirror, empty_cache: Path, tmp_path: Path
) -> None:
    document = carry.wanted()
    spec = {key: value for key, value in document["spec"].items()
            if key in ("number", "architectures", "images", "binaries")}  # fmt: skip
    lab = replace(load(), upstream="real", mirrors=mirror.mirrors_file)
    path = tmp_path / "platform.yaml"
    with carry.source(lab, {**document, "spec": spec}, path, Parts()) as (given, words):
        assert given == path
        assert words == ["--mirrors", str(mirror.mirrors_file)]
        keystone("bundle", "keys", "init", "--dir", str(tmp_path / "keys"), "--no-passphrase")
        locked = tmp_path / "platform.lock.json"
        keystone("bundle", "lock", str(given), *words, "-o", str(locked))
        keystone("bundle", "create", str(locked), *words, "-o", str(tmp_path / "offline.tar"),
                 "--keys", str(tmp_path / "keys"))  # fmt: skip
    published = {entry["url"]: entry["sha256"] for entry in yaml.safe_load(path.read_text())[
        "spec"]["binaries"]}  # fmt: skip
    assert set(published) == {file.url for file in USUAL.files}
    kubelet = next(file.url for file in USUAL.files if file.name == "kubelet")
    assert published[kubelet] == hashlib.sha256(script("kubelet")).hexdigest()
    items = json.loads(locked.read_text())["items"]
    assert {item["kind"] for item in items} >= {"image", "binary"}
    with tarfile.open(tmp_path / "offline.tar") as bundle:
        assert f"blobs/sha256/{published[kubelet]}" in bundle.getnames()
    assert not (empty_cache / "keystone" / "lab" / "upstream" / "programs").exists()


def keystone(*words: str) -> None:
    run.run([sys.executable, "-m", "keystone", *words], env=golang.passed_on())


@pytest.mark.parametrize("name", ["kubelet", "etcdctl", "runc"])
def test_program_is_taken_from_the_published_file(
    mirror: Mirror, empty_cache: Path, name: str
) -> None:
    """Cases: a file, a member of an archive, a file with another name."""
    found = real.program(WHOLE.program(name), WHOLE, real.sources_of(mirror.mirrors_file))
    assert found is not None
    assert found.is_relative_to(empty_cache)
    assert run.run([found]).stdout == f"{name}\n"
    assert real.program(WHOLE.program(name), WHOLE, unreachable()) == found


def test_program_published_as_single_file_is_taken(empty_cache: Path, tmp_path: Path) -> None:
    wanted = WHOLE.program("kube-apiserver")
    digest = hashlib.sha256(script("kube-apiserver")).hexdigest()
    with publishing(tmp_path, wanted.published, script("kube-apiserver"), digest) as sources:
        found = real.program(wanted, WHOLE, sources)
    assert found is not None
    assert found.is_relative_to(empty_cache)
    assert run.run([found]).stdout == "kube-apiserver\n"


@pytest.mark.usefixtures("empty_cache")
def test_program_only_in_an_image_is_not_published() -> None:
    assert real.program(WHOLE.program("coredns"), WHOLE, unreachable()) is None


@pytest.mark.parametrize(
    ("checksum", "error", "message"),
    [
        ("ab" * 32, WrongContentError, "expected sha256:abab"),
        (f"{'ab' * 32}  kubeadm", SourceError, r"kubelet\.sha256 has no SHA-256 of kubelet"),
    ],
    ids=["other bytes", "other name"],
)
def test_program_with_wrong_checksum_is_refused(
    empty_cache: Path, tmp_path: Path, checksum: str, error: type[Exception], message: str
) -> None:
    file = next(file for file in USUAL.files if file.name == "kubelet")
    with (
        publishing(tmp_path, file.url, script("kubelet"), checksum) as sources,
        pytest.raises(error, match=message),
    ):
        real.program(WHOLE.program("kubelet"), WHOLE, sources)
    assert [path for path in empty_cache.rglob("*") if path.is_file()] == []


@contextmanager
def publishing(folder: Path, url: str, content: bytes, checksum: str) -> Iterator[Sources]:
    """A file server with one file and its checksum file."""
    path = folder / "www" / url.removeprefix("https://")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    path.with_name(f"{path.name}.sha256").write_text(checksum)
    with fileserver.serve(folder / "www") as address:
        host = url.split("/")[2]
        yield Sources({f"https://{host}": f"http://{address}/{host}"})


def unreachable() -> Sources:
    """Sources that fail when used: nothing listens on the discard port."""
    hosts = {file.url.split("/")[2] for file in USUAL.files}
    return Sources({f"https://{host}": "http://127.0.0.1:9" for host in hosts})
