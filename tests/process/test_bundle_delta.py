"""Have-lists and deltas: a delta gives the same store as the full bundle."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import shutil
import subprocess  # noqa: TID251 the commands are tried from outside
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keystone.bundle.delta.over_store import over_store
from keystone.bundle.model import Digest, Item
from keystone.bundle.read.bundle import open_verified
from keystone.errors import DamagedBundleError, UntrustedBundleError
from keystone.packager import lock as locks
from keystone.packager.lock import Lock, LockedBlob
from keystone.store.held import open_held

CREATED = datetime(2026, 11, 20, 12, tzinfo=UTC)
LIMIT = 64 << 10


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


class Site:
    """One folder for a packager and a Primer, with the command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fingerprint = self.run("bundle", "keys", "init", "--dir", "keys").stdout.strip()

    def run(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "keystone", *words], cwd=self.folder, capture_output=True,
            text=True, check=False,
            env={**os.environ, "XDG_CACHE_HOME": str(self.folder / "cache"), "NO_PROXY": "*"},
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done

    def lock(self, number: int, things: dict[str, bytes]) -> None:
        """Lock files and, for names with a slash, one-layer images."""
        items: list[Item] = []
        blobs: dict[Digest, LockedBlob] = {}

        def blob(data: bytes, media: str = "application/octet-stream") -> Digest:
            digest = Digest(hashlib.sha256(data).hexdigest())
            (self.folder / digest.hex).write_bytes(data)
            blobs[digest] = LockedBlob(digest, len(data), f"local:{digest.hex}", media)
            return digest

        for name, data in things.items():
            digest, others, labels = blob(data), (), {}
            size = len(data)
            if "/" in name:
                kind = "application/vnd.oci.image.manifest.v1+json"
                described = {"digest": str(digest), "size": len(data), "mediaType": "layer"}
                config = {"digest": str(blob(b"{}")), "size": 2, "mediaType": "config"}
                document = json.dumps(
                    {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [described]}
                ).encode()
                others = (Digest.parse(config["digest"]), digest)
                digest, size, labels = blob(document, kind), len(document), {"mediaType": kind}
            items.append(
                Item("image" if others else "file", name, "1", digest, size, labels, others)
            )
        created = CREATED + timedelta(days=number)
        made = Lock("site", number, created, 700, ("amd64",), tuple(items), tuple(blobs.values()))
        (self.folder / f"{number}.lock.json").write_bytes(locks.dump(made))

    def create(self, number: int, output: str, *words: str) -> int:
        self.run("bundle", "create", f"{number}.lock.json", "-o", output, "--keys", "keys", *words)
        return (self.folder / output).stat().st_size

    def ingest(self, source: str, store: str = "store", code: int = 0) -> str:
        return self.run(
            "store", "ingest", source, "--root-fingerprint", self.fingerprint,
            "--store", store, "--trust", f"{store}.trust", "--json", code=code,
        ).stderr  # fmt: skip

    def have(self, store: str = "store") -> tuple[str, ...]:
        """The options with which `create` makes a delta for this store."""
        key = self.run(
            "bundle", "have", "-o", "have", "--store", store, "--trust", f"{store}.trust"
        ).stdout.strip()
        return ("--have", "have", "--site-key", key)

    def tree(self, store: str) -> dict[str, tuple[int, str]]:
        """Mode and digest of every file, by path. Equal stores have equal results."""
        top = self.folder / store
        return {
            str(path.relative_to(top)): (
                path.stat().st_mode,
                hashlib.sha256(path.read_bytes()).hexdigest(),
            )
            for path in top.rglob("*")
            if path.is_file()
        }


