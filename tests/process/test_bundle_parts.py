"""Split and join as a courier does: any order, lost and damaged parts, sticks one by one."""

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
from keystone.packager import writer
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
        signing = writer.Signing(self.folder / "keys")
        writer.create(lock, self.folder, self.folder / name, signing, Sources())
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
        return {**json.loads(done.stdout), "said": done.stderr.decode()}

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


def test_parts_have_at_most_the_size_and_are_the_same_each_time(courier: Courier) -> None:
    assert len(courier.parts) == 14
    assert max(path.stat().st_size for path in courier.parts) <= 1200 << 10
    courier.run("bundle", "split", "a.tar", "--size", "1200K", "--parity", "1", "-o", "again")
    for path in courier.parts:
        assert (courier.folder / "again" / path.name).read_bytes() == path.read_bytes()


def test_plain_tar_gets_at_the_bytes(courier: Courier) -> None:
    found = b"".join(
        subprocess.run(["tar", "-xOf", path, "data"], capture_output=True, check=True).stdout
        for path in courier.parts[:-1]
    )
    assert found == courier.data


def test_any_order_from_several_sticks_gives_the_same_bytes(courier: Courier) -> None:
    first = courier.stick("stick-1", 13, 2, 5, 7, 9, 11)
    second = courier.stick("stick-2", 1, 3, 4, 6, 8, 10, 12)
    courier.run("bundle", "join", second, first, "-o", "joined.tar")
    assert (courier.folder / "joined.tar").read_bytes() == courier.data
    assert not (courier.folder / "joined.tar.join").exists()
    assert courier.run("bundle", "join", first, second, "-o", "-").stdout == courier.data
    courier.run("bundle", "join", first, second, "-o", "joined.tar")


def test_sticks_one_after_the_other(courier: Courier) -> None:
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


def test_parity_on_the_last_stick_repairs_what_came_before(courier: Courier) -> None:
    first = courier.stick("early", *range(1, 7), *range(8, 14))
    courier.run("bundle", "join", first, "-o", "late.tar", code=5)
    courier.run("bundle", "join", courier.stick("parity", 14), "-o", "late.tar")
    assert (courier.folder / "late.tar").read_bytes() == courier.data


def test_two_lost_parts_are_too_many_and_named(courier: Courier) -> None:
    stick = courier.stick("two-lost", *(n for n in range(1, 15) if n not in {4, 9}))
    said = courier.run("bundle", "join", stick, "-o", "-", code=5).stderr.decode()
    assert "part 4" in said
    assert "file thing-" in said
    assert courier.verify(stick)["joinable"] is False


def test_damage_is_found_alone_and_named_down_to_the_blob(courier: Courier) -> None:
    stick = courier.stick("damaged", *range(1, 15))
    bent = sorted((courier.folder / stick).iterdir())[2]
    flip(bent, bent.stat().st_size - 300_000)
    found = courier.verify(bent, code=5)
    (part,) = [entry for entry in found["parts"] if entry["part"] == 3]  # type: ignore[union-attr,attr-defined] JSON
    assert any("file thing-" in name for name in part["damaged"])
    assert "file thing-" in str(found["said"])
    assert courier.verify(sorted((courier.folder / stick).iterdir())[3])["missing"]
    # Both copies of part 3 are damaged elsewhere: together they have everything.
    other = courier.stick("other", 3)
    flip(courier.folder / other / bent.name, bent.stat().st_size - 1_300_000)
    words = ("bundle", "join", *(str(p) for p in sorted((courier.folder / stick).iterdir())[:13]))
    courier.run(*words, other, "-o", "healed.tar")
    assert (courier.folder / "healed.tar").read_bytes() == courier.data


@pytest.mark.parametrize("at", [700, 4000, 5000, 40_000])
def test_damage_in_what_describes_a_part(courier: Courier, at: int) -> None:
    stick = courier.stick(f"head-{at}", 3)
    (bent,) = (courier.folder / stick).iterdir()
    flip(bent, at)
    courier.run("bundle", "verify", str(bent), "--root-fingerprint", courier.fingerprint, code=5)


def test_who_changes_digests_too_is_found_by_the_signed_list(courier: Courier) -> None:
    """A part made by the same program of a bundle with one changed blob, the same metadata."""
    changed = bytearray(courier.data)
    at = changed.find((courier.folder / hashlib_of(100 + 12)).read_bytes()[:64])
    changed[at + 1000] ^= 1
    (courier.folder / "evil.tar").write_bytes(changed)
    courier.run("bundle", "split", "evil.tar", "--size", "1200K", "--parity", "1", "-o", "evil")
    said = str(courier.verify(*sorted((courier.folder / "evil").iterdir()), code=5)["said"])
    assert "not the ones that were signed" in said


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


def test_what_other_systems_leave_on_a_stick_is_passed_over(courier: Courier) -> None:
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
    said = courier.verify(*sorted(stick.iterdir()))["said"]
    assert "README.txt" in str(said)
    assert "passed over" in str(said)
    courier.run("bundle", "join", "touched", "-o", "touched.tar")
    assert (courier.folder / "touched.tar").read_bytes() == courier.data


def test_a_part_whose_begin_is_damaged_is_no_litter(courier: Courier) -> None:
    stick = courier.folder / courier.stick("eaten", *range(1, 14))
    part = stick / courier.parts[2].name
    part.write_bytes(bytes(4096) + part.read_bytes()[4096:])
    for given in (sorted(stick.iterdir()), [stick]):
        words = ("--root-fingerprint", courier.fingerprint)
        failed = courier.run("bundle", "verify", *map(str, given), *words, code=5)
        assert part.name in failed.stderr.decode()


def test_litter_alone_is_no_bundle(courier: Courier) -> None:
    stick = courier.folder / courier.stick("litter")
    (stick / "README.txt").write_text("hello\n")
    failed = courier.run("bundle", "join", "litter", "-o", "litter.tar", code=5)
    assert "no usable part" in failed.stderr.decode()


@pytest.mark.parametrize("output", [".", "/", "", "made", "made/"])
def test_a_folder_as_the_output_is_said_with_a_file_in_it(courier: Courier, output: str) -> None:
    (courier.folder / "made").mkdir(exist_ok=True)
    said = courier.run("bundle", "join", "parts", "-o", output, code=2).stderr.decode()
    assert "is a folder: give the bundle's file" in said
    assert "offline.tar" in said
    assert list((courier.folder / "made").iterdir()) == []


def test_a_size_may_have_a_fraction(courier: Courier) -> None:
    done = courier.run("bundle", "split", "a.tar", "--size", "1.5M", "-o", "fraction", "--json")
    assert 1 << 20 < json.loads(done.stdout)["size"] <= 3 << 19
    failed = courier.run("bundle", "split", "a.tar", "--size", "1,5M", "-o", "comma", code=2)
    assert "1,5M: give a number" in failed.stderr.decode()
