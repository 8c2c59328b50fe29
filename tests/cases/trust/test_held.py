"""A second look at a bundle whose content the store has: what is read again, and what is not."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from keystone.bundle.model import Digest
from keystone.bundle.trust import verify
from keystone.errors import DamagedBundleError, UntrustedBundleError
from keystone.store import store
from keystone.store.held import open_held

if TYPE_CHECKING:
    from pathlib import Path

    from keystone.bundle.read.bundle import Bundle


class Primer:
    """A host that brought a bundle into its store, and the medium it came on."""

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


def test_content_comes_from_the_store_whatever_the_medium_holds(primer: Primer, sim: Any) -> None:
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
def test_the_signed_head_is_verified_every_time(
    primer: Primer, before: bytes, after: bytes, error: type[Exception]
) -> None:
    primer.damage(before, after)
    with pytest.raises(error):
        primer.open()


def test_an_older_bundle_is_refused_as_ever(primer: Primer, sim: Any) -> None:
    newer = Primer(primer.store.parent / "newer", sim.again(number=2))
    newer.medium = primer.medium
    with pytest.raises(UntrustedBundleError, match="older"):
        newer.open()


def test_another_bundle_is_read_whole(primer: Primer, sim: Any) -> None:
    primer.medium.write_bytes(sim.again(number=2).bundle())
    assert primer.open() is None


def unmarked(primer: Primer) -> None:
    store.mark(primer.store, json.loads((primer.store / "state.json").read_text())["bundle"],
               complete=False)  # fmt: skip


def no_state(primer: Primer) -> None:
    (primer.store / "state.json").unlink()


def half_a_state(primer: Primer) -> None:
    (primer.store / "state.json").write_text('{"bundle": "sha')


def other_list(primer: Primer) -> None:
    with (primer.store / "metadata/targets.json").open("a") as file:
        file.write(" ")


def no_list(primer: Primer) -> None:
    (primer.store / "metadata/targets.json").unlink()


def the_blob(primer: Primer) -> Path:
    """The one that is the bundle's only file; it has the text of the simulator."""
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
    [unmarked, no_state, half_a_state, other_list, no_list, no_blob, short_blob, link_to_a_blob,
     other_index, no_pin],
)  # fmt: skip
def test_a_store_that_lacks_anything_is_no_reason(primer: Primer, lacks: Any) -> None:
    assert primer.open() is not None
    lacks(primer)
    assert primer.open() is None


def test_a_blob_that_rotted_in_the_store_is_never_given(primer: Primer, sim: Any) -> None:
    the_blob(primer).write_bytes(b"the 0nly file")
    found = primer.open()
    assert found is not None
    with (
        pytest.raises(DamagedBundleError, match="not the ones that were signed") as refused,
        found.open(only_file(sim)),
    ):
        pass
    assert "remove that file" in refused.value.hint
