"""`tar xf` of a bundle gives an OCI layout that other tools read without Keystone."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from keystone.run import run

from .carried import CONTENTS, PARTIAL, PAUSE, Carried, client
from .runtime import containerd

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

IMAGES = (PAUSE, PARTIAL)


def described(layout: Path) -> dict[str, dict[str, str]]:
    """Return the layout's entries by their reference."""
    index = json.loads((layout / "index.json").read_bytes())
    return {
        entry["annotations"]["org.opencontainers.image.ref.name"]: entry
        for entry in index["manifests"]
        if "annotations" in entry
    }


@pytest.mark.parametrize("ref", IMAGES)
def test_skopeo_inspects_and_copies(carried: Carried, tmp_path: Path, ref: str) -> None:
    source = f"oci:{carried.layout}:{ref}"
    found = json.loads(run(["skopeo", "inspect", source]).stdout)
    assert found["Digest"] == described(carried.layout)[ref]["digest"]
    assert (found["Architecture"], found["Os"]) == ("amd64", "linux")
    run(["skopeo", "copy", source, f"oci:{tmp_path}/out:x"])
    run(["skopeo", "copy", source, f"docker-archive:{tmp_path}/out.tar:x:1"])


def test_skopeo_copies_a_complete_index(carried: Carried, tmp_path: Path) -> None:
    run(["skopeo", "copy", "--all", f"oci:{carried.layout}:{PAUSE}", f"oci:{tmp_path}/out:x"])
    copied = json.loads((tmp_path / "out/index.json").read_bytes())["manifests"][0]["digest"]
    assert copied == described(carried.layout)[PAUSE]["digest"]


@pytest.mark.parametrize("ref", [*IMAGES, CONTENTS])
def test_crane_validator_accepts_the_layout(carried: Carried, ref: str) -> None:
    done = run([client("layout-validate"), carried.layout, ref, "linux/amd64"])
    assert done.stdout == f"PASS: {ref}\n"


def test_crane_validator_finds_a_flipped_bit(carried: Carried, tmp_path: Path) -> None:
    """This shows that the test above can fail."""
    copy = tmp_path / "layout"
    run(["cp", "-al", carried.layout, copy])
    manifest = read(copy, read(copy, described(copy)[PAUSE]["digest"])["manifests"][0]["digest"])
    layer = copy / "blobs" / manifest["layers"][0]["digest"].replace(":", "/")
    data = bytearray(layer.read_bytes())
    data[len(data) // 2] ^= 1
    layer.unlink()
    layer.write_bytes(data)
    done = run([client("layout-validate"), copy, PAUSE, "linux/amd64"], check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"FAIL: {PAUSE}")


def read(layout: Path, digest: str) -> dict[str, Any]:
    """Read a JSON blob."""
    document: dict[str, Any] = json.loads(
        (layout / "blobs" / digest.replace(":", "/")).read_bytes()
    )
    return document


def test_oras_copies_an_image_and_pulls_another_artifact(carried: Carried, tmp_path: Path) -> None:
    oras = client("oras")
    at = ("--from-oci-layout-path", carried.layout, "--to-oci-layout-path", tmp_path / "out")
    run([oras, "copy", *at, PAUSE, PAUSE])
    run([oras, "copy", *at, "--platform", "linux/amd64", PARTIAL, PARTIAL])
    assert {PAUSE, PARTIAL} <= described(tmp_path / "out").keys()
    run([oras, "pull", "--oci-layout-path", carried.layout, CONTENTS, "-o", tmp_path / "files"])
    program = tmp_path / "files/binary/registry"
    wanted = json.loads((carried.layout / "keystone.json").read_bytes())["items"]
    digest = next(item["digest"] for item in wanted if item["name"] == "registry")
    assert f"sha256:{hashlib.sha256(program.read_bytes()).hexdigest()}" == digest
    assert list((tmp_path / "files/deb").glob("nginx_*.deb"))


@pytest.mark.parametrize("source", ["the bundle itself", "the layout"])
def test_containerd_imports_and_unpacks(
    carried: Carried, binary: Callable[[str], Path], tmp_path: Path, source: str
) -> None:
    if os.geteuid() != 0:
        pytest.skip("containerd needs root")
    file = carried.bundle
    if source == "the layout":
        file = tmp_path / "layout.tar"
        run(["tar", "-C", carried.layout, "-cf", file, "."])
    with containerd(binary, "unshare", "--net") as runtime:
        done = runtime.ctr("images", "import", file)
        assert done.returncode == 0, done.stderr
        assert set(runtime.ctr("images", "list", "--quiet").stdout.split()) == {*IMAGES, CONTENTS}
        for line in runtime.ctr("images", "check").stdout.splitlines()[1:]:
            unpacked = not line.startswith(CONTENTS)
            assert "complete" in line
            assert line.split()[-1] == str(unpacked).lower(), line
