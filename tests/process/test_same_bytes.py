"""Equal locks give equal bundles: in any environment, for any user, in any folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess  # noqa: TID251 the commands are tried from outside
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from keystone.bundle.model import Digest, Item
from keystone.packager import lock
from keystone.packager.keys import keys

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

CREATED = datetime(2026, 11, 20, 12, tzinfo=UTC)
AS_USER = ("unshare", "--user", "--map-user=1234", "--map-group=1234")
ELSEWHERE = ("unshare", "--user", "--map-root-user", "--uts", "sh", "-c",
             'hostname elsewhere.example && exec "$@"', "sh")  # fmt: skip
AROUND: dict[str, tuple[tuple[str, ...], dict[str, str], int]] = {
    "plain": ((), {}, 0o022),
    "time zone": ((), {"TZ": "Pacific/Kiritimati"}, 0o022),
    "locale": ((), {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8", "PYTHONUTF8": "0"}, 0o022),
    "umask": ((), {}, 0o077),
    "user": (AS_USER, {"HOME": "/", "USER": "nobody", "LOGNAME": "nobody"}, 0o000),
    "hostname": (ELSEWHERE, {"HOSTNAME": "elsewhere.example"}, 0o022),
    "hash seed": ((), {"PYTHONHASHSEED": "4242", "PYTHONOPTIMIZE": "1"}, 0o022),
    "one job": ((), {"KEYSTONE_JOBS": "1", "PYTHONHASHSEED": "1"}, 0o022),
    "many jobs": ((), {"KEYSTONE_JOBS": "32", "TZ": "America/St_Johns"}, 0o027),
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a lock, its files and the keys."""
    folder = tmp_path_factory.mktemp("original")
    items, blobs = [], []
    for number in range(12):
        data = os.urandom(1 + number * 99_991)
        (folder / f"f{number}").write_bytes(data)
        digest = Digest(hashlib.sha256(data).hexdigest())
        labels = {"zeta": "1", "alpha": "2", "group": f"g{number % 3}"}
        items.append(Item("file", f"file{number}", "1", digest, len(data), labels))
        blobs.append(lock.LockedBlob(digest, len(data), f"local:f{number}"))
    made = lock.Lock("same", 1, CREATED, 700, ("amd64",), tuple(items), tuple(blobs))
    (folder / "same.lock.json").write_bytes(lock.dump(made))
    keys.init(folder / "keys", None, CREATED)
    return folder


def created(folder: Path, around: str) -> str:
    prefix, variables, umask = AROUND[around]
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "keystone", "bundle", "create", "same.lock.json",
         "--keys", "keys", "-o", "out/same.tar"], cwd=folder, umask=umask, text=True, check=False,
        env={"PATH": os.environ["PATH"], "XDG_CACHE_HOME": str(folder / "cache"), **variables},
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with (folder / "out/same.tar").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_bundle_has_the_same_bytes_in_every_environment(original: Path, tmp_path: Path) -> None:
    digests = {}
    for number, around in enumerate(AROUND):
        # Each time another path, with another length and other characters.
        folder = tmp_path / ("ä b" * number + str(number))
        shutil.copytree(original, folder)
        digests[around] = created(folder, around)
    assert len(set(digests.values())) == 1, digests


def test_another_lock_gives_another_bundle(original: Path, tmp_path: Path) -> None:
    """Proves that the comparison above can fail."""
    folder = tmp_path / "other"
    shutil.copytree(original, folder)
    text = (folder / "same.lock.json").read_text()
    (folder / "same.lock.json").write_text(text.replace('"number": 1', '"number": 2'))
    shutil.copytree(original, tmp_path / "plain")
    assert created(folder, "plain") != created(tmp_path / "plain", "plain")
