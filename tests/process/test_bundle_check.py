"""`bundle check` as a process, with a lock and a signed bundle: exit codes and output."""

from __future__ import annotations

import hashlib
import json
import subprocess  # noqa: TID251 the command is tried from outside
import sys
from pathlib import Path

import pytest

from .faulty import Answer, self_signed, serving

pytestmark = pytest.mark.slow

DEFINITION = """\
apiVersion: keystone/v1alpha1
kind: BundleDefinition
metadata: {name: files}
spec:
  number: 1
  architectures: [amd64]
  installer: false
  files:
    - {name: pod.yaml, path: pod.yaml}
"""
POD = """\
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec:
  containers: [{name: web, image: registry.example/web:v1}]
"""


class Packager:
    """A folder with a definition and keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "files.yaml").write_text(DEFINITION)
        self.fingerprint = self.run("keys", "init", "--dir", "keys").stdout.strip()

    def run(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "keystone", "bundle", *words],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done

    def bundle(self, pod: str) -> None:
        (self.folder / "pod.yaml").write_text(pod)
        self.run("lock", "files.yaml")
        self.run("create", "files.lock.json", "-o", "a.tar", "--keys", "keys")

    def check(self, name: str, *words: str, code: int) -> subprocess.CompletedProcess[str]:
        return self.run("check", name, "--root-fingerprint", self.fingerprint, *words, code=code)


@pytest.fixture
def packager(tmp_path: Path) -> Packager:
    return Packager(tmp_path)


@pytest.mark.parametrize("name", ["a.tar", "files.lock.json"])
def test_check_lists_missing_image_and_exits_with_5(packager: Packager, name: str) -> None:
    packager.bundle(POD)
    report = json.loads(packager.check(name, "--json", code=5).stdout)
    assert not report["complete"]
    assert report["imageReferences"] == 1
    assert report["missing"] == [
        {
            "kind": "image",
            "missing": "registry.example/web:v1",
            "asks": "file pod.yaml: Pod/shop/web $.spec.containers[0].image",
            "add": "spec.images: - ref: registry.example/web:v1",
        }
    ]
    shown = packager.check(name, code=5)
    assert "registry.example/web:v1" in shown.stdout
    assert "1 reference leads out of the bundle" in shown.stderr


@pytest.mark.parametrize("name", ["a.tar", "files.lock.json"])
def test_check_of_a_complete_bundle_exits_with_0(packager: Packager, name: str) -> None:
    packager.bundle("kind: ConfigMap\napiVersion: v1\ndata: {a: b}\n")
    report = json.loads(packager.check(name, "--json", code=0).stdout)
    assert report["complete"]
    assert report["missing"] == []


@pytest.mark.parametrize("verb", ["check", "create"])
def test_lock_is_read_with_the_mirrors_of_its_definition(packager: Packager, verb: str) -> None:
    pod = b"kind: ConfigMap\napiVersion: v1\ndata: {a: b}\n"
    with serving() as server:
        server.says("/pod.yaml", Answer(pod))
        (packager.folder / "files.yaml").write_text(
            DEFINITION.partition("  files:")[0]
            + f"  mirrors: {{'https://up.example': '{server.address}'}}\n"
            "  binaries:\n  - {name: pod.yaml, version: '1', url: 'https://up.example/pod.yaml', "
            f"sha256: {hashlib.sha256(pod).hexdigest()}}}\n"
        )
        packager.run("lock", "files.yaml", "--no-sbom")
        more = ("-o", "a.tar", "--keys", "keys") if verb == "create" else ()
        packager.run(verb, "files.lock.json", *more)
        assert server.of("/pod.yaml")


@pytest.mark.parametrize("beside", ["definition", "nothing"])
def test_lock_is_read_with_a_private_certificate_authority(packager: Packager, beside: str) -> None:
    pod = b"kind: ConfigMap\napiVersion: v1\ndata: {a: b}\n"
    both, alone = self_signed(packager.folder, "127.0.0.1")
    with serving(tls=both) as server:
        url = server.says("/pod.yaml", Answer(pod))
        definition = packager.folder / "files.yaml"
        definition.write_text(
            DEFINITION.partition("  files:")[0]
            + f"  binaries: [{{name: pod.yaml, version: '1', url: '{url}'}}]\n"
        )
        packager.run("lock", "files.yaml", "--no-sbom", "--ca-file", alone.name)
        if beside == "nothing":
            definition.unlink()
        stderr = packager.run("check", "files.lock.json", code=8).stderr
        assert "certificate is not trusted" in stderr
        assert "--ca-file" in stderr
        packager.run("check", "files.lock.json", "--ca-file", alone.name)


def test_check_refuses_a_bundle_that_is_not_trusted(packager: Packager) -> None:
    packager.bundle(POD)
    packager.run("check", "a.tar", code=4)
    packager.run("check", "a.tar", "--root-fingerprint", "0" * 64, code=4)
