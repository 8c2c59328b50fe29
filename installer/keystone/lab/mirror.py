"""The upstream mirror: a real registry and a file server on loopback, under upstream's names.

Bundle definitions stay the production ones; the Mirrors document written here is all that
differs. Repositories are called `<upstream host>/<name>`, files `/<upstream host>/<path>`.
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
from keystone.lab import fileserver, upstream
from keystone.run import spawned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from keystone.lab.catalogue import File, Image
    from keystone.lab.images import Blob, Built
    from keystone.lab.upstream import Upstream

LOOPBACK = "127.0.0.1"
START_SECONDS = 60
"""Patience for the registry's first answer, under load."""


@dataclass(frozen=True)
class Mirror:
    """A running mirror: its two addresses ("127.0.0.1:<port>") and the Mirrors document."""

    registry: str
    files: str
    mirrors_file: Path


@contextmanager
def serve(content: Upstream) -> Iterator[Mirror]:
    """Serve while the block runs, on free ports; nothing is copied, all of it is hard links.

    Raises HostError when the registry does not answer, CommandError when it cannot be built.
    """
    program = upstream.binary("registry")
    with ExitStack() as stack:
        parent = content.blobs.parent  # one file system with the blobs: links need that
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
    """The Mirrors document: upstream's address -> address here."""
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
    """Lay out distribution's storage (its filesystem driver's paths, v2) by hard links."""
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
    """Folder under the repository -> the blob whose digest its `link` file holds."""
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
    """Every file under its URL without the scheme, its checksum file beside it."""
    for file, source in content.files:
        target = root / file.url.removeprefix("https://")
        _link(source, target)
        target.with_name(file.checksum).write_text(_checksum(file, source))


def _checksum(file: File, source: Path) -> str:
    """As upstream writes it: dl.k8s.io the bare digest, the others sha256sum's format."""
    with source.open("rb") as data:
        digest = hashlib.file_digest(data, "sha256").hexdigest()
    name = file.url.rpartition("/")[2]
    return digest if file.url.startswith("https://dl.k8s.io/") else f"{digest}  {name}\n"


def _registry_config(root: Path, address: str) -> dict[str, object]:
    """Distribution's configuration: read-only, as nothing is ever pushed to upstream."""
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
    """Until the registry's API answers."""
    deadline = time.monotonic() + START_SECONDS
    while not _answers(address):
        if ended() is not None or time.monotonic() > deadline:
            said = "\n".join(log_file.read_text().splitlines()[-10:])
            raise HostError(
                f"registry of the upstream mirror: no answer on {address}\n{said}",
                hint="re-run; if it says 'address already in use', another program took the port",
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
