"""The real registry on a tree of hard links, over TLS, configured by the role's template."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from keystone.ansible.roles import registry
from keystone.run import Result, spawned

from .conftest import NODES, Lan, Placed, context, render, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

NAME, TAG = "registry.k8s.io/pause", "3.10"
ADDRESS = f"{NODES['p1']}:5000"
IMAGE = f"docker://{ADDRESS}/{NAME}:{TAG}"
OCI = "application/vnd.oci.image"


@dataclass(frozen=True)
class Served:
    """A registry on p1, with the other Primers as clients."""

    lan: Lan
    folder: Path
    digest: str

    def skopeo(self, *words: str, trusting: bool = True) -> Result:
        """Run skopeo on p2; {certs} in an argument is the folder of its trusted CAs."""
        certs = self.folder / ("trusting" if trusting else "doubting")
        argv = [word.format(certs=certs) for word in words]
        return self.lan.run("p2", "skopeo", *argv, check=False)


def image() -> tuple[str, dict[str, bytes]]:
    """Return a minimal image: digest of its manifest, and every blob by digest."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        entry = tarfile.TarInfo("hello")
        entry.size = 5
        tar.addfile(entry, io.BytesIO(b"hello"))
    plain = packed.getvalue()
    layer = gzip.compress(plain, mtime=0)
    config = json.dumps({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(plain)}"]},
    }).encode()  # fmt: skip
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": f"{OCI}.manifest.v1+json",
        "config": descriptor(config, f"{OCI}.config.v1+json"),
        "layers": [descriptor(layer, f"{OCI}.layer.v1.tar+gzip")],
    }).encode()  # fmt: skip
    return sha256(manifest), {sha256(blob): blob for blob in (layer, config, manifest)}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def descriptor(content: bytes, media_type: str) -> dict[str, object]:
    return {"mediaType": media_type, "digest": f"sha256:{sha256(content)}", "size": len(content)}


def publish(store: Path) -> str:
    """Fill store/registry by hard links to store/blobs, as the store phase does."""
    digest, blobs = image()
    top = store / "registry/docker/registry/v2"
    home = top / "repositories" / NAME
    for name, content in blobs.items():
        blob = store / "blobs/sha256" / name
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        data = top / "blobs/sha256" / name[:2] / name / "data"
        data.parent.mkdir(parents=True)
        os.link(blob, data)
        if name != digest:
            link(home / "_layers/sha256" / name, name)
    link(home / "_manifests/revisions/sha256" / digest, digest)
    link(home / "_manifests/tags" / TAG / "current", digest)
    link(home / "_manifests/tags" / TAG / "index/sha256" / digest, digest)
    return digest


def link(folder: Path, digest: str) -> None:
    folder.mkdir(parents=True)
    (folder / "link").write_text(f"sha256:{digest}")


