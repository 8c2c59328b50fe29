"""A small bundle of real content, made by the real commands, and real clients to test it with.

Content: upstream's pause; an image whose index names a platform that the bundle leaves out;
distribution's release archive; nginx with its dependencies, from Debian's archive.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from keystone.lab.mirror import catalogue, golang, images, serve, upstream
from keystone.run import Result, run

CLIENTS = Path(__file__).parent / "clients"
PACKAGES = {
    "crane": "github.com/google/go-containerregistry/cmd/crane",
    "layout-validate": "keystone.example/tests/clients/layout-validate",
    "oras": "oras.land/oras/cmd/oras",
}
PAUSE = "registry.k8s.io/pause:3.10.2"
PARTIAL = "registry.example/team/partial:v1"
CONTENTS = "keystone.local/small:7"
DEFINITION = f"""\
apiVersion: keystone/v1alpha1
kind: BundleDefinition
metadata: {{name: small}}
spec:
  number: 7
  architectures: [amd64]
  installer: false
  images:
    - {{ref: '{PAUSE}', group: node}}
    - {{ref: '{PARTIAL}', group: node}}
  debs:
    - suite: trixie
      groups: {{primer: [nginx-light]}}
  binaries:
    - name: registry
      version: v3.1.2
      url: {{url}}
      group: primer
"""


@dataclass(frozen=True)
class Carried:
    """The bundle, its root's fingerprint, and the folder to which plain tar unpacked it."""

    bundle: Path
    fingerprint: str
    layout: Path


@cache
def client(name: str) -> Path:
    """Return a client program of our Go module, built once (in the user's cache folder)."""
    program = catalogue.Program(
        name=name, module=str(CLIENTS), version="", package=PACKAGES[name],
        cgo=False, tags=(), variables={},
    )  # fmt: skip
    return golang.build(program)


def keystone(*words: str | Path, code: int = 0) -> Result:
    """Run a verb of Keystone as a process."""
    done = run([sys.executable, "-m", "keystone", *words], check=False)
    assert done.returncode == code, done.stderr
    return done


def make(folder: Path) -> Carried:
    """Lock and create against a real registry on loopback; unpack with GNU tar."""
    content = _upstream(folder)
    url = next(file.url for file, _ in content.files)
    (folder / "small.yaml").write_text(DEFINITION.replace("{url}", url))
    keys, lock, bundle = (folder / name for name in ("keys", "small.lock.json", "small.tar"))
    fingerprint = keystone("bundle", "keys", "init", "--dir", keys).stdout.strip()
    with serve.serve(content) as serving:
        mirrors = ("--mirrors", serving.mirrors_file)
        keystone("bundle", "lock", folder / "small.yaml", *mirrors, "-o", lock)
        keystone("bundle", "create", lock, *mirrors, "-o", bundle, "--keys", keys)
    layout = folder / "layout"
    layout.mkdir()
    run(["tar", "-C", layout, "-xf", bundle])
    return Carried(bundle, fingerprint, layout)


def _upstream(folder: Path) -> upstream.Upstream:
    """Copy the lab's upstream and add an image of two platforms, of which one is missing."""
    real = upstream.build(["registry", PAUSE])
    (pause, built), (archive, path) = real.images[0], real.files[0]
    blobs, files = folder / "upstream/blobs", folder / "upstream/files"
    files.mkdir(parents=True)
    for blob in (built.index, built.manifest, *built.parts):
        source, target = (top / blob.digest.replace(":", "/") for top in (real.blobs, blobs))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    index = json.loads((blobs / built.index.digest.replace(":", "/")).read_bytes())
    absent = {
        "mediaType": images.MANIFEST, "digest": f"sha256:{'0' * 63}1", "size": 402,
        "platform": {"architecture": "arm64", "os": "linux"},
    }  # fmt: skip
    index["manifests"].append(absent)
    partial = (replace(pause, ref=PARTIAL), replace(built, index=images._json(blobs, index)))
    return upstream.Upstream(
        programs={},
        files=((archive, Path(shutil.copy(path, files))),),
        images=(*real.images, partial),
        blobs=blobs,
    )


def discard(carried: Carried) -> None:
    """Delete the large files: pytest keeps the folders of three runs."""
    shutil.rmtree(carried.layout)
    carried.bundle.unlink()
