"""Kill create and ingest at random moments: the re-run gives the result of an undisturbed run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from .kills import SEED, Chains, Workspace, digest, tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
FILES = [50_000 + 370_013 * (number % 7) for number in range(24)]
OCI = "application/vnd.oci.image"


class Mirror:
    """Serves files and one image slowly, and counts the GETs by digest."""

    def __init__(self) -> None:
        self.content: dict[str, tuple[str, bytes]] = {}
        self.asked: Counter[str] = Counter()
        self.pause = 0.0
        for number, size in enumerate(FILES):
            self._keep(f"/dl/f{number}", "application/octet-stream", os.urandom(size))
        layer = self._described("blobs", f"{OCI}.layer.v1.tar", os.urandom(3_000_001))
        config = self._described(
            "blobs", f"{OCI}.config.v1+json", b'{"os":"linux","architecture":"amd64"}'
        )
        manifest = {"schemaVersion": 2, "mediaType": f"{OCI}.manifest.v1+json",
                    "config": config, "layers": [layer]}  # fmt: skip
        data = json.dumps(manifest).encode()
        self._described("manifests", f"{OCI}.manifest.v1+json", data)
        self._keep("/v2/app/manifests/v1", f"{OCI}.manifest.v1+json", data)

    def _keep(self, path: str, kind: str, data: bytes) -> None:
        self.content[path] = (kind, data)

    def _described(self, where: str, kind: str, data: bytes) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self._keep(f"/v2/app/{where}/{digest}", kind, data)
        return {"mediaType": kind, "digest": digest, "size": len(data)}

    def handler(mirror) -> type[BaseHTTPRequestHandler]:  # noqa: N805 the handler has its own self
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                self._answer(body=True)

            def _answer(self, *, body: bool) -> None:
                kind, data = mirror.content.get(self.path, ("", b""))
                start = int(self.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
                self.send_response((206 if start else 200) if kind else 404)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data) - start))
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
                self.end_headers()
                if not body or not kind:
                    return
                mirror.asked[hashlib.sha256(data).hexdigest()] += 1
                try:
                    for at in range(start, len(data), 1 << 16):
                        time.sleep(mirror.pause)
                        self.wfile.write(data[at : at + (1 << 16)])
                except OSError:  # the client was killed
                    self.close_connection = True

        return Handler


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    mirror = Mirror()
    server = ThreadingHTTPServer(("127.0.0.1", 0), mirror.handler())
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        folder = tmp_path_factory.mktemp("site")
        yield Site(folder, mirror, f"http://127.0.0.1:{server.server_address[1]}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Site(Workspace):
    """A folder with definition, lock and keys, and a bundle from an undisturbed run."""

    def __init__(self, folder: Path, mirror: Mirror, address: str) -> None:
        super().__init__(folder)
        self.mirror = mirror
        head = "apiVersion: keystone/v1alpha1\nmetadata: {name: small}\n"
        binaries = "".join(
            f"    - {{name: f{number}, version: '1', url: 'https://dl.example/f{number}'}}\n"
            for number in range(len(FILES))
        )
        (folder / "b.yaml").write_text(
            f"{head}kind: BundleDefinition\nspec:\n  number: 1\n  architectures: [amd64]\n"
            f"  installer: false\n  images: [{{ref: 'registry.example/app:v1', group: node}}]\n"
            f"  binaries:\n{binaries}"
        )
        (folder / "m.yaml").write_text(
            f"{head}kind: Mirrors\nspec:\n  mirrors:\n    registry.example/app: {address}/app\n"
            f"    https://dl.example: {address}/dl\n"
        )
        self.run("bundle", "lock", "b.yaml", "--mirrors", "m.yaml")
        self.fingerprint = self.run("bundle", "keys", "init", "--dir", "keys").strip()
        self.mirror.pause = 0.004
        self.create_seconds = self.timed(*self.create("full.tar"))
        self.digest = digest(folder / "full.tar")

    def create(self, output: str) -> tuple[str, ...]:
        return ("bundle", "create", "b.lock.json", "--mirrors", "m.yaml", "--keys", "keys",
                "-o", output, "--json")  # fmt: skip

    def ingest(self, number: int) -> tuple[str, ...]:
        return ("store", "ingest", "full.tar", "--root-fingerprint", self.fingerprint, "--store",
                f"store{number}", "--trust", f"trust{number}", "--json")  # fmt: skip


def complete_members(path: Path) -> set[str]:
    """Digests of the complete blobs in an unfinished archive, as plain tar reads it."""
    found: set[str] = set()
    if not path.exists():
        return found
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member)
                data = file.read() if file else b""
                if len(data) != member.size:
                    break
                found.add(hashlib.sha256(data).hexdigest())
    except (tarfile.ReadError, OSError):
        pass
    return found


def test_create_after_kills_gives_the_same_bytes(site: Site) -> None:
    part, output = site.folder / "b.tar.part", site.folder / "b.tar"
    before: set[str] = set()

    def words() -> tuple[str, ...]:
        before.clear()
        before.update(complete_members(part))
        site.mirror.asked.clear()
        return site.create("b.tar")

    def check() -> None:
        # After a kill between the rename and the end of the process, the complete output exists.
        assert not output.exists() or digest(output) == site.digest, f"seed {SEED}"
        again = {name for name in before if site.mirror.asked[name]}
        assert not again, f"seed {SEED}: fetched again: {again}"

    def ended(_: str) -> None:
        check()
        assert output.exists()
        assert not part.exists()
        output.unlink()

    Chains(site, site.create_seconds, part.exists).run(words, check, ended)


def test_ingest_after_kills_gives_the_same_store(site: Site) -> None:
    seconds = site.timed(*site.ingest(0))
    want, store = tree(site.folder / "store0"), site.folder / "store1"
    had: list[int] = []

    def sizes() -> int:
        return sum(path.stat().st_size for path in (store / "blobs/sha256").glob("*"))

    def words() -> tuple[str, ...]:
        had.append(sizes())
        return site.ingest(1)

    def check() -> None:
        blobs = list((store / "blobs/sha256").glob("*"))
        assert all(digest(path) == path.name for path in blobs), f"seed {SEED}"
        assert not incomplete(store), f"seed {SEED}"

    def ended(output: str) -> None:
        written = json.loads(output)["bytes"]
        loose = sum((store / name).stat().st_size for name in ("index.json", "oci-layout"))
        assert written <= sizes() - had[-1] + loose, f"seed {SEED}: a blob was written twice"
        assert tree(store) == want, f"seed {SEED}"
        shutil.rmtree(store)
        shutil.rmtree(site.folder / "trust1")

    Chains(site, seconds, (store / "incoming").exists).run(words, check, ended)


def incomplete(store: Path) -> list[str]:
    """Published files without a complete store, or listed blobs that do not exist."""
    targets = store / "metadata/targets.json"
    if not targets.exists():
        published = [store / area for area in ("registry", "apt", "files")]
        return [str(path) for folder in published for path in folder.rglob("*") if path.is_file()]
    listed = json.loads(targets.read_bytes())["signed"]["targets"]
    return [name for name in listed if name.startswith("blobs/") and not (store / name).exists()]
