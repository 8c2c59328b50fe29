"""Places of backups: folder, stick, store. Copied whole, read back, old ones removed."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import shutil
import socket
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keystone import run
from keystone.backup import places, s3
from keystone.backup.content import Sealed
from keystone.backup.manifest import Manifest
from keystone.errors import ConfigurationError, DamagedBundleError, HostError, RefusedError
from keystone.site.backup import Bucket, Destination

from . import s3_server

if TYPE_CHECKING:
    from collections.abc import Iterator

REAL = os.environ.get("KEYSTONE_VERSITYGW") or shutil.which("versitygw") or ""
"""github.com/versity/versitygw, a store on a folder, where somebody built it."""


def sealed(folder: Path, day: int) -> Sealed:
    taken = dt.datetime(2026, 11, day, tzinfo=dt.UTC)
    made = Manifest("north", "", "cd" * 32, taken, "p1", day, 0, 0, ())
    data = f"backup of day {day} ".encode() * 5000
    folder.mkdir(exist_ok=True)
    file = folder / "sealed.age"
    file.write_bytes(data)
    return Sealed(made, file, len(data), hashlib.sha256(data).hexdigest())


def names(to: Destination) -> list[str]:
    with places.opened(to) as place:
        return sorted(place.names())


def store(tmp_path: Path, to: Destination, days: int, keep: int) -> None:
    for day in range(1, days + 1):
        with places.opened(to) as place:
            places.store(place, sealed(tmp_path / "spool", day), keep)


def wanted(*days: int) -> list[str]:
    return [f"keystone-north-cdcdcdcd-202611{day:02}T000000Z-r{day}.age" for day in days]


def test_folder_keeps_the_newest_and_files_of_others(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    (there / "notes.txt").write_text("mine")
    store(tmp_path, Destination(str(there)), days=4, keep=2)
    assert names(Destination(str(there))) == [*wanted(3, 4), "notes.txt"]
    assert (there / wanted(4)[0]).read_bytes() == b"backup of day 4 " * 5000
    assert (there / wanted(4)[0]).stat().st_mode & 0o777 == 0o600


def test_folder_is_never_made(tmp_path: Path) -> None:
    """Without its mount it would be on the system's own disk."""
    with pytest.raises(places.AbsentError, match="no such folder"):
        names(Destination(str(tmp_path / "missing")))


def test_medium_that_returns_other_bytes_is_found_and_old_backups_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = Destination(str(tmp_path / "there"))
    Path(to.path).mkdir()
    store(tmp_path, to, days=1, keep=1)
    monkeypatch.setattr(places.Folder, "read", lambda _self, _name: iter([b"other"]))
    with pytest.raises(DamagedBundleError, match="returns other bytes"), places.opened(to) as place:
        places.store(place, sealed(tmp_path / "spool", 2), 1)
    assert names(to) == wanted(1)


# The store ----------------------------------------------------------------------------------


def bucket(tmp_path: Path, url: str, *, secret: str = s3_server.SECRET) -> Destination:
    file = tmp_path / "credentials"
    file.write_text(
        f"[default]\naws_access_key_id={s3_server.KEY}\naws_secret_access_key={secret}\n"
    )
    file.chmod(0o600)
    return Destination(s3=Bucket(url, s3_server.BUCKET, str(file), "sites/north/"))


