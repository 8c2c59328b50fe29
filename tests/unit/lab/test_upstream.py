"""The upstream mirror: the catalogue, names in the cache, bytes of layers."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
import yaml

from keystone.errors import ConfigurationError, UsageError
from keystone.lab import carry, definition, settings
from keystone.lab.mirror import catalogue, golang, images, real, serve, upstream
from keystone.lab.mirror.fileserver import span
from keystone.lab.mirror.upstream import Upstream
from keystone.lab.parts import Part, table

ROOT = Path(__file__).parents[3]
WHOLE = catalogue.load()
USUAL = WHOLE.usual()
OLDER = "kubernetes-1.36"
PLATFORM = yaml.safe_load((ROOT / "bundles" / "platform.yaml").read_text())["spec"]


def test_mirror_has_every_image_of_platform() -> None:
    assert {entry["ref"] for entry in PLATFORM["images"]} == {image.ref for image in USUAL.images}


def test_mirror_has_every_file_of_platform() -> None:
    wanted = {(entry["name"], entry["url"]) for entry in PLATFORM["binaries"]}
    assert wanted == {(file.name, file.url) for file in USUAL.files}


def test_platform_requests_equal_default_build() -> None:
    assert WHOLE.only(carry.requested(carry.wanted(), WHOLE)) == USUAL


@pytest.mark.parametrize("file", WHOLE.files, ids=lambda file: file.name)
def test_urls_have_version_that_is_built(file: catalogue.File) -> None:
    versions = {WHOLE.programs[name].version for name in file.programs}
    assert len(versions) == 1
    assert versions.pop().removeprefix("v") in file.url


@pytest.mark.parametrize(
    "program",
    [program for program in WHOLE.programs.values() if not program.package.endswith(".c")],
    ids=lambda program: program.name,
)
def test_modules_require_declared_version(program: catalogue.Program) -> None:
    folder = catalogue.FOLDER / program.module
    module = (folder / "go.mod").read_text()
    if module.startswith(f"module {program.package}\n"):
        assert "\nfunc main() {\n" in (folder / "main.go").read_text()
    else:
        assert f'"{program.package}"' in (folder / "tools.go").read_text()
    assert f" {program.version}\n" in module


@pytest.mark.parametrize(
    "program",
    [program for program in WHOLE.programs.values() if program.shares],
    ids=lambda program: program.name,
)
def test_modules_share_versions_of_expensive_packages(program: catalogue.Program) -> None:
    """Go reuses a compiled package only if all packages that it imports are the same."""
    theirs, ours = versions(program.shares), versions(program.module)
    common = {"google.golang.org/protobuf"}
    if "k8s.io/client-go" in ours:
        common |= {"k8s.io/client-go", "k8s.io/api", "golang.org/x/net", "golang.org/x/text"}
    assert {name: ours[name] for name in common} == {name: theirs[name] for name in common}


def test_downgraded_versions_are_those_that_upstream_requires() -> None:
    ours = {
        "Replace": [
            {"Old": {"Path": "a"}, "New": {"Path": "a", "Version": "v1.0.0"}},
            {"Old": {"Path": "b"}, "New": {"Path": "b", "Version": "v1.0.0"}},
            {"Old": {"Path": "c"}, "New": {"Path": "./stub"}},
        ]
    }
    theirs = {"Require": [{"Path": "a", "Version": "v1.1.0"}, {"Path": "c", "Version": "v1.1.0"}]}
    assert golang.downgraded(ours, theirs) == {"a": "v1.0.0"}
    assert golang.downgraded({"Replace": None}, {"Require": None}) == {}


@pytest.mark.parametrize(
    "program",
    [program for program in WHOLE.programs.values() if program.patch],
    ids=lambda program: program.name,
)
def test_patches_name_existing_folder_and_required_module(
    program: catalogue.Program,
) -> None:
    assert program.patch is not None
    assert program.patch.module in versions(program.module)
    assert bool(program.patch.package) == bool(program.patch.folder)
    if program.patch.folder:
        assert [*(catalogue.FOLDER / program.module / program.patch.folder).glob("*.go")]


def versions(module: str) -> dict[str, str]:
    """The modules in a go.mod with the versions used, which are those of replacements."""
    found = {}
    for line in (catalogue.FOLDER / module / "go.mod").read_text().splitlines():
        words = line.removeprefix("require ").removeprefix("replace ").split()
        if "=>" in words and len(words) == 4:
            found[words[0]] = words[3]
        elif len(words) > 1 and words[1].startswith("v"):
            found.setdefault(words[0], words[1])
    return found


def test_older_release_built_only_by_name() -> None:
    assert WHOLE.releases == (OLDER,)
    older = WHOLE.only([OLDER])
    assert not older.programs.keys() & USUAL.programs.keys()
    assert {program.version for program in older.programs.values()} == {"v1.36.3", "v1.14.2"}
    assert {program.module for program in older.programs.values()} == {OLDER, "dns-1.14.2"}


def test_definition_of_older_release_differs_in_kubernetes_only() -> None:
    older, now = carry.wanted(OLDER)["spec"], carry.wanted()["spec"]
    changed = [
        (old.get("ref", old.get("url")), new.get("ref", new.get("url")))
        for key in ("images", "binaries")
        for old, new in zip(older[key], now[key], strict=True)
        if old != new
    ]
    assert len(changed) == 8
    for old, new in changed:
        assert old.replace("1.36.3", "1.37.2").replace("1.14.2", "1.14.6") == new
    kubelet = next(entry for entry in older["binaries"] if entry["name"] == "kubelet")
    assert kubelet["version"] == "v1.36.3"
    assert {key: older[key] for key in ("debs", "kernelModules")} == {
        key: now[key] for key in ("debs", "kernelModules")
    }
    asked = WHOLE.only(carry.requested(carry.wanted(OLDER), WHOLE))
    older_files = {file.name for file in WHOLE.only([OLDER]).files}
    older_images = {image.ref for image in WHOLE.only([OLDER]).images}
    assert older_files < {file.name for file in asked.files}
    assert older_images < {image.ref for image in asked.images}


def test_unknown_release_refused_with_known_ones() -> None:
    with pytest.raises(UsageError, match=r"kubernetes-1\.35") as caught:
        carry.wanted("kubernetes-1.35")
    assert OLDER in caught.value.hint


def test_modules_that_share_packages_are_in_one_lane() -> None:
    lanes = [[group[0].module for group in lane] for lane in upstream.lanes_of(USUAL.programs)]
    assert sorted(module for lane in lanes for module in lane) == sorted(
        {program.module for program in USUAL.programs.values()}
    )
    kubernetes = next(lane for lane in lanes if "kubernetes" in lane)
    assert kubernetes[0] == "kubernetes"
    assert {"helm", "dns", "distribution", "flannel"} < set(kubernetes)
    assert kubernetes == lanes[0]
    assert ["etcd"] in lanes


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("k8s.io/kubernetes/cmd/kubelet", "kubelet"),
        ("go.etcd.io/etcd/server/v3", "server"),
        ("example.com/v2", "example.com"),
        ("example.com/tool/v1", "v1"),
        ("pause.c", "pause.c"),
    ],
)
def test_program_named_by_its_import_path(package: str, name: str) -> None:
    assert catalogue.executable_name(package) == name


def test_programs_of_one_module_have_different_names() -> None:
    """Programs of a module are built into one folder."""
    for lane in upstream.lanes_of(WHOLE.programs):
        for group in lane:
            names = [catalogue.executable_name(program.package) for program in group]
            assert len(set(names)) == len(names), group[0].module


def test_table_of_times_has_longest_first_and_number_of_cached() -> None:
    rows = [Part("image", 2.0), Part("etcd", 0.1, made=False), Part("kubernetes", 600.0)]
    assert table(rows, 630.0) == [
        ("kubernetes", "10 min 00 s"),
        ("image", "2.0 s"),
        ("1 more", "cached"),
        ("total, in parallel", "10 min 30 s"),
    ]


DIGEST = "ab" * 32
OTHER = "cd" * 32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DIGEST, DIGEST),
        (f"{DIGEST}\n", DIGEST),
        (f"{DIGEST}  tool.tgz\n", DIGEST),
        (f"{DIGEST} *tool.tgz\n", DIGEST),
        (f"{OTHER}  other.tgz\n{DIGEST}  ./dist/tool.tgz\n", DIGEST),
        (f"{DIGEST}  other.tgz\n", ""),
        (f"{DIGEST}  tool.tgz.sig\n", ""),
        (f"{DIGEST}\n{OTHER}\n", ""),
        ("<html>not found</html>", ""),
        ("", ""),
    ],
)
def test_checksum_found_in_formats_of_upstreams(text: str, expected: str) -> None:
    assert real.checksum_in(text, "tool.tgz") == expected


def test_definition_gets_published_checksums() -> None:
    document = carry.wanted()
    kubelet, runc = (
        next(file.url for file in USUAL.files if file.name == name) for name in ("kubelet", "runc")
    )
    given = definition.with_checksums(document, {kubelet: DIGEST})["spec"]["binaries"]
    found = {entry["url"]: entry.get("sha256", "") for entry in given}
    assert (found[kubelet], found[runc]) == (DIGEST, "")
    assert document == carry.wanted()


def test_only_selects_needed_programs_and_roots() -> None:
    part = WHOLE.only(["etcd", "docker.io/library/busybox:1.37"])
    assert set(part.programs) == {"etcd", "etcdctl", "etcdutl"}
    assert set(part.roots) == {"busybox"}


def test_unknown_names_refused_with_known_ones() -> None:
    with pytest.raises(UsageError, match="etdc") as caught:
        WHOLE.only(["etdc"])
    assert "etcd" in caught.value.hint
    with pytest.raises(UsageError, match="kubelett"):
        WHOLE.program("kubelett")


def test_undeclared_program_refused() -> None:
    missing = {"modules": {}, "files": [{"name": "a", "url": "https://b/a", "checksum": "c"}]}
    with pytest.raises(UsageError, match="a: no such program"):
        catalogue.parse(missing)


def test_cache_name_changes_with_any_source(tmp_path: Path) -> None:
    (tmp_path / "go.mod").write_text("module a\n")
    before = golang.key(golang.sources(tmp_path))
    assert golang.key(golang.sources(tmp_path)) == before
    (tmp_path / "go.mod").write_text("module b\n")
    assert golang.key(golang.sources(tmp_path)) != before


def test_incomplete_file_never_has_final_name(tmp_path: Path) -> None:
    def interrupted(path: Path) -> None:
        path.write_text("half")
        raise InterruptedError

    with pytest.raises(InterruptedError):
        golang.made(tmp_path / "tool", interrupted)
    assert list(tmp_path.iterdir()) == []


def blob(folder: Path, digest: str) -> bytes:
    data = (folder / digest.replace(":", "/")).read_bytes()
    assert f"sha256:{hashlib.sha256(data).hexdigest()}" == digest
    return data


def test_same_entries_give_same_layer(tmp_path: Path) -> None:
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


def test_root_system_stripped_of_variable_data(tmp_path: Path) -> None:
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
    document = serve.document(content, "127.0.0.1:1", "127.0.0.1:2")
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
def test_range_header_parsed(header: str, expected: tuple[int, int] | None) -> None:
    assert span(header, 100) == expected


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=9-3", "bytes=-0"])
def test_unsatisfiable_range_refused(header: str) -> None:
    with pytest.raises(ValueError, match="of 100 bytes"):
        span(header, 100)


@pytest.mark.parametrize("mode", ["auto", "real", "build"])
def test_lab_file_sets_upstream_and_mirrors(tmp_path: Path, mode: str) -> None:
    document = yaml.safe_load((ROOT / "lab" / "lab.yaml").read_text())
    assert document["spec"]["upstream"] == "auto"
    document["spec"] |= {"upstream": mode, "mirrors": "mirrors.yaml"}
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(document))
    lab = settings.load(tmp_path / "lab.yaml")
    assert (lab.upstream, lab.mirrors) == (mode, tmp_path / "mirrors.yaml")


def test_unknown_upstream_mode_refused(tmp_path: Path) -> None:
    document = yaml.safe_load((ROOT / "lab" / "lab.yaml").read_text())
    document["spec"]["upstream"] = "reel"
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(ConfigurationError, match="'reel' is not one of auto, real, build"):
        settings.load(tmp_path / "lab.yaml")
