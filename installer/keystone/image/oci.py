"""Build a container image of the system's tree, for inspection and tests, as an OCI archive.

It has one gzip layer in an image layout (image-spec 1.1) in one tar file, which skopeo and podman
read as "oci-archive:". Equal trees give equal bytes.
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING

from keystone.bundle import media
from keystone.bundle.format import OCI_LAYOUT
from keystone.image import steps
from keystone.sandbox import Inside

if TYPE_CHECKING:
    from pathlib import Path

    from keystone.image.inputs import Inputs

VERSION = 1
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
SORTED = "tar --sort=name --numeric-owner --format=posix --pax-option=delete=atime,delete=ctime"
LAYER = (
    f"{SORTED} --xattrs --xattrs-include='*' -C /mnt/tree -cf /mnt/out/layer ."
    " && sha256sum </mnt/out/layer >/mnt/out/unpacked && gzip -n -6 /mnt/out/layer"
)
ARCHIVE = (
    f"{SORTED} --owner=0 --group=0 --mode=u=rwX,go=rX --mtime=@$SOURCE_DATE_EPOCH"
    " -C /mnt/out/layout -cf /mnt/out/image ."
)


def oci(inputs: Inputs) -> Path:
    """Build the archive."""
    env = inputs.materials.env
    name = steps.key(
        "oci", VERSION, LAYER, ARCHIVE, inputs.tree.stack(), inputs.tools.stack(), env,
        inputs.recipe.name, inputs.recipe.version,
    )  # fmt: skip

    def make(half: Path) -> None:
        inside = Inside(inputs.tools, None, {"tree": inputs.tree, "out": half}, env)
        inside.run(["sh", "-euc", LAYER])
        unpacked = (half / "unpacked").read_text().split()[0]
        _layout(half, f"sha256:{unpacked}", inputs)
        inside.run(["sh", "-euc", ARCHIVE])
        (half / "unpacked").unlink()
        steps.remove(half / "layout")

    return steps.step(name, "container image", make) / "image"


def _layout(half: Path, unpacked: str, inputs: Inputs) -> None:
    blobs = half / "layout/blobs/sha256"
    blobs.mkdir(parents=True)
    created = inputs.materials.lock.created.strftime("%Y-%m-%dT%H:%M:%SZ")

    def described(kind: str, data: bytes) -> dict[str, object]:
        digest = sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}

    packed = half / "layer.gz"
    with packed.open("rb") as file:
        seen = sha256()
        while chunk := file.read(1 << 20):
            seen.update(chunk)
    layer = {
        "mediaType": LAYER_TYPE,
        "digest": f"sha256:{seen.hexdigest()}",
        "size": packed.stat().st_size,
    }
    packed.rename(blobs / seen.hexdigest())
    config = described(CONFIG_TYPE, _json({
        "created": created, "architecture": "amd64", "os": "linux",
        "config": {"Cmd": ["/bin/bash"], "Labels": {
            "org.opencontainers.image.title": f"keystone-{inputs.recipe.name}",
            "org.opencontainers.image.version": str(inputs.recipe.version),
        }},
        "rootfs": {"type": "layers", "diff_ids": [unpacked]},
        "history": [{"created": created, "created_by": "keystone-install image build"}],
    }))  # fmt: skip
    manifest = described(media.MANIFEST, _json({
        "schemaVersion": 2, "mediaType": media.MANIFEST, "config": config, "layers": [layer],
    }))  # fmt: skip
    tag = {"org.opencontainers.image.ref.name": str(inputs.recipe.version)}
    (half / "layout/index.json").write_bytes(_json({
        "schemaVersion": 2, "mediaType": media.INDEX,
        "manifests": [{**manifest, "annotations": tag}],
    }))  # fmt: skip
    (half / "layout/oci-layout").write_bytes(OCI_LAYOUT)


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