BINARY = noise(1, 9 << 20)
HALF = 5 << 20
LAYER = b"".join(b"%d: %s\n" % (n, noise(n, 20).hex().encode()) for n in range(40_000))
THINGS = {
    "tool": BINARY,
    "registry.example/layered": gzip.compress(LAYER, mtime=0),
    "old": noise(2, 100_000),
    "registry.example/app": noise(3, 1 << 20),
}
CHANGED = {
    "registry.example/layered": gzip.compress(LAYER[:90_000] + b"new\n" + LAYER[90_000:], mtime=0),
    "tool": BINARY[:1000] + b"inserted" + BINARY[1000:HALF] + noise(4, 5000) + BINARY[HALF:],
    "registry.example/app": noise(5, 1 << 20),
    "registry.example/new": noise(6, 50_000),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A store with bundle 1, bundle 2, and the delta between them."""
    site = Site(tmp_path_factory.mktemp("site"))
    site.lock(1, THINGS)
    site.create(1, "1.tar")
    site.ingest("1.tar")
    site.lock(2, CHANGED)
    site.create(2, "2.tar")
    site.create(2, "delta.tar", *site.have(), "--base", "1.tar")
    return site


def copy(site: Site, name: str) -> str:
    for suffix in ("", ".trust"):
        shutil.copytree(site.folder / f"store{suffix}", site.folder / f"{name}{suffix}")
    return name


def test_ingest_of_a_delta_gives_the_same_store_as_the_full_bundle(made: Site) -> None:
    for name, source in (("by-full", "2.tar"), ("by-delta", "delta.tar")):
        made.ingest(source, copy(made, name))
    assert made.tree("by-delta") == made.tree("by-full")
    assert made.tree("by-delta.trust") == made.tree("by-full.trust") | {
        name: entry for name, entry in made.tree("by-delta.trust").items() if name == "have.pem"
    }
    status = made.run("store", "status", "--store", "by-delta", "--json")
    assert json.loads(status.stdout)["complete"]


def test_installer_reads_every_blob_of_the_full_bundle_from_a_delta(made: Site) -> None:
    """As `keystone-install --bundle` opens it: blobs from the delta, a patch or the store."""
    delta, full = (
        open_verified(
            made.folder / name, fingerprint=made.fingerprint, directory=made.folder / "nothing",
            deltas=True,
        )
        for name in ("delta.tar", "2.tar")
    )  # fmt: skip
    combined = over_store(delta, made.folder / "store")
    assert over_store(full, made.folder / "store") is full
    assert (combined.digest, combined.manifest) == (full.digest, full.manifest)
    for item in full.manifest.items:
        for digest in (item.digest, *item.blobs):
            with combined.open(digest) as file:
                assert hashlib.file_digest(file, "sha256").hexdigest() == digest.hex
    with pytest.raises(DamagedBundleError, match="made for another version of the store's"):
        over_store(delta, made.folder / "empty-store")


def test_blobs_of_an_ingested_delta_are_read_from_the_store(made: Site) -> None:
    """The description names the full bundle, and carried blobs are ignored."""
    name = copy(made, "held")
    store, trust = made.folder / name, made.folder / f"{name}.trust"
    assert open_held(made.folder / "delta.tar", store, directory=trust) is None
    made.ingest("delta.tar", name)
    data = (made.folder / "delta.tar").read_bytes()
    bad = made.folder / "carried.tar"
    bad.write_bytes(data.replace(CHANGED["registry.example/new"], noise(9, 50_000)))
    assert bad.read_bytes() != data
    combined = open_held(bad, store, directory=trust)
    assert combined is not None
    assert not combined.was_read
    for item in combined.manifest.items:
        for digest in (item.digest, *item.blobs):
            with combined.open(digest) as file:
                assert hashlib.file_digest(file, "sha256").hexdigest() == digest.hex


def test_ingest_of_a_delta_completes_after_an_interruption(made: Site) -> None:
    """The kill is between two files of the new head, so old files of the head are missing."""
    store = copy(made, "interrupted")
    made.ingest("2.tar", copy(made, "there"))
    for name in ("metadata/keystone.json", "index.json"):
        shutil.copy(made.folder / "there" / name, made.folder / store / name)
    made.ingest("delta.tar", store)
    assert made.tree(store) == made.tree("there")


def test_delta_can_be_ingested_from_a_pipe_twice(made: Site) -> None:
    store = copy(made, "piped")
    words = ("store", "ingest", "-", "--root-fingerprint", made.fingerprint, "--store", store,
             "--trust", f"{store}.trust", "--json")  # fmt: skip
    for changed in (True, False):
        with (made.folder / "delta.tar").open("rb") as stdin:
            done = subprocess.run(
                [sys.executable, "-m", "keystone", *words], cwd=made.folder, stdin=stdin,
                capture_output=True, check=True,
            )  # fmt: skip
        assert json.loads(done.stdout)["changed"] is changed


def test_slightly_changed_blob_is_carried_as_a_patch(made: Site) -> None:
    # Patches for the 9 MiB binary and the gzip layer of 1 MiB; the other images are complete.
    assert (made.folder / "delta.tar").stat().st_size < (1 << 20) + 50_000 + 2 * LIMIT


def test_delta_has_the_same_bytes_after_an_interruption_or_without_cache(made: Site) -> None:
    want = (made.folder / "delta.tar").read_bytes()
    words = (*made.have(), "--base", "1.tar")
    (made.folder / "again.tar.part").write_bytes(want[: len(want) // 2])
    made.create(2, "again.tar", *words)
    assert (made.folder / "again.tar").read_bytes() == want
    shutil.rmtree(made.folder / "cache")
    made.create(2, "cold.tar", *words)
    assert (made.folder / "cold.tar").read_bytes() == want


def test_delta_without_changes_has_at_most_64_kib(made: Site) -> None:
    names = {f"registry.example/i{n}": b"%d" % n for n in range(300)}
    made.lock(11, names)
    made.create(11, "many.tar")
    made.ingest("many.tar", "many")
    have = made.have("many")
    assert made.create(11, "same.tar", *have) <= LIMIT
    made.lock(12, names)
    assert made.create(12, "relocked.tar", *have) <= LIMIT
    made.ingest("relocked.tar", "many")
    state = json.loads(made.run("store", "status", "--store", "many", "--json").stdout)
    assert (state["complete"], state["number"]) == (True, 12)


def test_verify_checks_a_delta_without_the_store(made: Site) -> None:
    words = ("--root-fingerprint", made.fingerprint)
    stderr = made.run("bundle", "verify", "delta.tar", *words).stderr
    assert "needs the store of bundle number 1" in stderr
    assert "and has 2 patches" in stderr
    data = bytearray((made.folder / "delta.tar").read_bytes())
    data[-50_000] ^= 1
    (made.folder / "flipped.tar").write_bytes(data)
    made.run("bundle", "verify", "flipped.tar", *words, code=5)
    store = copy(made, "flipped")
    made.ingest("flipped.tar", store, code=5)


def test_commands_that_need_a_full_bundle_refuse_a_delta(made: Site) -> None:
    """Commands that need all blobs refuse a delta; `show` shows the carried items."""
    words = ("--root-fingerprint", made.fingerprint)
    for asked in (
        ("check", "delta.tar", *words),
        ("serve", "delta.tar", *words),
        ("have", "delta.tar", "-o", "no", "--trust", "no.trust", *words),
        ("diff", "1.tar", "delta.tar"),
        ("diff", "delta.tar", "2.tar"),
        ("show", "2.tar", "--against", "delta.tar"),
    ):
        stderr = made.run("bundle", *asked, code=5).stderr
        assert "error[KSB-31]" in stderr, asked
        assert "a delta" in stderr
    with pytest.raises(DamagedBundleError, match="a delta"):
        open_verified(made.folder / "delta.tar", fingerprint=made.fingerprint)
    shown = made.run("bundle", "show", "delta.tar", "--json")
    assert "only the blobs that it carries" in shown.stderr
    names = {item["name"] for item in json.loads(shown.stdout)["items"]}
    assert "registry.example/new" in names
    assert "old" not in names
    made.run("bundle", "show", "delta.tar")


def test_delta_with_other_content_of_an_accepted_number_is_refused(made: Site) -> None:
    """The delta's own metadata may have the number; the full bundle's metadata is checked."""
    store = copy(made, "second")
    made.ingest("delta.tar", store)
    have = made.have(store)
    before = made.tree(store)
    made.lock(2, {**CHANGED, "evil": b"evil"})
    try:
        made.run("bundle", "create", "2.lock.json", "-o", "no.tar", "--keys", "keys", *have, code=3)
        # The packager lost the list of issued numbers.
        (made.folder / "keys/issued.json").rename(made.folder / "issued.json")
        made.create(2, "evil.tar", *have)
    finally:
        (made.folder / "issued.json").replace(made.folder / "keys/issued.json")
        made.lock(2, CHANGED)
    assert "error[KSB-28]" in made.ingest("evil.tar", store, code=4)
    assert made.tree(store) == before
    trust = made.folder / f"{store}.trust"
    delta = open_verified(made.folder / "evil.tar", directory=trust, deltas=True)
    with pytest.raises(UntrustedBundleError, match="the same number"):
        over_store(delta, made.folder / store, trust)


def test_delta_is_refused_when_the_store_lacks_a_blob(made: Site) -> None:
    config = hashlib.sha256(b"{}").hexdigest()
    store = copy(made, "lacking")
    (made.folder / store / "blobs/sha256" / config).unlink()
    before = made.tree(store)
    stderr = made.ingest("delta.tar", store, code=5)
    assert f"sha256:{config}" in stderr
    assert "lacks 1 blob that" in stderr
    assert "error[KSB-31]" in stderr
    assert made.tree(store) == before
    stderr = made.ingest("delta.tar", "empty", code=5)
    assert "this delta was made for another version of the store's" in stderr


def test_have_list_needs_a_valid_signature_by_the_site_key(made: Site) -> None:
    words = list(made.have())
    base = ("bundle", "create", "2.lock.json", "-o", "no.tar", "--keys", "keys")
    made.run(*base, *words[:2], code=4)
    made.run(*base, *words[:3], "0" * 64, code=4)
    data = bytearray((made.folder / "have").read_bytes())
    data[-5] ^= 1
    (made.folder / "changed").write_bytes(data)
    made.run(*base, "--have", "changed", *words[2:], code=5)
    (made.folder / "changed").write_bytes(bytes(data).replace(b'"number": 1', b'"number": 3'))
    made.run(*base, "--have", "changed", *words[2:], code=4)
    made.run(*base, "--base", "1.tar", code=2)


def test_have_list_can_be_made_from_a_bundle_file(made: Site) -> None:
    done = made.run(
        "bundle", "have", "1.tar", "-o", "have-1", "--trust", "of-file",
        "--root-fingerprint", made.fingerprint, "--json",
    )  # fmt: skip
    of_file = json.loads(done.stdout)
    assert of_file["number"] == 1
    size = made.create(2, "of-file.tar", "--have", "have-1", "--site-key", of_file["key"],
                       "--base", "1.tar")  # fmt: skip
    assert size == (made.folder / "delta.tar").stat().st_size
