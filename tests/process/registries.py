"""A real registry (CNCF distribution) on loopback; clients that push and sign images."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keystone.bundle import media
from keystone.lab.mirror import upstream
from keystone.lab.mirror.serve import _free_port as free_port
from keystone.packager.sources import cosign
from keystone.run import spawned

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def described(media_type: str, data: bytes, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data), **more}


@contextmanager
def distribution(folder: Path, root: Path, *, readonly: bool = False) -> Iterator[str]:
    """Run a registry whose storage is `root`; give its address "127.0.0.1:<port>"."""
    address = f"127.0.0.1:{free_port()}"
    storage: dict[str, Any] = {"filesystem": {"rootdirectory": str(root)}}
    if readonly:
        storage["maintenance"] = {"readonly": {"enabled": True}}
    config = folder / f"registry-{address.rpartition(':')[2]}.yaml"
    config.write_text(
        yaml.safe_dump({
            "version": 0.1, "storage": storage, "http": {"addr": address, "secret": "x"},
            "log": {"level": "warn", "accesslog": {"disabled": True}},
        })
    )  # fmt: skip
    with spawned([upstream.binary("registry"), "serve", config], log_file=folder / "log") as done:
        deadline = time.monotonic() + 60
        while ask(address, "GET", "/v2/")[0] != 200:
            assert done.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield address


def ask(
    address: str, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request(
            method, path, body or None, {k.replace("_", "-"): v for k, v in headers.items()}
        )
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.headers)
    except OSError:
        return 0, b"", {}
    finally:
        connection.close()


@dataclass(frozen=True)
class Repository:
    """One repository to push to."""

    address: str
    name: str

    def blob(self, data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        status, _, headers = ask(self.address, "POST", f"/v2/{self.name}/blobs/uploads/")
        assert status == 202
        location = headers["Location"].partition(self.address)[2]
        path = f"{location}&digest={digest(data)}"
        status, output, _ = ask(
            self.address, "PUT", path, data, Content_Type="application/octet-stream"
        )
        assert status == 201, output
        return described(media_type, data, **more)

    def manifest(self, document: dict[str, Any], tag: str = "", **more: Any) -> dict[str, Any]:
        data = json.dumps(document).encode()
        path = f"/v2/{self.name}/manifests/{tag or digest(data)}"
        status, output, _ = ask(self.address, "PUT", path, data, Content_Type=document["mediaType"])
        assert status == 201, output
        return described(document["mediaType"], data, **more)

    def image(self, architecture: str, layer: bytes) -> dict[str, Any]:
        config = {
            "architecture": architecture, "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
        }  # fmt: skip
        return self.manifest(
            {
                "schemaVersion": 2, "mediaType": media.MANIFEST,
                "config": self.blob(json.dumps(config).encode(), CONFIG),
                "layers": [self.blob(layer, LAYER)],
            },
            platform={"os": "linux", "architecture": architecture},
        )  # fmt: skip

    def attach(
        self, subject: dict[str, Any] | None, layers: list[dict[str, Any]], kind: str, tag: str = ""
    ) -> dict[str, Any]:
        """Push an artifact; with a subject, it is a referrer of that."""
        document = {
            "schemaVersion": 2, "mediaType": media.MANIFEST, "artifactType": kind,
            "config": self.blob(b"{}", media.EMPTY_TYPE), "layers": layers,
        }  # fmt: skip
        if subject:
            document["subject"] = {key: subject[key] for key in ("mediaType", "digest", "size")}
        return self.manifest(document, tag, artifactType=kind)

    def index(self, children: list[dict[str, Any]], tag: str = "") -> dict[str, Any]:
        return self.manifest(
            {"schemaVersion": 2, "mediaType": media.INDEX, "manifests": children}, tag
        )


class Signer:
    """A generated cosign key."""

    def __init__(self, folder: Path, name: str = "cosign") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.public = folder / f"{name}.pub"
        self.public.write_bytes(
            self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )

    def sign(self, data: bytes) -> str:
        return base64.b64encode(self._key.sign(data, ec.ECDSA(SHA256()))).decode()

    def simple(self, signed: str, kind: str = cosign.PAYLOAD_KIND) -> tuple[bytes, dict[str, str]]:
        """Return a payload of simple signing, and its layer's annotations."""
        payload = json.dumps({
            "critical": {
                "identity": {"docker-reference": ""},
                "image": {"docker-manifest-digest": signed},
                "type": kind,
            },
            "optional": None,
        }).encode()  # fmt: skip
        return payload, {cosign.ANNOTATION: self.sign(payload)}

    def bundle(self, signed: str, predicate: str = cosign.SIGN_PREDICATE) -> bytes:
        """Return a Sigstore bundle (v0.3) around an in-toto statement about the image."""
        statement = json.dumps({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"digest": {"sha256": signed.removeprefix("sha256:")}}],
            "predicateType": predicate, "predicate": {},
        }).encode()  # fmt: skip
        kind = cosign.IN_TOTO
        encoded = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(statement), statement)
        return json.dumps({
            "mediaType": cosign.BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": "x"}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(statement).decode(), "payloadType": kind,
                "signatures": [{"sig": self.sign(encoded)}],
            },
        }).encode()  # fmt: skip
