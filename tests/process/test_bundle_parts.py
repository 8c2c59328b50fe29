"""Split and join: parts in any order, lost and damaged parts, and one stick after another."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess  # noqa: TID251 the commands are tried from outside
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keystone.bundle.model import Digest, Item
from keystone.packager import members, pack
from keystone.packager.keys import keys
from keystone.packager.lock import Lock, LockedBlob
from keystone.packager.sources.upstream import Sources

CREATED = datetime(2026, 11, 20, 12, tzinfo=UTC)
MIB = 1 << 20
BLOBS = 24


class Courier:
    """A folder with a bundle of 24 blobs, 12 MiB, and the command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fingerprint = keys.init(folder / "keys", None, CREATED)
        self.bundle = self.make("a.tar", 1)
        self.data = self.bundle.read_bytes()
        self.run("bundle", "split", "a.tar", "--size", "1200K", "--parity", "1", "-o", "parts")
        self.parts = sorted((folder / "parts").iterdir())

    def make(self, name: str, seed: int) -> Path:
        items, blobs = [], []
        for index in range(BLOBS):
            data = random.Random(seed * 100 + index).randbytes(MIB // 2 + index * 10)
            digest = Digest(hashlib.sha256(data).hexdigest())
            (self.folder / digest.hex).write_bytes(data)
            items.append(Item("file", f"thing-{index}", "1", digest, len(data)))
            blobs.append(LockedBlob(digest, len(data), f"local:{digest.hex}"))
        lock = Lock("carried", 1, CREATED, 700, ("amd64",), tuple(items), tuple(blobs))
        signing = members.Signing(self.folder / "keys")
        pack.bundle(lock, self.folder, self.folder / name, signing, Sources())
        return self.folder / name

    def argv(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "keystone", *words]

    def run(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(self.argv(*words), cwd=self.folder, capture_output=True, check=False)
        assert done.returncode == code, done.stderr.decode()
        return done

    def verify(self, *files: object, code: int = 0) -> dict[str, object]:
        words = ("--root-fingerprint", self.fingerprint, "--json")
        done = self.run("bundle", "verify", *map(str, files), *words, code=code)
        return {**json.loads(done.stdout), "stderr": done.stderr.decode()}

    def stick(self, name: str, *numbers: int) -> str:
        """A folder with some of the parts, counted from 1."""
        folder = self.folder / name
        folder.mkdir()
        for number in numbers:
            shutil.copy(self.parts[number - 1], folder)
        return name


@pytest.fixture(scope="module")
def courier(tmp_path_factory: pytest.TempPathFactory) -> Courier:
    return Courier(tmp_path_factory.mktemp("courier"))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)


def test_split_respects_the_size_and_gives_the_same_bytes(courier: Courier) -> None:
    assert len(courier.parts) == 14
    assert max(path.stat().st_size for path in courier.parts) <= 1200 << 10
    courier.run("bundle", "split", "a.tar", "--size", "1200K", "--parity", "1", "-o", "again")
    for path in courier.parts:
        assert (courier.folder / "again" / path.name).read_bytes() == path.read_bytes()


def test_plain_tar_extracts_the_data_of_parts(courier: Courier) -> None:
    found = b"".join(
        subprocess.run(["tar", "-xOf", path, "data"], capture_output=True, check=True).stdout
        for path in courier.parts[:-1]
    )
    assert found == courier.data


def test_parts_in_any_order_join_to_the_same_bytes(courier: Courier) -> None:
    first = courier.stick("stick-1", 13, 2, 5, 7, 9, 11)
    second = courier.stick("stick-2", 1, 3, 4, 6, 8, 10, 12)
    courier.run("bundle", "join", second, first, "-o", "joined.tar")
    assert (courier.folder / "joined.tar").read_bytes() == courier.data
    assert not (courier.folder / "joined.tar.join").exists()
    assert courier.run("bundle", "join", first, second, "-o", "-").stdout == courier.data
    courier.run("bundle", "join", first, second, "-o", "joined.tar")


def test_parts_from_one_stick_after_another_are_joined(courier: Courier) -> None:
    first = courier.stick("one", 1, 2, 3, 4, 5, 6)
    second = courier.stick("two", *range(7, 14))
    failed = courier.run("bundle", "join", first, "-o", "slow.tar", code=5).stderr.decode()
    assert "part 7, 8, 9, 10, 11, 12, 13 of 13" in failed
    assert "thing-" in failed
    assert not (courier.folder / "slow.tar").exists()
    courier.run("bundle", "join", second, "-o", "slow.tar")
    assert (courier.folder / "slow.tar").read_bytes() == courier.data


@pytest.mark.parametrize("lost", [1, 6, 13, 14])
def test_one_part_may_be_lost(courier: Courier, lost: int) -> None:
    stick = courier.stick(f"without-{lost}", *(n for n in range(1, 15) if n != lost))
    assert courier.run("bundle", "join", stick, "-o", "-").stdout == courier.data
    courier.run("bundle", "join", stick, "-o", f"without-{lost}.tar")
    assert (courier.folder / f"without-{lost}.tar").read_bytes() == courier.data
    report = courier.verify(stick)
    assert (report["missing"], report["joinable"]) == ([lost], True)


def test_parity_from_a_later_stick_repairs_a_lost_part(courier: Courier) -> None:
    first = courier.stick("early", *range(1, 7), *range(8, 14))
    courier.run("bundle", "join", first, "-o", "late.tar", code=5)
    courier.run("bundle", "join", courier.stick("parity", 14), "-o", "late.tar")
    assert (courier.folder / "late.tar").read_bytes() == courier.data


def test_two_lost_parts_with_one_parity_part_are_reported(courier: Courier) -> None:
    stick = courier.stick("two-lost", *(n for n in range(1, 15) if n not in {4, 9}))
    stderr = courier.run("bundle", "join", stick, "-o", "-", code=5).stderr.decode()
    assert "part 4" in stderr
    assert "file thing-" in stderr
    assert courier.verify(stick)["joinable"] is False


def test_verify_of_one_part_names_the_damaged_blob(courier: Courier) -> None:
    stick = courier.stick("damaged", *range(1, 15))
    damaged = sorted((courier.folder / stick).iterdir())[2]
    flip(damaged, damaged.stat().st_size - 300_000)
    found = courier.verify(damaged, code=5)
    (part,) = [entry for entry in found["parts"] if entry["part"] == 3]  # type: ignore[union-attr,attr-defined] JSON
    assert any("file thing-" in name for name in part["damaged"])
    assert "file thing-" in str(found["stderr"])
    assert courier.verify(sorted((courier.folder / stick).iterdir())[3])["missing"]
    # Two copies of part 3 are damaged at different places: together they are complete.
    other = courier.stick("other", 3)
    flip(courier.folder / other / damaged.name, damaged.stat().st_size - 1_300_000)
    words = ("bundle", "join", *(str(p) for p in sorted((courier.folder / stick).iterdir())[:13]))
    courier.run(*words, other, "-o", "repaired.tar")
    assert (courier.folder / "repaired.tar").read_bytes() == courier.data


@pytest.mark.parametrize("at", [700, 4000, 5000, 40_000])
def test_damaged_description_of_a_part_is_refused(courier: Courier, at: int) -> None:
    stick = courier.stick(f"head-{at}", 3)
    (damaged,) = (courier.folder / stick).iterdir()
    flip(damaged, at)
    courier.run("bundle", "verify", str(damaged), "--root-fingerprint", courier.fingerprint, code=5)


def test_changed_blob_with_matching_chunk_digests_is_found(courier: Courier) -> None:
    """The same program splits a bundle with one changed blob and the original metadata."""
    changed = bytearray(courier.data)
    at = changed.find((courier.folder / hashlib_of(100 + 12)).read_bytes()[:64])
    changed[at + 1000] ^= 1
    (courier.folder / "evil.tar").write_bytes(changed)
    courier.run("bundle", "split", "evil.tar", "--size", "1200K", "--parity", "1", "-o", "evil")
    report = courier.verify(*sorted((courier.folder / "evil").iterdir()), code=5)
    assert "differ from the signed ones" in str(report["stderr"])


def hashlib_of(seed: int) -> str:
    index = seed - 100
    return hashlib.sha256(random.Random(seed).randbytes(MIB // 2 + index * 10)).hexdigest()


def test_parts_of_another_bundle_are_refused(courier: Courier) -> None:
    courier.make("b.tar", 2)
    courier.run("bundle", "split", "b.tar", "--size", "1200K", "--parity", "1", "-o", "b")
    words = ("bundle", "join", *map(str, courier.parts[:2]), "b/b.tar.003", "-o", "-")
    assert "different bundles" in courier.run(*words, code=5).stderr.decode()
    courier.run("bundle", "verify", str(courier.parts[0]), "--root-fingerprint", "0" * 64, code=4)
    courier.run("bundle", "split", "a.tar", "--size", "10K", code=2)


def test_other_files_on_a_stick_are_skipped(courier: Courier) -> None:
    stick = courier.folder / courier.stick("touched", *range(1, 14))
    (stick / "README.txt").write_text("hello\n")
    (stick / "empty").touch()
    (stick / ".Trash-1000").mkdir()
    windows = stick / "System Volume Information"
    windows.mkdir()
    (windows / "IndexerVolumeGuid").write_text("x")
    for given in (sorted(stick.iterdir()), [stick]):
        found = courier.verify(*given)
        assert len(found["parts"]) == 13
        assert found["joinable"] is True
    stderr = courier.verify(*sorted(stick.iterdir()))["stderr"]
    assert "README.txt" in str(stderr)
    assert "skipped" in str(stderr)
    courier.run("bundle", "join", "touched", "-o", "touched.tar")
    assert (courier.folder / "touched.tar").read_bytes() == courier.data


def test_part_with_a_damaged_start_is_an_error(courier: Courier) -> None:
    stick = courier.folder / courier.stick("eaten", *range(1, 14))
    part = stick / courier.parts[2].name
    part.write_bytes(bytes(4096) + part.read_bytes()[4096:])
    for given in (sorted(stick.iterdir()), [stick]):
        words = ("--root-fingerprint", courier.fingerprint)
        failed = courier.run("bundle", "verify", *map(str, given), *words, code=5)
        assert part.name in failed.stderr.decode()


def test_folder_without_parts_is_an_error(courier: Courier) -> None:
    stick = courier.folder / courier.stick("litter")
    (stick / "README.txt").write_text("hello\n")
    failed = courier.run("bundle", "join", "litter", "-o", "litter.tar", code=5)
    assert "no usable part" in failed.stderr.decode()


@pytest.mark.parametrize("output", [".", "/", "", "made", "made/"])
def test_join_refuses_a_folder_as_output_and_suggests_a_file(courier: Courier, output: str) -> None:
    (courier.folder / "made").mkdir(exist_ok=True)
    stderr = courier.run("bundle", "join", "parts", "-o", output, code=2).stderr.decode()
    assert "is a folder: name a file" in stderr
    assert "offline.tar" in stderr
    assert list((courier.folder / "made").iterdir()) == []


def test_split_size_may_have_a_fraction(courier: Courier) -> None:
    done = courier.run("bundle", "split", "a.tar", "--size", "1.5M", "-o", "fraction", "--json")
    assert 1 << 20 < json.loads(done.stdout)["size"] <= 3 << 19
    failed = courier.run("bundle", "split", "a.tar", "--size", "1,5M", "-o", "comma", code=2)
    assert "1,5M: write a number" in failed.stderr.decode()
