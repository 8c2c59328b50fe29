"""What the upstream mirror decides: the catalogue, names in the cache, bytes of layers."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
import yaml

from keystone.errors import UsageError
from keystone.lab import catalogue, golang, images, mirror
from keystone.lab.fileserver import span
from keystone.lab.upstream import Upstream

ROOT = Path(__file__).parents[2]
WHOLE = catalogue.load()
PLATFORM = yaml.safe_load((ROOT / "bundles" / "platform.yaml").read_text())["spec"]


def test_mirror_holds_every_image_of_the_platform() -> None:
    assert {entry["ref"] for entry in PLATFORM["images"]} == {image.ref for image in WHOLE.images}


def test_mirror_holds_every_file_of_the_platform() -> None:
    wanted = {(entry["name"], entry["url"]) for entry in PLATFORM["binaries"]}
    assert wanted == {(file.name, file.url) for file in WHOLE.files}


@pytest.mark.parametrize("file", WHOLE.files, ids=lambda file: file.name)
def test_urls_say_the_version_that_is_built(file: catalogue.File) -> None:
    versions = {WHOLE.programs[name].version for name in file.programs}
    assert len(versions) == 1
    assert versions.pop().removeprefix("v") in file.url


@pytest.mark.parametrize(
    "program",
    [program for program in WHOLE.programs.values() if not program.package.endswith(".c")],
    ids=lambda program: program.name,
)
def test_modules_require_the_version_that_is_declared(program: catalogue.Program) -> None:
    folder = catalogue.FOLDER / program.module
    assert f'"{program.package}"' in (folder / "tools.go").read_text()
    assert f" {program.version}\n" in (folder / "go.mod").read_text()


def test_only_takes_what_the_named_things_need() -> None:
    part = WHOLE.only(["etcd", "docker.io/library/busybox:1.37"])
    assert set(part.programs) == {"etcd", "etcdctl", "etcdutl"}
    assert set(part.roots) == {"busybox"}


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="etdc") as caught:
        WHOLE.only(["etdc"])
    assert "etcd" in caught.value.hint
    with pytest.raises(UsageError, match="kubelett"):
        WHOLE.program("kubelett")


def test_declarations_that_name_nothing_are_refused() -> None:
    missing = {"modules": {}, "files": [{"name": "a", "url": "https://b/a", "checksum": "c"}]}
    with pytest.raises(UsageError, match="a: no such program"):
        catalogue.parse(missing)


def test_cache_name_changes_with_any_source(tmp_path: Path) -> None:
    (tmp_path / "go.mod").write_text("module a\n")
    before = golang.key(golang.sources(tmp_path))
    assert golang.key(golang.sources(tmp_path)) == before
    (tmp_path / "go.mod").write_text("module b\n")
    assert golang.key(golang.sources(tmp_path)) != before


def test_half_made_file_never_has_its_name(tmp_path: Path) -> None:
    def cut(path: Path) -> None:
        path.write_text("half")
        raise InterruptedError

    with pytest.raises(InterruptedError):
        golang.made(tmp_path / "tool", cut)
    assert list(tmp_path.iterdir()) == []


def blob(folder: Path, digest: str) -> bytes:
    data = (folder / digest.replace(":", "/")).read_bytes()
    assert f"sha256:{hashlib.sha256(data).hexdigest()}" == digest
    return data


def test_same_entries_same_layer(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for path in (one, two):
        path.write_bytes(b"program")
    two.touch(mode=0o600)
    first = images.layer(tmp_path / "a", [images.Entry("usr/local/bin/tool", one)])
    second = images.layer(tmp_path / "b", [images.Entry("usr/local/bin/tool", two)])
    assert first == second
    with tarfile.open(fileobj=io.BytesIO(blob(tmp_path / "a", first.digest))) as tar:
        assert tar.getnames() == ["usr", "usr/local", "usr/local/bin", "usr/local/bin/tool"]
        assert {(member.mtime, member.mode) for member in tar} == {(0, 0o755)}


def test_root_system_is_stripped_of_what_differs(tmp_path: Path) -> None:
    system = tmp_path / "root.tar"
    with tarfile.open(system, "w") as tar:
        for name in ("./usr/bin/nft", "./etc/hostname", "./usr/share/doc/nft/copyright"):
            info = tarfile.TarInfo(name)
            info.mtime, info.uname = 1700000000, "builder"
            tar.addfile(info)
    layer = images.rebased(tmp_path, system, {"usr/sbin/iptables": "xtables-nft-multi"})
    with tarfile.open(fileobj=io.BytesIO(blob(tmp_path, layer.digest))) as tar:
        assert tar.getnames() == ["usr/bin/nft", "usr/sbin/iptables"]
        assert tar.getmember("usr/sbin/iptables").linkname == "xtables-nft-multi"
        assert {(member.mtime, member.uname) for member in tar} == {(0, "")}


def test_index_leads_to_config(tmp_path: Path) -> None:
    layer = images.layer(tmp_path, [images.Entry("pause", Path(__file__))])
    built = images.image(tmp_path, [layer], {"Entrypoint": ("/pause",)})
    index = json.loads(blob(tmp_path, built.index.digest))
    assert index["manifests"][0]["platform"] == {"architecture": "amd64", "os": "linux"}
    manifest = json.loads(blob(tmp_path, index["manifests"][0]["digest"]))
    assert manifest["layers"][0]["size"] == len(blob(tmp_path, layer.digest))
    config = json.loads(blob(tmp_path, manifest["config"]["digest"]))
    assert config["config"]["Entrypoint"] == ["/pause"]
    assert config["rootfs"]["diff_ids"] == [layer.diff_id]


def test_mirrors_document_maps_registries_by_host_and_files_by_address() -> None:
    kept = WHOLE.only(["kubelet", "registry.k8s.io/pause:3.10.2"])
    nothing = images.Built(images.Blob("", 0), images.Blob("", 0), ())
    content = Upstream(
        {}, ((kept.files[0], Path("kubelet")),), ((kept.images[0], nothing),), Path("blobs")
    )
    document = mirror.document(content, "127.0.0.1:1", "127.0.0.1:2")
    assert document["spec"] == {
        "mirrors": {
            "registry.k8s.io": "http://127.0.0.1:1/registry.k8s.io",
            "https://dl.k8s.io": "http://127.0.0.1:2/dl.k8s.io",
        }
    }


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", None),
        ("bytes=-", None),
        ("lines=1-2", None),
        ("bytes=0-9", (0, 9)),
        ("bytes=90-", (90, 99)),
        ("bytes=90-200", (90, 99)),
        ("bytes=-10", (90, 99)),
    ],
)
def test_ranges(header: str, expected: tuple[int, int] | None) -> None:
    assert span(header, 100) == expected


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=9-3", "bytes=-0"])
def test_ranges_that_cannot_be_satisfied(header: str) -> None:
    with pytest.raises(ValueError, match="of 100 bytes"):
        span(header, 100)
