"""Open a bundle whose content is already in the store: blobs come from the store."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from keystone.bundle.model import Digest
from keystone.bundle.trust import verify
from keystone.errors import DamagedBundleError, UntrustedBundleError, UsageError
from keystone.store import store
from keystone.store.held import open_held, open_stored

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from keystone.bundle.read.bundle import Bundle


class Primer:
    """A host with a bundle in its store, and the medium of the bundle."""

    def __init__(self, folder: Path, sim: Any) -> None:
        self.trust, self.store, self.medium = folder / "trust", folder / "store", folder / "b.tar"
        folder.mkdir(exist_ok=True)
        self.medium.write_bytes(sim.bundle())
        pin = verify.host_pin(self.trust, fingerprint=sim.fingerprint)
        done, verified = store.ingest(io.BytesIO(sim.bundle()), self.store, pin)
        verify.remember(verified, self.trust)
        store.mark(self.store, done.digest, complete=True)

    def open(self, fingerprint: str | None = None) -> Bundle | None:
        return open_held(self.medium, self.store, fingerprint=fingerprint, directory=self.trust)

    def damage(self, before: bytes, after: bytes) -> None:
        data = self.medium.read_bytes()
        assert before in data
        self.medium.write_bytes(data.replace(before, after))


@pytest.fixture
def primer(sim: Any, tmp_path: Path) -> Primer:
    return Primer(tmp_path, sim)


def only_file(sim: Any) -> Digest:
    return Digest(sim.blob.rpartition("/")[2])


def test_blob_is_read_from_the_store_and_not_from_the_medium(primer: Primer, sim: Any) -> None:
    primer.damage(sim.text.encode(), b"an evil file!")
    found = primer.open(sim.fingerprint)
    assert found is not None
    assert not found.was_read
    with found.open(only_file(sim)) as file:
        assert file.read().decode() == sim.text


@pytest.mark.parametrize(
    ("before", "after", "error"),
    [
        (b'"_type":"targets"', b'"_type":"tarGets"', UntrustedBundleError),
        (b'"name": "tiny"', b'"name": "tine"', DamagedBundleError),
    ],
    ids=["metadata", "table of contents"],
)
def test_signed_head_is_verified_every_time(
    primer: Primer, before: bytes, after: bytes, error: type[Exception]
) -> None:
    primer.damage(before, after)
    with pytest.raises(error):
        primer.open()


def test_older_bundle_is_refused(primer: Primer, sim: Any) -> None:
    newer = Primer(primer.store.parent / "newer", sim.again(number=2))
    newer.medium = primer.medium
    with pytest.raises(UntrustedBundleError, match="older"):
        newer.open()


def test_open_held_returns_none_for_another_bundle(primer: Primer, sim: Any) -> None:
    primer.medium.write_bytes(sim.again(number=2).bundle())
    assert primer.open() is None


def unmarked(primer: Primer) -> None:
    store.mark(primer.store, json.loads((primer.store / "state.json").read_text())["bundle"],
               complete=False)  # fmt: skip


def no_state(primer: Primer) -> None:
    (primer.store / "state.json").unlink()


def incomplete_state(primer: Primer) -> None:
    (primer.store / "state.json").write_text('{"bundle": "sha')


def other_list(primer: Primer) -> None:
    with (primer.store / "metadata/targets.json").open("a") as file:
        file.write(" ")


def no_list(primer: Primer) -> None:
    (primer.store / "metadata/targets.json").unlink()


def the_blob(primer: Primer) -> Path:
    """The blob of the bundle's only file, with the simulator's text."""
    blobs = (primer.store / "blobs/sha256").iterdir()
    return next(path for path in blobs if path.read_bytes() == b"the only file")


def no_blob(primer: Primer) -> None:
    the_blob(primer).unlink()


def short_blob(primer: Primer) -> None:
    the_blob(primer).write_bytes(b"the only")


def link_to_a_blob(primer: Primer) -> None:
    path = the_blob(primer)
    path.rename(primer.store / "elsewhere")
    path.symlink_to(primer.store / "elsewhere")


def other_index(primer: Primer) -> None:
    path = primer.store / "index.json"
    path.write_bytes(path.read_bytes().replace(b"2", b"3"))


def no_pin(primer: Primer) -> None:
    (primer.trust / "root.json").unlink()


@pytest.mark.parametrize(
    "lacks",
    [unmarked, no_state, incomplete_state, other_list, no_list, no_blob, short_blob, link_to_a_blob,
     other_index, no_pin],
)  # fmt: skip
def test_open_held_returns_none_when_the_store_is_incomplete(primer: Primer, lacks: Any) -> None:
    assert primer.open() is not None
    lacks(primer)
    assert primer.open() is None


def test_damaged_blob_in_the_store_is_refused(primer: Primer, sim: Any) -> None:
    the_blob(primer).write_bytes(b"the 0nly file")
    found = primer.open()
    assert found is not None
    with (
        pytest.raises(DamagedBundleError, match="differ from the signed ones") as refused,
        found.open(only_file(sim)),
    ):
        pass
    assert "remove this file" in refused.value.hint


def receive(primer: Primer, folder: Path) -> store.Ingested:
    """Bring the store's bundle into another host's store, without the medium."""
    pin = verify.host_pin(primer.trust)
    with open_stored(primer.store, directory=primer.trust).archive() as source:
        return store.ingest(source, folder, pin)[0]


def test_another_store_is_filled_from_a_store(primer: Primer, tmp_path: Path) -> None:
    primer.medium.unlink()
    done = receive(primer, tmp_path / "other")
    assert store.status(tmp_path / "other") == store.status(primer.store)
    assert done.blobs > 0


def test_archive_of_a_store_has_the_size_of_the_medium(primer: Primer) -> None:
    with open_stored(primer.store, directory=primer.trust).archive() as source:
        assert len(source.read()) == primer.medium.stat().st_size


def test_damaged_blob_is_named_and_not_taken_by_another_store(
    primer: Primer, tmp_path: Path
) -> None:
    damaged = the_blob(primer)
    damaged.write_bytes(b"the 0nly file")
    with pytest.raises(DamagedBundleError, match="differ from the signed ones") as error:
        receive(primer, tmp_path / "other")
    assert str(damaged) in error.value.message
    assert not store.status(tmp_path / "other").complete


def test_receiver_that_stops_ends_the_archive(primer: Primer) -> None:
    with (
        pytest.raises(KeyError, match="stopped"),
        open_stored(primer.store, directory=primer.trust).archive(),
    ):
        raise KeyError("stopped")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (unmarked, UsageError),
        (no_state, UsageError),
        (no_pin, UsageError),
        (other_list, UntrustedBundleError),
        (no_list, UntrustedBundleError),
        (no_blob, DamagedBundleError),
        (short_blob, DamagedBundleError),
        (other_index, DamagedBundleError),
    ],
)
def test_incomplete_store_is_refused_as_a_bundle(
    primer: Primer, change: Callable[[Primer], None], error: type[Exception]
) -> None:
    change(primer)
    with pytest.raises(error):
        open_stored(primer.store, directory=primer.trust)
