"""Commands of packager and Primer as processes, with a small registry on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess  # noqa: TID251 the commands are tried from outside
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

REF = "registry.example/team/app"
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYER = 24 << 20
SBOM_TYPES = {
    "application/spdx+json",
    "application/vnd.cyclonedx+json",
    "application/vnd.in-toto+json",
}


class Upstream:
    """A registry with a multi-platform image, and a file server; can stall and drop connections."""

    def __init__(self) -> None:
        self.content: dict[str, tuple[str, bytes]] = {}
        self.asked: Counter[str] = Counter()
        self.break_once: set[str] = set()
        self.busy_once: set[str] = set()
        self.stall: str | None = None
        self.stalled = threading.Event()
        self.released = threading.Event()
        children = [self._image(name) for name in ("amd64", "arm64")]
        index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": children}).encode()
        self.root = hashlib.sha256(index).hexdigest()
        self.content["/v2/mirrored/team/app/manifests/v1"] = (INDEX, index)
        self.content[f"/v2/mirrored/team/app/manifests/sha256:{self.root}"] = (INDEX, index)
        self.tool = os.urandom(3 << 20)
        self.content["/dl/tool"] = ("application/octet-stream", self.tool)
        checksum = f"{hashlib.sha256(self.tool).hexdigest()}\n".encode()
        self.content["/dl/tool.sha256"] = ("text/plain", checksum)

    def _blob(self, kind: str, media_type: str, data: bytes) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.content[f"/v2/mirrored/team/app/{kind}/{digest}"] = (media_type, data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def _image(self, architecture: str) -> dict[str, Any]:
        layers = [
            self._blob("blobs", "application/vnd.oci.image.layer.v1.tar", os.urandom(LAYER))
            for _ in range(2)
        ]
        if architecture == "amd64":
            self.layers = [f"/v2/mirrored/team/app/blobs/{layer['digest']}" for layer in layers]
        config = json.dumps({"architecture": architecture, "os": "linux"}).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self._blob("blobs", "application/vnd.oci.image.config.v1+json", config),
            "layers": layers,
        }
        described = self._blob("manifests", MANIFEST, json.dumps(manifest).encode())
        return {**described, "platform": {"os": "linux", "architecture": architecture}}


def handler(upstream: Upstream) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            upstream.asked[self.path] += body
            if self.path not in upstream.content or self.path in upstream.busy_once:
                self.send_response(503 if self.path in upstream.busy_once else 404)
                upstream.busy_once.discard(self.path)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            media_type, data = upstream.content[self.path]
            start = int(self.headers.get("Range", "bytes=0-")[6:-1])
            self.send_response(206 if start else 200)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(data) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            if not body:
                return
            part = data[start:]
            if self.path == upstream.stall:
                self.wfile.write(part[: len(part) // 2])
                upstream.stalled.set()
                upstream.released.wait(120)
            elif self.path in upstream.break_once:
                upstream.break_once.discard(self.path)
                self.wfile.write(part[: len(part) // 2])
                self.close_connection = True
            else:
                self.wfile.write(part)

    return Handler


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    found = Upstream()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(found))
    server.daemon_threads = True
    found.address = f"http://127.0.0.1:{server.server_address[1]}"  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield found
    found.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


class Packager:
    """A folder with a definition, mirrors and keys, and the command line."""

    def __init__(self, folder: Path, upstream: Upstream) -> None:
        self.folder = folder
        address = upstream.address  # type: ignore[attr-defined]
        head = "apiVersion: keystone/v1alpha1\nmetadata: {name: small}\n"
        (folder / "small.yaml").write_text(
            f"{head}kind: BundleDefinition\nspec:\n  number: 1\n  architectures: [amd64]\n"
            "  installer: false\n"
            f"  images: [{{ref: '{REF}:v1', group: node}}]\n"
            "  binaries: [{name: tool, version: '1', url: 'https://dl.example/tool'}]\n"
        )
        (folder / "mirrors.yaml").write_text(
            f"{head}kind: Mirrors\nspec:\n  mirrors:\n"
            f"    registry.example: {address}/mirrored\n    https://dl.example: {address}/dl\n"
        )
        self.fingerprint = self.run("bundle", "keys", "init", "--dir", "keys").stdout.strip()

    def argv(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "keystone", *words]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "XDG_CACHE_HOME": str(self.folder / "cache"), "NO_PROXY": "*"}

    def run(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.argv(*words), cwd=self.folder, env=self.environment(), capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done

    def lock(self) -> None:
        self.run("bundle", "lock", "small.yaml", "--mirrors", "mirrors.yaml")

    def create_words(self, output: str) -> tuple[str, ...]:
        return ("bundle", "create", "small.lock.json", "--mirrors", "mirrors.yaml", "-o", output,
                "--keys", "keys")  # fmt: skip

    def create(self, output: str) -> bytes:
        self.run(*self.create_words(output))
        return (self.folder / output).read_bytes()

    def ingest_words(self, source: str) -> tuple[str, ...]:
        return ("store", "ingest", source, "--root-fingerprint", self.fingerprint, "--store",
                "store", "--trust", "trust", "--json")  # fmt: skip


@pytest.fixture
def packager(tmp_path: Path, upstream: Upstream) -> Packager:
    made = Packager(tmp_path, upstream)
    made.lock()
    return made


def test_image_from_upstream_is_published_in_the_store(
    packager: Packager, upstream: Upstream
) -> None:
    first = packager.create("a.tar")
    assert packager.create("b.tar") == first
    packager.run("bundle", "verify", "a.tar", "--root-fingerprint", packager.fingerprint)
    shown = json.loads(packager.run("bundle", "show", "a.tar", "--json").stdout)
    assert shown["fingerprint"] == packager.fingerprint
    done = json.loads(packager.run(*packager.ingest_words("a.tar")).stdout)
    assert done["changed"]
    assert done["bundle"] == "small"
    store = packager.folder / "store"
    tree = store / "registry/docker/registry/v2"
    tags = tree / f"repositories/{REF}/_manifests/tags/v1/current/link"
    assert tags.read_text() == f"sha256:{upstream.root}"
    blob = store / f"blobs/sha256/{upstream.root}"
    served = tree / f"blobs/sha256/{upstream.root[:2]}/{upstream.root}/data"
    assert served.stat().st_ino == blob.stat().st_ino
    assert (store / "files/tool").read_bytes() == upstream.tool
    again = json.loads(packager.run(*packager.ingest_words("a.tar")).stdout)
    assert not again["changed"]
    state = json.loads((store / "state.json").read_text())
    assert state == {"bundle": shown["digest"], "complete": True}


def test_plain_tar_unpacks_to_an_oci_layout(packager: Packager, upstream: Upstream) -> None:
    packager.create("a.tar")
    out = packager.folder / "out"
    out.mkdir()
    subprocess.run(["tar", "-C", out, "-xf", packager.folder / "a.tar"], check=True)
    names = {path.name for path in out.iterdir()}
    assert names == {".padding", "metadata", "keystone.json", "oci-layout", "index.json", "blobs"}
    for path in (out / "blobs/sha256").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    index = json.loads((out / "index.json").read_bytes())
    refs = {
        entry["annotations"]["org.opencontainers.image.ref.name"]: entry
        for entry in index["manifests"]
        if "annotations" in entry
    }
    assert refs.keys() == {f"{REF}:v1", "keystone.local/small:1"}
    attached = {
        entry["artifactType"]: entry for entry in index["manifests"] if "artifactType" in entry
    }
    assert attached.keys() == SBOM_TYPES
    content = refs["keystone.local/small:1"]
    for entry in attached.values():
        manifest = json.loads((out / "blobs" / entry["digest"].replace(":", "/")).read_bytes())
        assert manifest["subject"] == {key: content[key] for key in ("mediaType", "digest", "size")}
        (layer,) = manifest["layers"]
        json.loads((out / "blobs" / layer["digest"].replace(":", "/")).read_bytes())


def test_lock_without_a_change_keeps_its_bytes(packager: Packager) -> None:
    before = (packager.folder / "small.lock.json").read_bytes()
    packager.lock()
    assert (packager.folder / "small.lock.json").read_bytes() == before


def test_create_resumes_a_broken_download(packager: Packager, upstream: Upstream) -> None:
    upstream.asked.clear()
    upstream.break_once.add(upstream.layers[0])
    upstream.busy_once.add(upstream.layers[1])
    packager.create("a.tar")
    assert upstream.asked[upstream.layers[0]] == 2


def test_changed_upstream_is_refused(packager: Packager, upstream: Upstream) -> None:
    media_type, data = upstream.content[upstream.layers[0]]
    upstream.content[upstream.layers[0]] = (media_type, data[:-1] + b"?")
    failed = packager.run(*packager.create_words("a.tar"), code=5)
    assert "digest" in failed.stderr
    assert not (packager.folder / "a.tar").exists()


def test_killed_create_keeps_downloaded_blobs(packager: Packager, upstream: Upstream) -> None:
    want = packager.create("complete.tar")
    upstream.asked.clear()
    upstream.stall = upstream.layers[1]
    process = subprocess.Popen(
        packager.argv(*packager.create_words("incomplete.tar")), cwd=packager.folder,
        env=packager.environment(), stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert upstream.stalled.wait(120)
    # Earlier requests, for the tool and the first layer, may still be in progress.
    deadline = time.monotonic() + 120
    while (packager.folder / "incomplete.tar.part").stat().st_size <= LAYER + (8 << 20):
        assert time.monotonic() < deadline, "the first layer was never written"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (packager.folder / "incomplete.tar").exists()
    upstream.stall = None
    upstream.released.set()
    assert packager.create("incomplete.tar") == want
    assert upstream.asked[upstream.layers[0]] == 1


def test_killed_ingest_from_a_pipe_keeps_complete_blobs(packager: Packager) -> None:
    data = packager.create("a.tar")
    process = subprocess.Popen(
        packager.argv(*packager.ingest_words("-")), cwd=packager.folder,
        env=packager.environment(), stdin=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdin
    # The pipe buffers little, so the reader is inside the last layer here.
    process.stdin.write(data[: len(data) - (8 << 20)])
    process.stdin.flush()
    blobs = packager.folder / "store/blobs/sha256"
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size == LAYER for path in blobs.glob("*")):
        assert time.monotonic() < deadline, "the first layer never got its name"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(BrokenPipeError):
        os.write(process.stdin.fileno(), data[-(8 << 20) :])
    status = packager.run("store", "status", "--store", "store", "--json")
    assert not json.loads(status.stdout)["complete"]
    with (packager.folder / "a.tar").open("rb") as stdin:
        done = subprocess.run(
            packager.argv(*packager.ingest_words("-")), cwd=packager.folder,
            env=packager.environment(), stdin=stdin, capture_output=True, check=True,
        )  # fmt: skip
    written = json.loads(done.stdout)["bytes"]
    assert 0 < written <= len(data) - LAYER
    left = (packager.folder / "store").glob("incoming/*")
    assert list(left) == []


def test_exit_codes_of_verify_and_ingest(packager: Packager) -> None:
    data = bytearray(packager.create("a.tar"))
    no_pin = packager.run("bundle", "verify", "a.tar", code=4)
    assert packager.fingerprint in no_pin.stderr
    packager.run("bundle", "verify", "a.tar", "--root-fingerprint", "0" * 64, code=4)
    data[-(1 << 20)] ^= 1
    (packager.folder / "flipped.tar").write_bytes(data)
    words = ("bundle", "verify", "flipped.tar", "--root-fingerprint", packager.fingerprint)
    assert f"image {REF} v1" in packager.run(*words, code=5).stderr
    (packager.folder / "incomplete.tar").write_bytes(data[: len(data) // 2])
    packager.run(*packager.ingest_words("incomplete.tar"), code=5)
    packager.run("bundle", "verify", "none.tar", code=5)


MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def test_memory_use_is_limited(packager: Packager) -> None:
    """Each command uses at most 96 MiB resident memory; the bundle has 51 MiB."""
    for words in (
        packager.create_words("a.tar"),
        packager.ingest_words("a.tar"),
        ("bundle", "verify", "a.tar", "--root-fingerprint", packager.fingerprint),
    ):
        # Start from a small process, because a child's maximum starts at its parent's size.
        measured = subprocess.run(
            [sys.executable, "-c", MEASURE, *packager.argv(*words)], cwd=packager.folder,
            env=packager.environment(), capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert int(measured.stdout) <= 96 << 10, words


def test_sbom_covers_all_signed_content_except_the_bundle_s_index(packager: Packager) -> None:
    data = packager.create("a.tar")
    out = packager.folder / "out"
    out.mkdir()
    subprocess.run(["tar", "-C", out, "-xf", packager.folder / "a.tar"], check=True)
    targets = json.loads((out / "metadata/targets.json").read_bytes())["signed"]["targets"]
    signed = {value["hashes"]["sha256"]: name for name, value in targets.items()}
    index = json.loads((out / "index.json").read_bytes())
    # Not covered: tables of contents, the documents themselves, and their manifests.
    own = {signed_hex for signed_hex, name in signed.items() if not name.startswith("blobs/")}
    own |= {entry["digest"][7:] for entry in index["manifests"] if "artifactType" in entry}
    own |= {
        entry["digest"][7:]
        for entry in index["manifests"]
        if "keystone.local/"
        in entry.get("annotations", {}).get("org.opencontainers.image.ref.name", "")
    }
    own.add(hashlib.sha256(b"{}").hexdigest())
    contents = json.loads((out / "keystone.json").read_bytes())["items"]
    own |= {item["digest"][7:] for item in contents if item["labels"]["group"] == "description"}
    spdx = json.loads(packager.run("bundle", "sbom", "a.tar").stdout)
    listed = {c["checksumValue"] for one in spdx["packages"] for c in one.get("checksums", ())}
    assert listed == signed.keys() - own
    words = ("bundle", "sbom", "a.tar", "--format", "cyclonedx")
    cyclonedx = json.loads(packager.run(*words).stdout)
    hashes = {h["content"] for one in cyclonedx["components"] for h in one.get("hashes", ())}
    assert hashes == listed
    assert len(data) > sum(value["length"] for value in targets.values())


def test_another_environment_makes_the_same_bundle(packager: Packager, upstream: Upstream) -> None:
    want = packager.create("a.tar")
    shutil.rmtree(packager.folder / "cache")
    upstream.asked.clear()
    done = subprocess.run(
        ["sh", "-c", 'umask 077; exec "$@"', "sh", *packager.argv(*packager.create_words("b.tar"))],
        cwd=packager.folder,
        env={**packager.environment(), "TZ": "Asia/Tokyo", "LC_ALL": "tr_TR.UTF-8"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (packager.folder / "b.tar").read_bytes() == want
    # One download to scan it, one to carry it: blobs from loopback are not cached.
    assert upstream.asked[upstream.layers[0]] == 2


def test_sbom_documents_match_their_schemas(packager: Packager) -> None:
    packager.create("a.tar")
    for form in ("spdx", "cyclonedx", "provenance"):
        done = packager.run("bundle", "sbom", "a.tar", "--format", form, "--validate")
        assert "is valid" in done.stderr


def test_lock_without_sbom_and_with_it_again(packager: Packager) -> None:
    lock = packager.folder / "small.lock.json"
    described = lock.read_bytes()
    words = ("bundle", "lock", "small.yaml", "--mirrors", "mirrors.yaml")
    packager.run(*words, "--no-sbom")
    assert len(json.loads(lock.read_bytes())["blobs"]) == len(json.loads(described)["blobs"]) - 3
    packager.create("plain.tar")
    assert "--no-sbom" in packager.run("bundle", "sbom", "plain.tar", code=2).stderr
    assert "licence" not in packager.run("bundle", "show", "plain.tar").stdout.split("kind")[1]
    packager.lock()
    again = json.loads(lock.read_bytes())
    assert [b["source"] for b in again["blobs"]] == [
        b["source"] for b in json.loads(described)["blobs"]
    ]


def test_show_and_diff_of_two_bundles(packager: Packager, upstream: Upstream) -> None:
    packager.create("old.tar")
    upstream.content["/dl/tool"] = ("application/octet-stream", upstream.tool + b"new")
    checksum = hashlib.sha256(upstream.tool + b"new").hexdigest().encode()
    upstream.content["/dl/tool.sha256"] = ("text/plain", checksum)
    definition = packager.folder / "small.yaml"
    definition.write_text(definition.read_text().replace("version: '1'", "version: '2'"))
    packager.lock()
    packager.create("new.tar")
    found = json.loads(packager.run("bundle", "diff", "old.tar", "new.tar", "--json").stdout)
    (change,) = found["changes"]
    assert (change["mark"], change["before"], change["after"]) == ("~", "1", "2")
    assert change["new"] == len(upstream.tool) + 3
    assert "1 -> 2" in packager.run("bundle", "diff", "old.tar", "new.tar").stdout
    words = ("bundle", "show", "new.tar", "--against", "old.tar", "--html", "page.html", "--json")
    shown = json.loads(packager.run(*words).stdout)
    assert shown["against"] == found
    assert sum(row["size"] for row in shown["groups"]) == shown["size"]
    assert shown["licences"] == {"not stated": 2}
    assert shown["expires"] > "2028"
    assert "<h1>small" in (packager.folder / "page.html").read_text()


def test_show_warns_about_an_incomplete_bundle(packager: Packager) -> None:
    data = packager.create("a.tar")
    (packager.folder / "incomplete.tar").write_bytes(data[: len(data) // 2])
    shown = packager.run("bundle", "show", "incomplete.tar")
    assert "truncated" in shown.stderr
    assert REF in shown.stdout
