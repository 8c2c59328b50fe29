"""kill -9 at random moments of create and ingest: a re-run ends where an undisturbed one does.

pytestmark = pytest.mark.slow

KEYSTONE_KILLS: how many of each (4 by default, `make test` 25). The seed is in the message.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess  # noqa: TID251 the commands are tried from outside
import sys
import tarfile
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

KILLS = int(os.environ.get("KEYSTONE_KILLS", "4"))
SEED = int(os.environ.get("KEYSTONE_SEED", "0")) or random.randrange(1 << 32)
IN_A_ROW = 5
"""Kills before a run is left to end."""
FILES = [50_000 + 370_013 * (number % 7) for number in range(24)]
OCI = "application/vnd.oci.image"
TIMEOUT = 300


class Mirror:
    """Files and one image, given slowly, each GET counted by the digest it is for."""

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
                except OSError:  # whoever asked was killed
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


class Site:
    """A folder with definition, lock and keys, and a bundle that nobody disturbed."""

    def __init__(self, folder: Path, mirror: Mirror, address: str) -> None:
        self.folder, self.mirror = folder, mirror
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
        start = time.monotonic()
        self.run(*self.create("whole.tar"))
        self.create_seconds = time.monotonic() - start
        self.digest = digest(folder / "whole.tar")

    def create(self, output: str) -> tuple[str, ...]:
        return ("bundle", "create", "b.lock.json", "--mirrors", "m.yaml", "--keys", "keys",
                "-o", output, "--json")  # fmt: skip

    def ingest(self, number: int) -> tuple[str, ...]:
        return ("store", "ingest", "whole.tar", "--root-fingerprint", self.fingerprint, "--store",
                f"store{number}", "--trust", f"trust{number}", "--json")  # fmt: skip

    def start(self, *words: str) -> subprocess.Popen[str]:
        env = {**os.environ, "XDG_CACHE_HOME": str(self.folder / "cache"), "NO_PROXY": "*"}
        return subprocess.Popen(
            [sys.executable, "-m", "keystone", *words], cwd=self.folder, env=env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *words: str) -> str:
        process = self.start(*words)
        out, said = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0, said
        return out

    def killed(self, seconds: float, *words: str) -> bool:
        """Whether the command still ran when it was killed."""
        process = self.start(*words)
        try:
            process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return True
        return False


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def whole_members(path: Path) -> set[str]:
    """Digests of the blobs that stand whole in an unfinished archive, as plain tar sees it."""
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


@pytest.mark.timeout(3600)
def test_killed_create_ends_with_the_same_bytes(site: Site) -> None:
    rng = random.Random(SEED)
    kills = 0
    part, output = site.folder / "b.tar.part", site.folder / "b.tar"
    while kills < KILLS:
        for _ in range(min(IN_A_ROW, KILLS - kills)):
            before = whole_members(part)
            site.mirror.asked.clear()
            # The first half second is Python's start; a chain has less to do with each link.
            if not site.killed(rng.uniform(0.1, site.create_seconds), *site.create("b.tar")):
                break
            kills += 1
            # Killed between its last rename and its end, it may be there, and then it is whole.
            assert not output.exists() or digest(output) == site.digest, f"seed {SEED}"
            again = {name for name in before if site.mirror.asked[name]}
            assert not again, f"seed {SEED}: fetched again: {again}"
        before = whole_members(part)
        site.mirror.asked.clear()
        site.run(*site.create("b.tar"))
        assert not [name for name in before if site.mirror.asked[name]], f"seed {SEED}"
        assert digest(output) == site.digest, f"seed {SEED}"
        assert not part.exists()
        output.unlink()


def tree(store: Path) -> dict[str, str]:
    """Every file of a store by name and digest."""
    return {
        str(path.relative_to(store)): digest(path)
        for path in store.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.timeout(3600)
def test_killed_ingest_ends_with_the_same_store(site: Site) -> None:
    rng = random.Random(SEED)
    start = time.monotonic()
    site.run(*site.ingest(0))
    seconds = time.monotonic() - start
    want = tree(site.folder / "store0")
    kills = number = 0
    while kills < KILLS:
        number += 1
        store = site.folder / f"store{number}"
        for _ in range(min(IN_A_ROW, KILLS - kills)):
            if not site.killed(rng.uniform(0.1, seconds), *site.ingest(number)):
                break
            kills += 1
            blobs = list((store / "blobs/sha256").glob("*"))
            assert all(digest(path) == path.name for path in blobs), f"seed {SEED}"
            assert not left_over(store), f"seed {SEED}"
        had = sum(path.stat().st_size for path in (store / "blobs/sha256").glob("*"))
        done = json.loads(site.run(*site.ingest(number)))
        if done["bytes"]:
            loose = sum((store / name).stat().st_size for name in ("index.json", "oci-layout"))
            total = sum(path.stat().st_size for path in (store / "blobs/sha256").glob("*"))
            assert done["bytes"] <= total - had + loose, f"seed {SEED}: a blob was written twice"
        assert tree(store) == want, f"seed {SEED}"
        shutil.rmtree(store)


def left_over(store: Path) -> list[str]:
    """Names that are final and hold something half-made: what is published without its blob."""
    targets = store / "metadata/targets.json"
    if not targets.exists():
        published = [store / area for area in ("registry", "apt", "files")]
        return [str(path) for folder in published for path in folder.rglob("*") if path.is_file()]
    listed = json.loads(targets.read_bytes())["signed"]["targets"]
    return [name for name in listed if name.startswith("blobs/") and not (store / name).exists()]
