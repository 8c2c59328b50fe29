"""The upstream mirror: a real registry and a file server on loopback, with upstream's names.

Bundle definitions are the production ones; only the Mirrors document, written here, differs.
Repositories are named `<upstream host>/<name>`, files `/<upstream host>/<path>`.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from keystone import log
from keystone.errors import HostError
from keystone.lab.mirror import fileserver, upstream
from keystone.run import spawned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from keystone.lab.mirror.catalogue import File, Image
    from keystone.lab.mirror.images import Blob, Built
    from keystone.lab.mirror.upstream import Upstream

LOOPBACK = "127.0.0.1"
START_SECONDS = 60
"""Timeout for the registry's first answer, under load."""


@dataclass(frozen=True)
class Mirror:
    """A running mirror: two addresses ("127.0.0.1:<port>") and the path of the Mirrors document."""

    registry: str
    files: str
    mirrors_file: Path


@contextmanager
def serve(content: Upstream) -> Iterator[Mirror]:
    """Serve the artefacts while the block runs, on free ports, from hard links without copies.

    Raises HostError if the registry does not answer, CommandError if it cannot be built.
    """
    program = upstream.binary("registry")
    with ExitStack() as stack:
        parent = content.blobs.parent  # on the file system of the blobs, as hard links require
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="mirror-", dir=parent))
        )
        fill_registry(folder / "registry", content)
        fill_files(folder / "files", content)
        registry = f"{LOOPBACK}:{_free_port()}"
        config = folder / "registry.yaml"
        config.write_text(yaml.safe_dump(_registry_config(folder / "registry", registry)))
        log_file = folder / "registry.log"
        process = stack.enter_context(spawned([program, "serve", config], log_file=log_file))
        _wait(registry, process.poll, log_file)
        files = stack.enter_context(fileserver.serve(folder / "files"))
        mirror = Mirror(registry, files, folder / "mirrors.yaml")
        mirror.mirrors_file.write_text(yaml.safe_dump(document(content, registry, files)))
        log.info(f"upstream mirror: registry http://{registry}, files http://{files}")
        yield mirror


def document(content: Upstream, registry: str, files: str) -> dict[str, object]:
    """The Mirrors document: upstream's addresses and the addresses of this mirror."""
    registries = {image.repository.partition("/")[0] for image, _ in content.images}
    hosts = {file.url.split("/")[2] for file, _ in content.files}
    mirrors = {host: f"http://{registry}/{host}" for host in sorted(registries)}
    mirrors |= {f"https://{host}": f"http://{files}/{host}" for host in sorted(hosts)}
    return {
        "apiVersion": "keystone/v1alpha1",
        "kind": "Mirrors",
        "metadata": {"name": "lab"},
        "spec": {"mirrors": mirrors},
    }


def fill_registry(root: Path, content: Upstream) -> None:
    """Fill the storage of distribution (paths of its filesystem driver, v2) with hard links."""
    top = root / "docker" / "registry" / "v2"
    for image, built in content.images:
        repository = top / "repositories" / image.repository
        for blob in (built.index, built.manifest, *built.parts):
            digest = _hex(blob)
            _link(
                content.blobs / "sha256" / digest, top / f"blobs/sha256/{digest[:2]}/{digest}/data"
            )
        for name, blob in _links(image, built).items():
            path = repository / name / "link"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(blob.digest)


def _links(image: Image, built: Built) -> Mapping[str, Blob]:
    """Folders in the repository, and the blob whose digest is in the folder's `link` file."""
    revisions = {f"_manifests/revisions/sha256/{_hex(blob)}": blob
                 for blob in (built.index, built.manifest)}  # fmt: skip
    tag = f"_manifests/tags/{image.tag}"
    tags = {
        f"{tag}/current": built.index,
        f"{tag}/index/sha256/{_hex(built.index)}": built.index,
    }
    layers = {f"_layers/sha256/{_hex(blob)}": blob for blob in built.parts}
    return {**revisions, **tags, **layers}


def fill_files(root: Path, content: Upstream) -> None:
    """Link every file at its URL without the scheme, and write its checksum file."""
    for file, source in content.files:
        target = root / file.url.removeprefix("https://")
        _link(source, target)
        target.with_name(file.checksum).write_text(_checksum(file, source))


def _checksum(file: File, source: Path) -> str:
    """A checksum file in upstream's format: dl.k8s.io a bare digest, others that of sha256sum."""
    with source.open("rb") as data:
        digest = hashlib.file_digest(data, "sha256").hexdigest()
    name = file.url.rpartition("/")[2]
    return digest if file.url.startswith("https://dl.k8s.io/") else f"{digest}  {name}\n"


def _registry_config(root: Path, address: str) -> dict[str, object]:
    """The configuration of distribution, read-only, since nothing is pushed to upstream."""
    return {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(root)},
            "maintenance": {"readonly": {"enabled": True}},
        },
        "http": {"addr": address, "secret": "loopback-only"},
    }


def _wait(address: str, ended: Callable[[], int | None], log_file: Path) -> None:
    """Wait until the registry's API answers. Raises HostError."""
    deadline = time.monotonic() + START_SECONDS
    while not _answers(address):
        if ended() is not None or time.monotonic() > deadline:
            output = "\n".join(log_file.read_text().splitlines()[-10:])
            raise HostError(
                f"registry of the upstream mirror: no answer on {address}\n{output}",
                hint="repeat the command; 'address already in use' means that another program took "
                "the port",
            )
        time.sleep(0.05)


def _answers(address: str) -> bool:
    """Whether GET /v2/ succeeds (OCI distribution-spec, end-1)."""
    connection = http.client.HTTPConnection(address, timeout=5)
    try:
        connection.request("GET", "/v2/")
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
    return port


def _hex(blob: Blob) -> str:
    return blob.digest.removeprefix("sha256:")


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        os.link(source, target)
