"""Blobs of a lock, fetched ahead: in order, several in parallel, bounded, stopped when unread."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from keystone.bundle.media import INDEX
from keystone.bundle.model import Digest
from keystone.errors import ConfigurationError, KeystoneError
from keystone.packager import lock, supply
from keystone.packager.lock import LockedBlob
from keystone.packager.sources import cache
from keystone.packager.sources.oci import Reference, Remote
from keystone.packager.sources.upstream import Sources
from keystone.packager.supply import Supply

from .faulty import Answer, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .faulty import Faulty


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Faulty]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with serving() as found:
        yield found


def blobs(server: Faulty, count: int, size: int) -> list[tuple[LockedBlob, bytes]]:
    found = []
    for number in range(count):
        data = os.urandom(size)
        url = server.says(f"/{number}", Answer(data))
        digest = Digest(hashlib.sha256(data).hexdigest())
        found.append((LockedBlob(digest, size, url), data))
    return found


@pytest.mark.parametrize("far", [False, True])
def test_blobs_are_fetched_once_in_order(
    server: Faulty, tmp_path: Path, far: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """far: treat the server as another machine, so that blobs go through the cache."""
    if far:
        monkeypatch.setattr(supply, "is_loopback", lambda _: False)
    wanted = blobs(server, 20, 3 << 20)
    made = Supply(tmp_path, Sources())
    with made.ahead([blob for blob, _ in wanted]):
        for blob, data in wanted:
            assert b"".join(made.open(blob)) == data
    assert sorted(one.path for one in server.requests) == sorted(f"/{n}" for n in range(20))
    assert all(cache.has(blob.digest, blob.size) for blob, _ in wanted) == far
    assert [t for t in threading.enumerate() if t.name.startswith("ThreadPool")] == []


def test_reading_ahead_is_bounded(server: Faulty, tmp_path: Path) -> None:
    """Without a reader, only the first few blobs are requested."""
    wanted = blobs(server, 12, 6 << 20)
    made = Supply(tmp_path, Sources())
    with made.ahead([blob for blob, _ in wanted]):
        deadline = time.monotonic() + 60
        while len(server.requests) < supply.NEAR and time.monotonic() < deadline:
            time.sleep(0.02)
        waiting = [made._near[blob.digest].chunks.qsize() for blob, _ in wanted]
        assert sum(waiting) <= supply.NEAR * supply.DEPTH
        # Reading two blobs to their end allows requests for at most two more.
        for blob, data in wanted[:2]:
            assert b"".join(made.open(blob)) == data
        assert len(server.requests) <= supply.NEAR + 2


@pytest.mark.parametrize("far", [False, True])
def test_number_of_submitted_blobs_is_bounded(
    server: Faulty, tmp_path: Path, far: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each submitted blob costs memory, so their number does not grow with the lock."""
    monkeypatch.setattr(supply, "is_loopback", lambda _: not far)
    monkeypatch.setattr(supply, "SUBMITTED", 4)
    wanted = blobs(server, 15, 1000)
    made = Supply(tmp_path, Sources())
    with made.ahead(blob for blob, _ in wanted):
        for left, (blob, data) in zip(range(15, 0, -1), wanted, strict=True):
            assert len(made._near) + len(made._far) == min(left, 4)
            assert b"".join(made.open(blob)) == data
    assert sorted(one.path for one in server.requests) == sorted(f"/{n}" for n in range(15))


def test_error_is_raised_where_its_blob_is_read(server: Faulty, tmp_path: Path) -> None:
    wanted = blobs(server, 5, 1 << 20)
    server.says("/3", Answer(bytes(1 << 20)))
    made = Supply(tmp_path, Sources())
    with made.ahead([blob for blob, _ in wanted]):
        for blob, data in wanted[:3]:
            assert b"".join(made.open(blob)) == data
        with pytest.raises(KeystoneError) as caught:
            b"".join(made.open(wanted[3][0]))
    assert caught.value.exit_code == 5


def test_leaving_early_ends_all_threads(server: Faulty, tmp_path: Path) -> None:
    wanted = blobs(server, 10, 6 << 20)
    made = Supply(tmp_path, Sources())
    with made.ahead([blob for blob, _ in wanted]):
        next(made.open(wanted[0][0]))
    assert [t for t in threading.enumerate() if t.name.startswith("ThreadPool")] == []


def test_changed_local_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"other")
    digest = Digest(hashlib.sha256(b"bytes").hexdigest())
    with pytest.raises(ConfigurationError, match=digest.hex):
        b"".join(Supply(tmp_path, Sources()).open(LockedBlob(digest, 5, "local:file")))


# The referrers API, which the real registry of these tests lacks -------------------------------


def page(*digests: str) -> bytes:
    children = [{"mediaType": "x/y", "digest": f"sha256:{hex_}", "size": 1} for hex_ in digests]
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": children}).encode()


def referrers(server: Faulty) -> list[str] | None:
    sources = Sources({"registry.example": server.address}, pause=lambda _: None)
    remote = Remote(sources, Reference.parse("registry.example/team/app:v1"))
    found = remote.referrers(Digest("0" * 64))
    return None if found is None else [child["digest"][-1] for child in found]


def path(server: Faulty, *answers: Answer) -> str:
    return server.says(f"/v2/team/app/referrers/sha256:{'0' * 64}", *answers)


def test_all_pages_of_referrers_are_read(server: Faulty) -> None:
    link = ("Link", '</v2/team/app/referrers/more>; rel="next"')
    path(server, Answer(page("1" * 64), headers=(link,)))
    server.says("/v2/team/app/referrers/more", Answer(page("2" * 64)))
    assert referrers(server) == ["1", "2"]


def test_missing_referrers_api_differs_from_no_referrers(server: Faulty) -> None:
    path(server, Answer(status=404))
    assert referrers(server) is None
    path(server, Answer(page()))
    assert referrers(server) == []


@pytest.mark.parametrize(
    "body", [b"<html>", b"[" * 100_000, b"[]", b'{"manifests": [3]}', b'{"manifests": [{}]}'],
    ids=["HTML", "deeply nested", "list", "number as entry", "empty entry"],
)  # fmt: skip
def test_invalid_referrers_response_is_refused(server: Faulty, body: bytes) -> None:
    url = path(server, Answer(body))
    with pytest.raises(KeystoneError) as caught:
        referrers(server)
    assert caught.value.exit_code == 5
    assert url in caught.value.message


@pytest.mark.parametrize("body", ["[" * 100_000, "{", "3", '{"kind": "BundleLock"}'])
def test_invalid_lock_is_refused_with_its_path(tmp_path: Path, body: str) -> None:
    (tmp_path / "x.lock.json").write_text(body)
    with pytest.raises(ConfigurationError, match=r"x\.lock\.json: not a lock"):
        lock.load(tmp_path / "x.lock.json")


@pytest.mark.parametrize(
    ("link", "code"),
    [('<https://evil.example/>; rel="next"', 8), ("</loop>; rel=next", 5)],
)
def test_page_on_another_server_or_endless_pages_are_refused(
    server: Faulty, link: str, code: int
) -> None:
    path(server, Answer(page("1" * 64), headers=(("Link", link),)))
    server.says("/loop", Answer(page("1" * 64), headers=(("Link", link),)))
    with pytest.raises(KeystoneError) as caught:
        referrers(server)
    assert caught.value.exit_code == code
    assert len(server.requests) <= 17
