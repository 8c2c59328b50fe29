"""Publishing: verify refuses bundles that cannot be published, and old images stay published."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from keystone.bundle.model import Digest, Item
from keystone.lab.mirror import upstream
from keystone.packager import members, pack
from keystone.packager.keys import keys
from keystone.packager.lock import Lock, LockedBlob
from keystone.packager.sources.upstream import Sources
from keystone.run import run, spawned

from .command_line import CommandLine
from .test_charts import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CREATED = datetime(2026, 11, 20, 12, tzinfo=UTC)
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
TRUSTED = ("--trust", "trust")


class Maker(CommandLine):
    """A packager's folder with a Primer's store."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.fingerprint = keys.init(folder / "keys", None, CREATED)
        self.blobs: dict[Digest, LockedBlob] = {}

    def blob(self, text: str, media: str = "application/octet-stream") -> Digest:
        digest = Digest(hashlib.sha256(text.encode()).hexdigest())
        self.blobs[digest] = LockedBlob(digest, len(text), f"inline:{text}", media)
        return digest

    def file(self, kind: str, name: str, **labels: str) -> Item:
        return Item(kind, name, "1", self.blob(name), len(name), labels)

    def image(self, name: str, tag: str, **labels: str) -> Item:
        parts = [self.blob(text) for text in ("{}", f"the layer of {name}:{tag}")]
        described: list[dict[str, Any]] = [
            {"mediaType": "x", "digest": str(one), "size": self.blobs[one].size} for one in parts
        ]
        text = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST,
                           "config": described[0], "layers": described[1:]})  # fmt: skip
        root = self.blob(text, MANIFEST)
        return Item("image", name, tag, root, len(text), {"mediaType": MANIFEST, **labels},
                    tuple(parts))  # fmt: skip

    def create(self, number: int, *items: Item) -> str:
        wanted = {digest for item in items for digest in (item.digest, *item.blobs)}
        blobs = tuple(self.blobs[digest] for digest in self.blobs if digest in wanted)
        lock = Lock("tiny", number, CREATED, 700, ("amd64",), items, blobs)
        path = self.folder / f"{number}.tar"
        pack.bundle(lock, self.folder, path, members.Signing(self.folder / "keys"), Sources())
        return path.name

    def trusting(self, *words: str) -> tuple[str, ...]:
        return (*words, "--root-fingerprint", self.fingerprint)

    def ingest(self, bundle: str, code: int = 0) -> str:
        words = self.trusting("store", "ingest", bundle, "--store", "store", "--trust", "trust")
        return self.said(code, *words)


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("file and folder", "files/a would be both a file and a folder of file a/b"),
        ("installer's name", "files/keystone-install would be both a file and a folder of"),
        ("no suite", "packages trixie: cannot be served: the label 'suite' is missing"),
        ("no tag", "is not a valid path in a store"),
        ("path traversal", "is not a valid name in a bundle"),
    ],
)
def test_verify_refuses_a_bundle_that_cannot_be_published(
    maker: Maker, case: str, expected: str
) -> None:
    items = {
        "file and folder": [maker.file("binary", "a"), maker.file("file", "a/b")],
        "installer's name": [maker.file("installer", "keystone-install"),
                             maker.file("file", "x", filename="keystone-install/x")],
        "no suite": [maker.file("packages", "trixie")],
        "no tag": [maker.image("registry.example/app", "")],
        "path traversal": [maker.image("app", "1", repository="../../../../../../climbed")],
    }[case]  # fmt: skip
    bundle = maker.create(1, *items)
    assert expected in maker.said(5, *maker.trusting("bundle", "verify", bundle))
    assert expected in maker.ingest(bundle, code=5)
    assert not (maker.folder / "store/files").exists()
    assert not (maker.folder / "climbed").exists()


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    """The real registry, read-only over a store, configured as by roles/registry, without TLS."""
    port = free_port()
    (folder / "registry.yml").write_text(
        f"version: 0.1\nstorage:\n  filesystem: {{rootdirectory: {folder}/store/registry}}\n"
        f"  maintenance: {{readonly: {{enabled: true}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
    )
    argv = [upstream.binary("registry"), "serve", folder / "registry.yml"]
    quiet = {"OTEL_TRACES_EXPORTER": "none"}
    with spawned(argv, log_file=folder / "registry.log", env=quiet):
        yield f"http://127.0.0.1:{port}/v2"


def asked(url: str) -> str:
    """The HTTP status of the answer; retries until the server accepts connections (curl(1))."""
    words = ("--silent", "--retry", "60", "--retry-connrefused", "--output", "/dev/null",
             "--write-out", "%{http_code}", "--header", f"Accept: {MANIFEST}", url)  # fmt: skip
    return run(["curl", *words], timeout=300).stdout


def test_publishing_waits_for_another_process_that_works_on_the_store(maker: Maker) -> None:
    maker.ingest(maker.create(1, maker.file("file", "a.txt")))
    shutil.rmtree(maker.folder / "store/files")
    said = maker.folder / "said"
    argv = (sys.executable, "-m", "keystone", "store", "publish", "--store", maker.folder / "store")
    with (maker.folder / "store/.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with spawned(argv, log_file=said) as process:
            until(lambda: "waiting for another process" in said.read_text(), "it waits")
            assert not (maker.folder / "store/files").exists()
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert process.wait(60) == 0, said.read_text()
    assert (maker.folder / "store/files/a.txt").exists()


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_images_of_an_older_bundle_stay_published(maker: Maker) -> None:
    old = maker.image("registry.example/app", "v1")
    moved, again = (maker.image("registry.example/tool", "v1", n=number) for number in "12")
    gone = maker.file("file", "old.txt")
    maker.ingest(maker.create(1, old, moved, gone))
    maker.ingest(maker.create(2, maker.image("registry.example/app", "v2"), again))
    assert not (maker.folder / "store/files/old.txt").exists()
    with registry(maker.folder) as url:
        for name in ("app/manifests/v1", f"app/manifests/{old.digest}", "app/manifests/v2",
                     f"app/blobs/{old.blobs[1]}", f"tool/manifests/{moved.digest}"):  # fmt: skip
            assert (name, asked(f"{url}/registry.example/{name}")) == (name, "200")
        assert asked(f"{url}/registry.example/app/manifests/v3") == "404"
    output = maker.said(0, "store", "publish", "--store", "store")
    assert "0 names published, 0 removed" in output
