"""Bytes of a lock, fetched ahead: in order, several at once, bounded, ended when nobody reads."""

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
def test_in_order_each_once_several_at_a_time(
    server: Faulty, tmp_path: Path, far: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """far: as if it were another machine; then they come through the cache."""
    if far:
        monkeypatch.setattr(supply, "is_loopback", lambda _: False)
    wanted = blobs(server, 20, 3 << 20)
    made = Supply(tmp_path, Sources())
    with made.ahead([blob for blob, _ in wanted]):
        for blob, data in wanted:
            assert b"".join(made.open(blob)) == data
    assert sorted(one.path for one in server.asked) == sorted(f"/{n}" for n in range(20))
    assert all(cache.has(blob.digest, blob.size) for blob, _ in wanted) == far
    assert [t for t in threading.enumerate() if t.name.startswith("ThreadPool")] == []


def test_reading_ahead_stops_at_its_bound(server: Faulty, tmp_path: Path) -> None:
    """Nobody reads: the first few blobs are begun, and none of the others."""
    wanted = blobs(server, 12, 6 << 20)
    made = Supply(tmp_path, Sources())
    with made.ahead([blob for blob, _ in wanted]):
        deadline = time.monotonic() + 60
        while len(server.asked) < supply.NEAR and time.monotonic() < deadline:
            time.sleep(0.02)
        waiting = [made._near[blob.digest].chunks.qsize() for blob, _ in wanted]
        assert sum(waiting) <= supply.NEAR * supply.DEPTH
        # Two must be read to their end before the fifth is asked for.
        for blob, data in wanted[:2]:
            assert b"".join(made.open(blob)) == data
        assert len(server.asked) <= supply.NEAR + 2


@pytest.mark.parametrize("far", [False, True])
def test_few_are_begun_at_a_time(
    server: Faulty, tmp_path: Path, far: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits costs memory for each blob, however many there are."""
    monkeypatch.setattr(supply, "is_loopback", lambda _: not far)
    monkeypatch.setattr(supply, "BEGUN", 4)
    wanted = blobs(server, 15, 1000)
    made = Supply(tmp_path, Sources())
    with made.ahead(blob for blob, _ in wanted):
        for left, (blob, data) in zip(range(15, 0, -1), wanted, strict=True):
            assert len(made._near) + len(made._far) == min(left, 4)
            assert b"".join(made.open(blob)) == data
    assert sorted(one.path for one in server.asked) == sorted(f"/{n}" for n in range(15))


def test_a_fault_comes_out_where_its_blob_is_read(server: Faulty, tmp_path: Path) -> None:
    wanted = blobs(server, 5, 1 << 20)
    server.says("/3", Answer(bytes(1 << 20)))
    made = Supply(tmp_path, Sources())
    with made.ahead([blob for blob, _ in wanted]):
        for blob, data in wanted[:3]:
            assert b"".join(made.open(blob)) == data
        with pytest.raises(KeystoneError) as caught:
            b"".join(made.open(wanted[3][0]))
    assert caught.value.exit_code == 5


def test_leaving_in_the_middle_ends_every_thread(server: Faulty, tmp_path: Path) -> None:
    wanted = blobs(server, 10, 6 << 20)
    made = Supply(tmp_path, Sources())
    with made.ahead([blob for blob, _ in wanted]):
        next(made.open(wanted[0][0]))
    assert [t for t in threading.enumerate() if t.name.startswith("ThreadPool")] == []


def test_local_bytes_that_changed_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"other")
    digest = Digest(hashlib.sha256(b"bytes").hexdigest())
    with pytest.raises(ConfigurationError, match=digest.hex):
        b"".join(Supply(tmp_path, Sources()).open(LockedBlob(digest, 5, "local:file")))


# The referrers API, which the real registry at hand does not have ------------------------------


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


def test_referrers_come_page_after_page(server: Faulty) -> None:
    link = ("Link", '</v2/team/app/referrers/more>; rel="next"')
    path(server, Answer(page("1" * 64), headers=(link,)))
    server.says("/v2/team/app/referrers/more", Answer(page("2" * 64)))
    assert referrers(server) == ["1", "2"]


def test_no_api_and_no_referrers_are_two_things(server: Faulty) -> None:
    path(server, Answer(status=404))
    assert referrers(server) is None
    path(server, Answer(page()))
    assert referrers(server) == []


@pytest.mark.parametrize(
    "body", [b"<html>", b"[" * 100_000, b"[]", b'{"manifests": [3]}', b'{"manifests": [{}]}'],
    ids=["page", "deep", "list", "numbers", "empty"],
)  # fmt: skip
def test_referrers_that_are_no_index_are_another_thing_at_that_address(
    server: Faulty, body: bytes
) -> None:
    url = path(server, Answer(body))
    with pytest.raises(KeystoneError) as caught:
        referrers(server)
    assert caught.value.exit_code == 5
    assert url in caught.value.message


@pytest.mark.parametrize("body", ["[" * 100_000, "{", "3", '{"kind": "BundleLock"}'])
def test_a_lock_that_is_none_is_told_by_its_name(tmp_path: Path, body: str) -> None:
    (tmp_path / "x.lock.json").write_text(body)
    with pytest.raises(ConfigurationError, match=r"x\.lock\.json: not a lock"):
        lock.load(tmp_path / "x.lock.json")


@pytest.mark.parametrize(
    ("link", "code"),
    [('<https://evil.example/>; rel="next"', 8), ("</loop>; rel=next", 5)],
)
def test_pages_stay_on_their_server_and_end(server: Faulty, link: str, code: int) -> None:
    path(server, Answer(page("1" * 64), headers=(("Link", link),)))
    server.says("/loop", Answer(page("1" * 64), headers=(("Link", link),)))
    with pytest.raises(KeystoneError) as caught:
        referrers(server)
    assert caught.value.exit_code == code
    assert len(server.asked) <= 17
