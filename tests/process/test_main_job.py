"""`keystone-install --bundle --site` as a process: refusals before it observes any host."""

from __future__ import annotations

import hashlib
import os
import subprocess  # noqa: TID251 runs the command from outside
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
TEXT = "the only file " * 5000
SITE = """
apiVersion: keystone/v1alpha1
kind: Site
metadata: {name: nowhere}
spec:
  networks: {nodes: 198.51.100.0/24}
  trust: {rootKeyFile: ./root.key, passphraseFile: ./pass}
  primers:
    - {name: p1, address: 198.51.100.1, disks: [{serial: A}, {serial: B}]}
"""
WRONG_SITE = """
apiVersion: keystone/v1alpha1
kind: Site
metadata: {name: nowhere}
spec:
  networks: {nodes: 198.51.100.0/24, pods: 10.96.0.0/12, services: 10.96.0.0/16}
  storage: {ashfit: 12}
  primers:
    - {name: p1, address: 198.51.100.1, disks: [{serial: A}, {serial: B}]}
    - {name: p2, address: 198.51.100.1, disks: [{serial: C}, {serial: D}]}
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the main job needs root")


class Maker:
    """A packager with keys, and one tiny bundle with two numbers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fingerprint = keys.init(folder / "keys", None, CREATED)
        self.path, self.next = self.create(1), self.create(2)

    def create(self, number: int) -> Path:
        digest = Digest(hashlib.sha256(TEXT.encode()).hexdigest())
        item = Item("file", "file", "1", digest, len(TEXT))
        blob = LockedBlob(digest, len(TEXT), f"inline:{TEXT}")
        lock = Lock("tiny", number, CREATED, 700, ("amd64",), (item,), (blob,))
        path = self.folder / f"{number}.tar"
        pack.bundle(lock, self.folder, path, members.Signing(self.folder / "keys"), Sources())
        return path


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    return Maker(tmp_path_factory.mktemp("maker"))


def main_job(bundle: Path, site: str, fingerprint: str, folder: Path) -> tuple[int, str]:
    """Run the main job. folder / "lib", if it exists, is the host's /var/lib."""
    file = folder / "site.yaml"
    file.write_text(site)
    pinned = Path("/var/lib/keystone/trust")
    before = sorted(pinned.rglob("*"))
    done = keystone(
        folder, "--bundle", str(bundle), "--site", str(file), "--yes",
        "--root-fingerprint", fingerprint,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert sorted(pinned.rglob("*")) == before, "a refused bundle leaves no trust behind"
    return done.returncode, done.stdout + done.stderr


def keystone(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    host = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /var/lib; exec "$@"']
    inside = [*host, str(folder / "lib")] if (folder / "lib").exists() else []
    return subprocess.run(
        [*inside, sys.executable, "-m", "keystone", *words],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=120,
    )  # fmt: skip


@pytest.fixture
def primer(maker: Maker, tmp_path: Path) -> Path:
    """A folder whose "lib" has the first bundle in the host's store."""
    (tmp_path / "lib/keystone/store").mkdir(parents=True)
    words = ("store", "ingest", str(maker.path), "--root-fingerprint", maker.fingerprint)
    done = keystone(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    return tmp_path


def test_valid_bundle_passes_verification(maker: Maker, tmp_path: Path) -> None:
    code, output = main_job(maker.path, SITE, maker.fingerprint, tmp_path)
    assert code == 3
    assert "none of the site's Primers is this machine" in output


def test_bundle_with_another_root_fingerprint_is_refused(maker: Maker, tmp_path: Path) -> None:
    code, output = main_job(maker.path, SITE, "0" * 64, tmp_path)
    assert code == 4
    assert maker.fingerprint in output


@pytest.mark.parametrize(
    ("damage", "code", "named"),
    [
        (lambda data: b"\0" * 1024 + data[1024:], 4, "not signed"),
        (lambda data: data.replace(b'"_type":"targets"', b'"_type":"tarGets"'), 4, "targets"),
        (lambda data: data.replace(b"the only file", b"the 0nly file", 1), 5, "file file"),
        (lambda data: data[: len(data) // 2], 5, "truncated"),
    ],
    ids=["unsigned", "metadata byte", "blob byte", "truncated"],
)
def test_damaged_bundle_is_refused(maker, tmp_path, damage, code, named) -> None:  # noqa: ANN001
    bad = tmp_path / "offline.tar"
    bad.write_bytes(damage(maker.path.read_bytes()))
    got, output = main_job(bad, SITE, maker.fingerprint, tmp_path)
    assert (got, named in output) == (code, True), output


CORRUPT = TEXT.replace("only", "0nly").encode()


def corrupt_copy(bundle: Path, folder: Path) -> Path:
    bad = folder / "offline.tar"
    bad.write_bytes(bundle.read_bytes().replace(TEXT.encode(), CORRUPT))
    return bad


def test_content_that_the_store_has_is_not_read_again(maker: Maker, primer: Path) -> None:
    code, output = main_job(corrupt_copy(maker.path, primer), SITE, maker.fingerprint, primer)
    assert (code, "none of the site's Primers is this machine" in output) == (3, True), output
    assert "content not read again: /var/lib/keystone/store has all of it" in output


def test_corrupt_content_is_refused_without_a_store(maker: Maker, tmp_path: Path) -> None:
    code, output = main_job(corrupt_copy(maker.path, tmp_path), SITE, maker.fingerprint, tmp_path)
    assert (code, "file file" in output) == (5, True), output


def test_bundle_that_the_store_lacks_is_read_completely(maker: Maker, primer: Path) -> None:
    code, output = main_job(maker.next, SITE, maker.fingerprint, primer)
    assert (code, "not read again" in output) == (3, False), output
    code, output = main_job(corrupt_copy(maker.next, primer), SITE, maker.fingerprint, primer)
    assert (code, "file file" in output) == (5, True), output


def test_signatures_are_verified_even_if_the_store_has_the_content(
    maker: Maker, primer: Path
) -> None:
    bad = primer / "offline.tar"
    bad.write_bytes(maker.path.read_bytes().replace(b'"_type":"targets"', b'"_type":"tarGets"'))
    code, output = main_job(bad, SITE, maker.fingerprint, primer)
    assert (code, "targets" in output) == (4, True), output


def test_all_mistakes_of_the_site_file_are_reported(maker: Maker, tmp_path: Path) -> None:
    code, output = main_job(maker.path, WRONG_SITE, maker.fingerprint, tmp_path)
    assert code == 3
    for word in ("ashfit", "ashift", "198.51.100.1", "10.96.0.0", "two", "site.yaml:"):
        assert word in output.lower(), f"{word} is missing in:\n{output}"


def test_status_without_site_uses_the_installed_site_file(tmp_path: Path) -> None:
    (tmp_path / "lib/keystone").mkdir(parents=True)
    done = keystone(tmp_path, "status")
    assert done.returncode == 2
    assert "no --site was given" in done.stderr
    (tmp_path / "lib/keystone/site.yaml").write_text(SITE)
    done = keystone(tmp_path, "status")
    assert "none of the site's Primers is this machine" in done.stderr
