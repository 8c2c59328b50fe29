"""Kill split, join, and creation and ingest of deltas at random moments."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import shutil
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from keystone.bundle.model import Digest, Item
from keystone.packager import lock as locks
from keystone.packager.lock import Lock, LockedBlob

from .kills import SEED, Chains, Workspace, digest, tree

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
CREATED = datetime(2026, 11, 20, 12, tzinfo=UTC)
SPLIT = ("--size", "3M", "--parity", "1")
LOST = 4
"""Index of the part that join must restore from the others."""


class Site(Workspace):
    """Two bundles, a site's store with the first one, and the store's have-list."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        noise = random.Random(1).randbytes
        words = b"".join(b"%d: %s\n" % (n, noise(20).hex().encode()) for n in range(20_000))
        things = {f"thing-{n}": noise(1_500_000 + n) for n in range(20)}
        tool = noise(5 << 20)
        self.fingerprint = self.run("bundle", "keys", "init", "--dir", "keys").strip()
        self.make(1, {**things, "tool": tool, "layer": gzip.compress(words, mtime=0)})
        self.run(*self.ingest("1.tar", "store"))
        key = self.run("bundle", "have", "-o", "have", "--store", "store", "--trust", "store.trust")
        changed = {f"thing-{n}": noise(50_000 + n) for n in range(6)}
        tool = tool[:1000] + b"inserted" + tool[1000:]
        layer = gzip.compress(words[:90_000] + b"new\n" + words[90_000:], mtime=0)
        self.make(2, {**things, **changed, "tool": tool, "layer": layer})
        self.delta = ("bundle", "create", "2.lock.json", "-o", "delta.tar", "--keys", "keys",
                      "--have", "have", "--site-key", key.strip(), "--base", "1.tar")  # fmt: skip

    def make(self, number: int, things: dict[str, bytes]) -> None:
        items, blobs = [], []
        for name, data in things.items():
            found = Digest(hashlib.sha256(data).hexdigest())
            (self.folder / found.hex).write_bytes(data)
            items.append(Item("file", name, str(number), found, len(data)))
            blobs.append(LockedBlob(found, len(data), f"local:{found.hex}"))
        created = CREATED + timedelta(hours=number)
        made = Lock("site", number, created, 700, ("amd64",), tuple(items), tuple(blobs))
        (self.folder / f"{number}.lock.json").write_bytes(locks.dump(made))
        self.run("bundle", "create", f"{number}.lock.json", "-o", f"{number}.tar", "--keys", "keys")

    def ingest(self, source: str, store: str) -> tuple[str, ...]:
        return ("store", "ingest", source, "--root-fingerprint", self.fingerprint,
                "--store", store, "--trust", f"{store}.trust", "--json")  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"))


def test_split_after_kills_gives_the_same_parts(site: Site) -> None:
    seconds = site.timed("bundle", "split", "2.tar", *SPLIT, "-o", "complete")
    want, folder = tree(site.folder / "complete"), site.folder / "parts"

    def check() -> None:
        final = {n: d for n, d in tree(folder).items() if not n.endswith(".part")}
        assert final.items() <= want.items(), f"seed {SEED}"

    def ended(_: str) -> None:
        assert tree(folder) == want, f"seed {SEED}"
        shutil.rmtree(folder)

    Chains(site, seconds, lambda: folder.exists() and tree(folder) != want).run(
        lambda: ("bundle", "split", "2.tar", *SPLIT, "-o", "parts"), check, ended
    )


def test_join_after_kills_gives_the_same_bundle(site: Site) -> None:
    site.run("bundle", "split", "2.tar", *SPLIT, "-o", "sent")
    sorted((site.folder / "sent").iterdir())[LOST].unlink()
    seconds = site.timed("bundle", "join", "sent", "-o", "once.tar")
    want, output = digest(site.folder / "2.tar"), site.folder / "joined.tar"
    folder = site.folder / "joined.tar.join"
    assert digest(site.folder / "once.tar") == want

    def check() -> None:
        assert not output.exists() or digest(output) == want, f"seed {SEED}"

    def ended(_: str) -> None:
        assert digest(output) == want, f"seed {SEED}"
        assert not folder.exists()
        output.unlink()

    Chains(site, seconds, folder.exists).run(
        lambda: ("bundle", "join", "sent", "-o", output.name), check, ended
    )


def test_create_of_a_delta_after_kills_gives_the_same_bytes(site: Site) -> None:
    cache, output = site.folder / "cache/keystone/patches", site.folder / "delta.tar"
    seconds = site.timed(*site.delta)
    want, patches = digest(output), tree(cache)
    # Patches of the tool and of the layer; an empty file means that a patch is not worth it.
    assert sum(path.stat().st_size > 0 for path in cache.iterdir()) == 2

    def ready() -> None:
        shutil.rmtree(cache)
        output.unlink()

    def check() -> None:
        assert not output.exists() or digest(output) == want, f"seed {SEED}"
        if cache.exists():
            final = {n: d for n, d in tree(cache).items() if not n.endswith(".part")}
            assert final.items() <= patches.items(), f"seed {SEED}"

    def ended(_: str) -> None:
        assert digest(output) == want, f"seed {SEED}"
        assert tree(cache) == patches, f"seed {SEED}"
        assert not (site.folder / "delta.tar.part").exists()

    Chains(site, seconds, lambda: cache.exists() and not output.exists()).run(
        lambda: site.delta, check, ended, ready
    )


def copied(site: Site, name: str) -> Path:
    for suffix in ("", ".trust"):
        shutil.rmtree(site.folder / f"{name}{suffix}", ignore_errors=True)
        shutil.copytree(site.folder / f"store{suffix}", site.folder / f"{name}{suffix}")
    return site.folder / name


def test_ingest_of_a_delta_after_kills_gives_the_same_store(site: Site) -> None:
    site.run(*site.delta)
    full, once = copied(site, "by-full"), copied(site, "by-delta")
    site.run(*site.ingest("2.tar", full.name))
    seconds = site.timed(*site.ingest("delta.tar", once.name))
    want = tree(full)
    assert tree(once) == want

    def blobs() -> list[Path]:
        return list((site.folder / "interrupted/blobs/sha256").iterdir())

    def check() -> None:
        store = site.folder / "interrupted"
        assert all(digest(path) == path.name for path in blobs()), f"seed {SEED}"
        listed = json.loads((store / "metadata/targets.json").read_bytes())["signed"]["targets"]
        there = [name for name in listed if name.startswith("blobs/")]
        assert all((store / name).exists() for name in there), f"seed {SEED}"

    def ended(_: str) -> None:
        assert tree(site.folder / "interrupted") == want, f"seed {SEED}"

    Chains(site, seconds, (site.folder / "interrupted/incoming").exists).run(
        lambda: site.ingest("delta.tar", "interrupted"),
        check,
        ended,
        lambda: copied(site, "interrupted") and None,
    )