@contextmanager
def real_store(tmp_path: Path) -> Iterator[str]:
    """Run the real server; its bucket is a folder."""
    (tmp_path / "root" / s3_server.BUCKET).mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [REAL, "--access", s3_server.KEY, "--secret", s3_server.SECRET,
            "--port", f"127.0.0.1:{port}", "posix", tmp_path / "root"]  # fmt: skip
    with run.spawned(argv, log_file=tmp_path / "s3.log"):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(params=["checking fake", "versitygw"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "versitygw":
        if not REAL:
            pytest.skip("no versitygw here: go install github.com/versity/versitygw/cmd/versitygw")
        with real_store(tmp_path) as url:
            yield url
    else:
        with s3_server.running() as server:
            yield server.url


def test_store_keeps_the_newest(tmp_path: Path, store_url: str) -> None:
    to = bucket(tmp_path, store_url)
    store(tmp_path, to, days=7, keep=5)
    assert names(to) == wanted(3, 4, 5, 6, 7)
    with places.opened(to) as place:
        assert b"".join(place.read(wanted(7)[0])) == b"backup of day 7 " * 5000


def test_wrong_secret_is_refused_and_not_shown(tmp_path: Path, store_url: str) -> None:
    with pytest.raises(HostError, match=r"403 \(SignatureDoesNotMatch\)") as caught:
        names(bucket(tmp_path, store_url, secret="not-the-secret"))
    assert "not-the-secret" not in f"{caught.value}{caught.value.hint}"


def test_bucket_that_does_not_exist_is_an_error(tmp_path: Path, store_url: str) -> None:
    to = bucket(tmp_path, store_url)
    assert to.s3 is not None
    other = s3.Bucket(Bucket(store_url, "other", to.s3.credentials_file))
    with pytest.raises(HostError, match=r"NoSuchBucket|404"):
        other.names()


def test_store_that_returns_other_bytes_is_found(tmp_path: Path) -> None:
    with s3_server.running() as server:
        server.corrupt = True
        with pytest.raises(DamagedBundleError, match="returns other bytes"):
            store(tmp_path, bucket(tmp_path, server.url), days=1, keep=1)
        assert server.objects == {}


def test_store_that_does_not_answer_is_an_error(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(HostError, match="refused"):
            names(bucket(tmp_path, url))


def test_credentials_of_all_users_are_refused(tmp_path: Path) -> None:
    to = bucket(tmp_path, "http://127.0.0.1:1")
    (tmp_path / "credentials").chmod(0o644)
    with pytest.raises(ConfigurationError, match="other users can read"):
        names(to)


# The stick ----------------------------------------------------------------------------------


def listing(monkeypatch: pytest.MonkeyPatch, *devices: dict[str, object]) -> None:
    """Let lsblk show these devices, on a disk of another label."""
    disk = {"path": "/dev/sdb", "label": None, "fstype": None, "children": list(devices)}
    monkeypatch.setattr(
        places, "_listed", lambda: {"blockdevices": [{"path": "/dev/sda", "label": "root"}, disk]}
    )


@pytest.mark.parametrize("label", [None, "KEYSTONE", "keystone-backup", "; rm -rf /"])
def test_other_labels_are_no_stick(monkeypatch: pytest.MonkeyPatch, label: str | None) -> None:
    listing(monkeypatch, {"path": "/dev/sdb1", "label": label, "fstype": "ext4"})
    with pytest.raises(places.AbsentError, match="no stick with the label KEYSTONE-BACKUP"):
        names(Destination(stick=True))


def test_two_sticks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"path": "/dev/sdb1", "label": "KEYSTONE-BACKUP", "fstype": "ext4"}
    listing(monkeypatch, one, {"path": "/dev/sdc1", "label": "KS-BACKUP", "fstype": "vfat"})
    with pytest.raises(RefusedError, match="/dev/sdb1, /dev/sdc1"):
        names(Destination(stick=True))


@pytest.mark.parametrize("kind", [None, "ntfs", "zfs_member"])
def test_other_file_systems_are_not_mounted(
    monkeypatch: pytest.MonkeyPatch, kind: str | None
) -> None:
    listing(monkeypatch, {"path": "/dev/sdb1", "label": "KEYSTONE-BACKUP", "fstype": kind})
    with pytest.raises(RefusedError, match="file system"):
        names(Destination(stick=True))


@contextmanager
def loop(tmp_path: Path, make: list[str]) -> Iterator[str]:
    image = tmp_path / "stick"
    image.touch()
    os.truncate(image, 48 << 20)
    run.run([*make, image])
    done = run.run(["losetup", "--find", "--show", image], check=False)
    if done.returncode:
        pytest.skip(f"no loop device here: {done.stderr.strip()}")
    device = done.stdout.strip()
    try:
        yield device
    finally:
        run.run(["losetup", "--detach", device])


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("ext4", ["mkfs.ext4", "-q", "-L", "KEYSTONE-BACKUP"]),
        ("vfat", ["mkfs.vfat", "-n", "KS-BACKUP"]),
    ],
)  # fmt: skip
def test_stick_is_mounted_for_the_copy_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, make: list[str]
) -> None:
    monkeypatch.setattr(places, "MOUNT", tmp_path / "mount")
    with loop(tmp_path, make) as device:
        label = places.LABELS[0] if kind == "ext4" else places.LABELS[1]
        listing(monkeypatch, {"path": device, "label": label, "fstype": kind})
        try:
            with places.opened(Destination(stick=True)):
                mounts = Path("/proc/mounts").read_text()
        except HostError as error:
            if (
                "cannot be mounted" in error.message
                and kind not in Path("/proc/filesystems").read_text()
            ):
                pytest.skip(f"this kernel has no {kind}")
            raise
        (line,) = (line for line in mounts.splitlines() if str(places.MOUNT) in line)
        assert {"nosuid", "nodev", "noexec", "rw"} <= set(line.split()[3].split(","))
        assert not places.MOUNT.is_mount()
        store(tmp_path, Destination(stick=True), days=3, keep=2)
        assert [name for name in names(Destination(stick=True)) if name != "lost+found"] == wanted(
            2, 3
        )
        assert not places.MOUNT.is_mount()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_mount_of_a_killed_run_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "MOUNT", tmp_path / "mount")
    with loop(tmp_path, ["mkfs.ext4", "-q", "-L", "KEYSTONE-BACKUP"]) as device:
        listing(monkeypatch, {"path": device, "label": places.LABELS[0], "fstype": "ext4"})
        places.MOUNT.mkdir()
        run.run(["mount", device, places.MOUNT])
        assert names(Destination(stick=True)) == []
        assert not places.MOUNT.is_mount()