@pytest.fixture(scope="module")
def served(
    namespaces: Callable[[Mapping[str, str]], Lan],
    pki_site: Placed,
    binary: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("registry")
    digest = publish(folder / "store")
    for certs in ("trusting", "doubting"):
        (folder / certs).mkdir()
    authority = pki_site.at("p2", "/etc/keystone/pki/site-ca.crt")
    (folder / "trusting/ca.crt").write_bytes(authority.read_bytes())
    variables = {
        **registry.variables(context(pki_site, "p1")),
        "registry_root": str(folder / "store/registry"),
        "registry_certificate": str(pki_site.at("p1", "/etc/keystone/pki/site.crt")),
        "registry_key": str(pki_site.at("p1", "/etc/keystone/pki/site.key")),
    }
    (folder / "registry.yml").write_text(render("registry", "registry.yml.j2", variables))
    lan = namespaces(NODES)
    argv = lan.at("p1", binary("registry"), "serve", folder / "registry.yml")
    quiet = {"OTEL_TRACES_EXPORTER": "none"}
    with spawned(argv, log_file=folder / "log", env=quiet):
        made = Served(lan, folder, digest)
        asks = ("inspect", "--cert-dir", "{certs}", "--raw", IMAGE)
        until(lambda: made.skopeo(*asks).returncode == 0, "the registry answers", 30)
        yield made


def test_image_is_pulled_over_tls_with_the_site_ca(served: Served, tmp_path: Path) -> None:
    pulled = served.skopeo("copy", "--src-cert-dir", "{certs}", IMAGE, f"oci:{tmp_path}/out:x")
    assert pulled.returncode == 0, pulled.stderr
    index = json.loads((tmp_path / "out/index.json").read_text())
    assert index["manifests"][0]["digest"] == f"sha256:{served.digest}"
    tags = served.skopeo("list-tags", "--cert-dir", "{certs}", f"docker://{ADDRESS}/{NAME}")
    assert json.loads(tags.stdout)["Tags"] == [TAG]


def test_client_without_the_site_ca_refuses_the_registry(served: Served) -> None:
    refused = served.skopeo("inspect", "--cert-dir", "{certs}", IMAGE, trusting=False)
    assert refused.returncode != 0
    assert "x509" in refused.stderr


def test_push_and_delete_are_refused(served: Served, tmp_path: Path) -> None:
    served.skopeo("copy", "--src-cert-dir", "{certs}", IMAGE, f"oci:{tmp_path}/out:x")
    pushed = served.skopeo(
        "copy", "--dest-cert-dir", "{certs}", f"oci:{tmp_path}/out:x", f"docker://{ADDRESS}/new:1"
    )
    assert pushed.returncode != 0
    assert "405" in pushed.stderr
    deleted = served.skopeo("delete", "--cert-dir", "{certs}", IMAGE)
    assert deleted.returncode != 0
    assert served.skopeo("inspect", "--cert-dir", "{certs}", "--raw", IMAGE).returncode == 0


def test_corrupt_blob_is_refused_by_the_client(served: Served, tmp_path: Path) -> None:
    layer = json.loads((served.folder / "store/blobs/sha256" / served.digest).read_text())
    name = layer["layers"][0]["digest"].removeprefix("sha256:")
    blob = served.folder / "store/blobs/sha256" / name
    sound = blob.read_bytes()
    try:
        with blob.open("r+b") as file:  # changed in place, as the registry's link is the same inode
            file.seek(len(sound) // 2)
            file.write(bytes([sound[len(sound) // 2] ^ 1]))
        pulled = served.skopeo("copy", "--src-cert-dir", "{certs}", IMAGE, f"oci:{tmp_path}/out:x")
        assert pulled.returncode != 0
    finally:
        blob.write_bytes(sound)


@pytest.mark.parametrize("version", ["tls1", "tls1_1"])
def test_tls_before_1_2_is_refused(served: Served, version: str) -> None:
    refused = served.lan.run(
        "p2", "openssl", "s_client", "-connect", ADDRESS, f"-{version}",
        "-cipher", "ALL:@SECLEVEL=0", check=False,
    )  # fmt: skip
    assert refused.returncode != 0
    assert "alert protocol version" in refused.stderr


def test_openssl_and_python_accept_the_trust_anchor(served: Served) -> None:
    """OpenSSL requires a self-signed anchor; Go accepted it above. The verified name is the IP."""
    authority = served.folder / "trusting/ca.crt"
    done = served.lan.run(
        "p2", "openssl", "s_client", "-connect", ADDRESS, "-CAfile", authority,
        "-verify_return_error", "-verify_ip", NODES["p1"], check=False,
    )  # fmt: skip
    assert "Verify return code: 0 (ok)" in done.stdout, done.stdout + done.stderr
    script = (
        "import ssl, sys, urllib.request as u\n"
        "c = ssl.create_default_context(cafile=sys.argv[1])\n"
        "print(u.urlopen(sys.argv[2], context=c).status)\n"
    )
    words = ("-c", script, authority, f"https://{ADDRESS}/v2/")
    assert served.lan.run("p3", "python3", *words).stdout.strip() == "200"
