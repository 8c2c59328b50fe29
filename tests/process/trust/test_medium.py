"""The file or device of a bundle (B30): replaced, incomplete, unreadable, or of a wrong type."""

from __future__ import annotations

import io
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from keystone.bundle.read import bundle as opened
from keystone.bundle.read.bundle import open_metadata, open_verified
from keystone.bundle.read.held_file import open_medium
from keystone.errors import DamagedBundleError
from keystone.store import store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def opens(path: Path, sim: Any) -> Any:
    return open_verified(path, fingerprint=sim.fingerprint, directory=path.parent / "trust")


def refused(path: Path, sim: Any) -> DamagedBundleError:
    with pytest.raises(DamagedBundleError) as found:
        opens(path, sim)
    assert (found.value.code, found.value.exit_code) == ("KSB-30", 5)
    assert str(path) in found.value.message
    return found.value


@pytest.fixture
def bundle(sim: Any, tmp_path: Path) -> Path:
    path = tmp_path / "offline.tar"
    path.write_bytes(sim.bundle())
    return path


def test_file_and_link_to_it_are_accepted(bundle: Path, sim: Any, tmp_path: Path) -> None:
    opens(bundle, sim)
    (tmp_path / "link").symlink_to(bundle)
    opens(tmp_path / "link", sim)


def test_directory_is_refused(tmp_path: Path, sim: Any) -> None:
    assert "a directory" in refused(tmp_path, sim).message


def test_fifo_without_a_writer_is_refused_without_blocking(tmp_path: Path, sim: Any) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert "a pipe" in refused(tmp_path / "fifo", sim).message


def test_socket_is_refused(tmp_path: Path, sim: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        refused(tmp_path / "socket", sim)


@pytest.mark.parametrize("device", ["null", "zero", "urandom"])
def test_character_device_is_refused(device: str, tmp_path: Path, sim: Any) -> None:
    (tmp_path / "link").symlink_to(f"/dev/{device}")
    assert "character device" in refused(tmp_path / "link", sim).message


@pytest.mark.parametrize("name", ["version", "self/maps", "self/environ", "self/mem", "none"])
def test_link_into_proc_is_refused(name: str, tmp_path: Path, sim: Any) -> None:
    (tmp_path / "link").symlink_to(f"/proc/{name}")
    with pytest.raises(DamagedBundleError) as found:
        opens(tmp_path / "link", sim)
    assert found.value.exit_code == 5


def test_link_to_itself_is_refused(tmp_path: Path, sim: Any) -> None:
    (tmp_path / "loop").symlink_to("loop")
    refused(tmp_path / "loop", sim)


def test_read_error_of_the_kernel_is_reported(sim: Any, tmp_path: Path) -> None:
    """/proc/self/mem at address 0: a real read error from a regular file."""
    with pytest.raises(DamagedBundleError, match="Input/output error") as found:
        opens(tmp_path.joinpath("/proc/self/mem"), sim)
    assert found.value.code == "KSB-30"


class Failing(io.BytesIO):
    """A medium that cannot be read from offset `bad` on."""

    def __init__(self, data: bytes, bad: int) -> None:
        super().__init__(data)
        self.bad = bad

    def readinto(self, buffer: Any, /) -> int:
        if self.tell() + len(buffer) > self.bad:
            raise OSError(5, "Input/output error")
        return super().readinto(buffer)


def test_read_error_at_any_offset_is_refused_and_a_good_copy_completes(
    sim: Any, tmp_path: Path
) -> None:
    data = sim.bundle()
    for bad in range(0, len(data), 509):
        with pytest.raises(DamagedBundleError, match="Input/output error") as found:
            store.ingest(Failing(data, bad), tmp_path / "store", sim.pin())
        assert found.value.code == "KSB-30"
        assert not store.status(tmp_path / "store").complete
    store.ingest(io.BytesIO(data), tmp_path / "store", sim.pin())
    assert store.status(tmp_path / "store").complete


def test_incomplete_copy_is_refused(bundle: Path, sim: Any) -> None:
    data = bundle.read_bytes()
    for size in range(0, len(data), 777):
        bundle.write_bytes(data[:size])
        with pytest.raises(DamagedBundleError, match="truncated"):
            opens(bundle, sim)


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


def touch(path: Path) -> None:
    found = path.stat()
    with path.open("r+b") as file:
        file.write(file.read(1) and b"m")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))


@pytest.mark.parametrize("change", [replace, append, touch, os.unlink])
def test_change_during_the_read_is_detected(bundle: Path, change: Callable[[Path], None]) -> None:
    with open_medium(bundle) as medium:
        medium.require_unchanged()
        change(bundle)
        with pytest.raises(DamagedBundleError, match="during the read") as found:
            medium.require_unchanged()
    assert found.value.code == "KSB-30"


def test_replacement_during_verification_is_refused(
    bundle: Path, sim: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that was read is valid, but its path leads to another file at the end."""
    original = opened.read_head

    def slow(*words: Any) -> Any:
        replace(bundle)
        return original(*words)

    monkeypatch.setattr(opened, "read_head", slow)
    refused(bundle, sim)


def test_blob_replaced_after_verification_is_refused(bundle: Path, sim: Any) -> None:
    found = opens(bundle, sim)
    digest = found.manifest.items[0].digest
    with found.open(digest) as file:
        assert file.read() == sim.text.encode()
    bundle.write_bytes(bundle.read_bytes().replace(b"the only file", b"the evil file"))
    with pytest.raises(DamagedBundleError, match="changed on"), found.open(digest):
        pass
    bundle.unlink()
    os.mkfifo(bundle)
    with pytest.raises(DamagedBundleError, match="a pipe"), found.open(digest):
        pass


def test_open_metadata_refuses_a_fifo(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(DamagedBundleError, match="a pipe"):
        open_metadata(tmp_path / "fifo", confirm=lambda _: True)
