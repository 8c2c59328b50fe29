"""Sources on the packager's machine: layouts, archives (compared to skopeo), folders, wheels."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess  # noqa: TID251 the commands are tried from outside
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keystone.bundle import media
from keystone.bundle.model import Digest
from keystone.errors import ConfigurationError, KeystoneError
from keystone.packager.sources.local_images import REF_NAME, Layout, open_layout
from keystone.packager.sources.oci import Reference

from .command_line import CommandLine
from .faulty import Answer, serving
from .registries import Repository, digest, distribution

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

HEAD = "apiVersion: keystone/v1alpha1\nmetadata: {name: small}\n"
PLAIN = "--src-tls-verify=false"
REF = "registry.example/team/app:v1"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """skopeo's name of an image for two platforms in a real registry."""
    folder = tmp_path_factory.mktemp("registry")
    with distribution(folder, folder / "root") as address:
        repository = Repository(address, "team/app")
        layers = [packed(kind.encode()) for kind in ("amd64", "arm64")]
        children = [
            repository.image(kind, layer)
            for kind, layer in zip(("amd64", "arm64"), layers, strict=True)
        ]
        repository.index(children, "v1")
        yield f"docker://{address}/team/app:v1"


def packed(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("hello")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def skopeo(*words: str) -> str:
    done = subprocess.run(
        ["skopeo", "--insecure-policy", "--override-arch", "amd64", "--override-os", "linux",
         *words], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


class Packager(CommandLine):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.run(0, "bundle", "keys", "init", "--dir", "keys")

    def lock(self, spec: str, code: int = 0, architectures: str = "amd64") -> str:
        (self.folder / "small.yaml").write_text(
            f"{HEAD}kind: BundleDefinition\nspec:\n  number: 1\n"
            f"  architectures: [{architectures}]\n  installer: false\n{spec}"
        )
        return self.said(code, "bundle", "lock", "small.yaml")

    def create(self) -> Path:
        """Create the bundle; unpack it with tar and return the folder."""
        self.run(0, "bundle", "create", "small.yaml", "-o", "a.tar", "--keys", "keys")
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        subprocess.run(["tar", "-C", out, "-xf", self.folder / "a.tar"], check=True)
        return out


@pytest.fixture
def packager(tmp_path: Path) -> Packager:
    return Packager(tmp_path)


def config(where: str) -> str:
    """Return the image's id: the digest of its configuration."""
    return str(json.loads(skopeo("inspect", "--raw", where))["config"]["digest"])


@pytest.mark.parametrize(
    ("kind", "name"),
    [("oci", "layout"), ("oci-archive", "layout.tar"), ("docker-archive", "saved.tar")],
)
def test_image_copied_by_skopeo_is_carried_and_readable_by_skopeo(
    packager: Packager, image: str, kind: str, name: str
) -> None:
    named = REF if kind == "docker-archive" else "v1"
    skopeo("copy", PLAIN, image, f"{kind}:{packager.folder}/{name}:{named}")
    packager.lock(f"  images: [{{ref: '{REF}', from: {name}, group: node}}]\n")
    out = packager.create()
    first = (packager.folder / "a.tar").read_bytes()
    (packager.folder / "a.tar").unlink()
    packager.create()
    assert (packager.folder / "a.tar").read_bytes() == first
    before = config(f"{kind}:{packager.folder}/{name}:{named}")
    assert config(f"oci:{out}:{REF}") == before
    # skopeo packs it into a docker archive again, which verifies every layer's digest.
    skopeo("copy", f"oci:{out}:{REF}", f"docker-archive:{packager.folder}/again.tar:{REF}")
    assert config(f"docker-archive:{packager.folder}/again.tar:{REF}") == before


def test_all_platforms_of_a_layout_are_carried(packager: Packager, image: str) -> None:
    skopeo("copy", PLAIN, "--all", image, f"oci:{packager.folder}/layout:v1")
    packager.lock(f"  images: [{{ref: '{REF}', from: layout}}]\n", architectures="amd64, arm64")
    both = packager.items("image")[0]
    packager.lock(f"  images: [{{ref: '{REF}', from: layout}}]\n", architectures="arm64")
    one = packager.items("image")[0]
    assert both["digest"] == one["digest"]
    assert len(both["blobs"]) == 6
    assert len(one["blobs"]) == 3


def test_missing_platform_is_refused(packager: Packager, image: str) -> None:
    skopeo("copy", PLAIN, image, f"docker-archive:{packager.folder}/saved.tar:{REF}")
    spec = f"  images: [{{ref: '{REF}', from: saved.tar%s}}]\n"
    assert "is only for linux/amd64" in packager.lock(spec % "", 8, "amd64, arm64")
    packager.lock(spec % ", architectures: [amd64]", 0, "amd64, arm64")


def saved(path: Path, layer: bytes, diff_id: str, *, tag: str = REF) -> None:
    """Write a docker archive whose layer is a symbolic link, as old versions of Docker did."""
    configuration = json.dumps({
        "architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }).encode()  # fmt: skip
    name = f"{hashlib.sha256(configuration).hexdigest()}.json"
    listed = [{"Config": name, "RepoTags": [tag], "Layers": ["b/layer.tar"]}]
    with tarfile.open(path, "w") as tar:
        files = {name: configuration, "a/layer.tar": layer, "manifest.json": json.dumps(listed)}
        for member, data in files.items():
            content = data.encode() if isinstance(data, str) else data
            entry = tarfile.TarInfo(member)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo("b/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, "../a/layer.tar"
        tar.addfile(link)


@pytest.mark.parametrize("zipped", [False, True])
def test_docker_archive_with_links_and_gzip_is_carried(packager: Packager, zipped: bool) -> None:
    layer = packed(b"content")
    data = gzip.compress(layer, mtime=0) if zipped else layer
    saved(packager.folder / "saved.tar", data, digest(layer))
    packager.lock(f"  images: [{{ref: '{REF}', from: saved.tar}}]\n")
    out = packager.create()
    assert (out / "blobs/sha256" / hashlib.sha256(data).hexdigest()).read_bytes() == data
    skopeo("copy", f"oci:{out}:{REF}", f"dir:{packager.folder}/copied")


def test_layer_with_another_digest_is_refused(packager: Packager) -> None:
    saved(packager.folder / "saved.tar", packed(b"content"), digest(b"other"))
    assert digest(b"other") in packager.lock(f"  images: [{{ref: '{REF}', from: saved.tar}}]\n", 5)


def archive(path: Path, **members: str) -> Layout:
    """Write a docker archive with these members and open it as a repository."""
    with tarfile.open(path, "w") as tar:
        for name, text in {"manifest.json": LISTED, "config": '{"rootfs": {"diff_ids": []}}',
                           **members}.items():  # fmt: skip
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return open_layout(path, path.parent, Reference.parse(REF))


LISTED = json.dumps([{"Config": "config", "RepoTags": [REF], "Layers": []}])


@pytest.mark.parametrize(
    ("member", "text"),
    [
        ("manifest.json", LISTED.replace("Config", "Conf")),
        ("manifest.json", LISTED.replace("[]", "3")),
        ("manifest.json", "[3]"),
        ("manifest.json", "[" * 100_000),
        ("config", "{}"),
        ("config", "xx"),
        ("config", "[]"),
        ("config", '{"rootfs": {"diff_ids": 3}}'),
        ("config", '{"rootfs": {"diff_ids": ["md5:0"]}}'),
        ("config", "[" * 100_000),
    ],
    ids=lambda text: text[:30],
)
def test_invalid_archive_is_refused_with_the_member(tmp_path: Path, member: str, text: str) -> None:
    path = tmp_path / "saved.tar"
    with pytest.raises(ConfigurationError) as caught:
        archive(path, **{member: text}).manifest("v1")
    assert f"{path}: {member} cannot be read" in caught.value.message
    assert "save the image again" in caught.value.hint


def layout(folder: Path, *more: object) -> Layout:
    """Write a layout with one image; `more` are further entries of index.json."""
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(text: str, kind: str) -> dict[str, object]:
        data = text.encode()
        (blobs / digest(data).removeprefix("sha256:")).write_bytes(data)
        return {"mediaType": kind, "digest": digest(data), "size": len(data)}

    config = put('{"os": "linux", "architecture": "amd64"}', media.EMPTY_TYPE)
    document = {"schemaVersion": 2, "config": config, "layers": []}
    image = {**put(json.dumps(document), media.MANIFEST), "annotations": {REF_NAME: "v1"}}
    sbom = put(json.dumps({**document, "subject": image}), media.MANIFEST)
    odd = put(json.dumps({**document, "subject": "text"}), media.MANIFEST)
    entries = [image, put("no JSON", "text/plain"), sbom, odd, *more]
    (folder / "index.json").write_text(json.dumps({"manifests": entries}))
    (folder / "oci-layout").write_text("{}")
    found = open_layout(folder, folder, Reference.parse(REF))
    assert isinstance(found, Layout)
    return found


def test_layout_may_list_blobs_of_any_type(tmp_path: Path) -> None:
    without_kind = {"digest": f"sha256:{'0' * 64}", "size": 3}
    found = layout(tmp_path, without_kind, {**without_kind, "mediaType": media.MANIFEST})
    image, sbom = found.entries[0], found.entries[2]
    listed = found.referrers(Digest.parse(image["digest"]))
    assert listed == [{key: sbom[key] for key in ("mediaType", "digest", "size")}]


def test_blob_that_is_not_the_listed_manifest_is_refused(tmp_path: Path) -> None:
    found = layout(tmp_path)
    entry = {**found.entries[1], "mediaType": media.MANIFEST}
    (tmp_path / "index.json").write_text(json.dumps({"manifests": [entry]}))
    again = open_layout(tmp_path, tmp_path, Reference.parse(REF))
    with pytest.raises(KeystoneError) as caught:
        again.referrers(Digest("0" * 64))
    assert caught.value.exit_code == 5
    assert entry["digest"] in caught.value.message


@pytest.mark.parametrize(
    "entry", [3, {}, {"digest": "md5:0"}, {"digest": f"sha256:{'0' * 64}", "annotations": ["a"]}]
)
def test_invalid_index_of_a_layout_is_refused(tmp_path: Path, entry: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        layout(tmp_path, entry).manifest("v1")
    assert f"{tmp_path}: index.json cannot be read" in caught.value.message


def test_short_names_of_docker_hub_are_found(packager: Packager) -> None:
    layer = packed(b"content")
    saved(packager.folder / "saved.tar", layer, digest(layer), tag="busybox:1.37")
    for ref in ("docker.io/library/busybox:1.37", "docker.io/busybox:1.37"):
        packager.lock(f"  images: [{{ref: '{ref}', from: saved.tar}}]\n")
        assert [item["name"] for item in packager.items("image")] == ["docker.io/library/busybox"]


@pytest.mark.parametrize("kind", ["docker-archive", "oci"])
def test_image_with_another_name_is_refused_with_its_name(
    packager: Packager, image: str, kind: str
) -> None:
    other = REF.replace(":v1", ":v2")
    skopeo("copy", PLAIN, image, f"{kind}:{packager.folder}/saved:{other}")
    output = packager.lock(f"  images: [{{ref: '{REF}', from: saved}}]\n", 3)
    assert f"contains no image {REF}" in output
    assert f"names in it: {other}" in output


@pytest.mark.parametrize("case", ["changed manifest", "gzip", "empty folder", "missing"])
def test_invalid_layout_is_refused(packager: Packager, image: str, case: str) -> None:
    path = packager.folder / "layout"
    spec = f"  images: [{{ref: '{REF}', from: layout}}]\n"
    code = 3
    if case == "gzip":
        path.write_bytes(gzip.compress(packed(b"x")))
    elif case == "empty folder":
        path.mkdir()
    elif case == "changed manifest":
        skopeo("copy", PLAIN, image, f"oci:{path}:v1")
        index = json.loads((path / "index.json").read_bytes())
        blob = path / "blobs/sha256" / index["manifests"][0]["digest"].removeprefix("sha256:")
        blob.write_bytes(blob.read_bytes() + b" ")
        code = 5
    packager.lock(spec, code)


def test_layout_changed_after_the_lock_is_refused(packager: Packager, image: str) -> None:
    skopeo("copy", PLAIN, image, f"oci:{packager.folder}/layout:v1")
    packager.lock(f"  images: [{{ref: '{REF}', from: layout}}]\n")
    name = packager.items("image")[0]["blobs"][-1].removeprefix("sha256:")
    (packager.folder / "layout/blobs/sha256" / name).write_bytes(b"other")
    words = ("bundle", "create", "small.yaml", "-o", "a.tar", "--keys", "keys")
    assert name in packager.said(3, *words)


# Folders ---------------------------------------------------------------------------------------


def test_files_of_a_folder_are_carried_as_items(packager: Packager) -> None:
    files = {"b/two": b"2", "a": b"1", "b/.three": b"3", "b/c/d/four": b"4"}
    for name, data in files.items():
        path = packager.folder / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    packager.lock("  files: [{name: site, path: site, version: '7', group: node}]\n")
    names = [item["name"] for item in packager.items("file")]
    assert names == ["site/a", "site/b/.three", "site/b/c/d/four", "site/b/two"]
    before = (packager.folder / "small.lock.json").read_bytes()
    shutil.copytree(packager.folder / "site", packager.folder / "new")
    shutil.rmtree(packager.folder / "site")
    (packager.folder / "new").rename(packager.folder / "site")
    os.utime(packager.folder / "site/a", (0, 0))
    packager.lock("  files: [{name: site, path: site, version: '7', group: node}]\n")
    assert (packager.folder / "small.lock.json").read_bytes() == before


def test_all_invalid_files_of_a_folder_are_reported_together(packager: Packager) -> None:
    folder = packager.folder / "site"
    folder.mkdir()
    (folder / "link").symlink_to("/etc/passwd")
    (folder / "a\nb").write_bytes(b"")
    os.mkfifo(folder / "pipe")
    output = packager.lock("  files: [{name: site, path: site}]\n", 3)
    assert all(name in output for name in ("link", "a\nb", "pipe"))


# Wheels ----------------------------------------------------------------------------------------


def wheel(folder: Path, name: str, *, tag: str = "py3-none-any", needs: str = "") -> Path:
    path = folder / f"{name}-1.0-{tag}.whl"
    info = f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{info}/METADATA", metadata + (f"Requires-Dist: {needs}\n" if needs else ""))
        file.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        file.writestr(f"{info}/RECORD", "")
    return path


def test_wheels_are_locked_with_dependencies_for_each_architecture(
    packager: Packager, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = [
        wheel(packager.folder, "fast", tag=f"cp311-cp311-manylinux_2_28_{machine}")
        for machine in ("x86_64", "aarch64")
    ]
    app = wheel(packager.folder, "app", needs="fast>=1")
    with serving() as index:
        for name, files in {"app": [app], "fast": fast}.items():
            links = "".join(
                f'<a href="{index.address}/files/{file.name}#'
                f'sha256={digest(file.read_bytes())[7:]}">{file.name}</a>'
                for file in files
            )
            page = f"<!DOCTYPE html><html><body>{links}</body></html>".encode()
            index.says(f"/simple/{name}/", Answer(page, headers=(("Content-Type", "text/html"),)))
        for file in (app, *fast):
            index.says(f"/files/{file.name}", Answer(file.read_bytes()))
        user = index.address.replace("://", "://me:geheim@")
        monkeypatch.setenv("PIP_INDEX_URL", f"{user}/simple/")
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
        spec = (
            "  wheels: [{requirements: [app==1.0], python: '3.11', group: node}]\n"
            f"  mirrors: {{'https://files.example': '{index.address}/files'}}\n"
        )
        packager.lock(spec, architectures="amd64, arm64")
        found = {item["labels"]["filename"]: item["digest"] for item in packager.items("wheel")}
        assert found == {f"wheels/{file.name}": digest(file.read_bytes()) for file in (app, *fast)}
        text = (packager.folder / "small.lock.json").read_text()
        assert "geheim" not in text
        assert f"https://files.example/{app.name}" in text
        out = packager.create()
    for file in (app, *fast):
        name = digest(file.read_bytes()).removeprefix("sha256:")
        assert (out / "blobs/sha256" / name).read_bytes() == file.read_bytes()


def test_unknown_wheel_is_refused(packager: Packager, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as index:
        monkeypatch.setenv("PIP_INDEX_URL", f"{index.address}/simple/")
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
        output = packager.lock("  wheels: [{requirements: [none==1], python: '3.11'}]\n", 3)
    assert "none==1" in output
