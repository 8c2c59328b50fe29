"""apt archives that the definition gives: two releases, two architectures, signed by a key here."""

from __future__ import annotations

import json
import os
import subprocess  # noqa: TID251 the commands are tried from outside
import sys
from typing import TYPE_CHECKING, Any

import pytest

from .faulty import Answer, Faulty, self_signed, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

HEAD = "apiVersion: keystone/v1alpha1\nmetadata: {name: small}\n"
UPSTREAM = "http://archive.example/ubuntu"


def call(*words: str | Path, cwd: Path, **more: str) -> bytes:
    return subprocess.run(
        words, cwd=cwd, check=True, capture_output=True, env={**os.environ, **more}
    ).stdout


def deb(folder: Path, name: str, architecture: str, needs: str = "", version: str = "1.0") -> None:
    """A package with nothing in it but its name."""
    root = folder / "root"
    control = root / "DEBIAN/control"
    control.parent.mkdir(parents=True, exist_ok=True)
    control.write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: {architecture}\n"
        f"Maintainer: nobody <nobody@example>\nDescription: empty\n"
        + (f"Depends: {needs}\n" if needs else "")
    )
    call("dpkg-deb", "--root-owner-group", "--build", root, folder, cwd=folder)


class Archive:
    """One suite of an archive, with the same packages for two architectures."""

    def __init__(self, folder: Path, suite: str, version: str, home: Path) -> None:
        self.folder = folder / "ubuntu"
        self._home = home
        pool = self.folder / "pool" / suite
        pool.mkdir(parents=True)
        for architecture in ("amd64", "arm64"):
            deb(pool, "tool", architecture, "libtool1, tool-data", version)
            deb(pool, "libtool1", architecture, "", version)
        deb(pool, "tool-data", "all", "", version)
        deb(pool, "unwanted", "amd64", "", version)
        top = self.folder / "dists" / suite
        for architecture in ("amd64", "arm64"):
            where = top / f"main/binary-{architecture}"
            where.mkdir(parents=True)
            words = ("--arch", architecture, "packages", f"pool/{suite}")
            (where / "Packages").write_bytes(call("apt-ftparchive", *words, cwd=self.folder))
        settings = {
            "Codename": suite, "Suite": suite, "Components": "main", "Architectures": "amd64 arm64"
        }  # fmt: skip
        options = [f"-oAPT::FTPArchive::Release::{key}={value}" for key, value in settings.items()]
        (top / "Release").write_bytes(
            call("apt-ftparchive", *options, "release", f"dists/{suite}", cwd=self.folder)
        )
        self.gpg("--clearsign", "--output", top / "InRelease", top / "Release")

    def gpg(self, *words: str | Path) -> None:
        call("gpg", "--batch", "--yes", *words, cwd=self.folder, GNUPGHOME=str(self._home))

    def serve(self, server: Faulty) -> None:
        for path in filter(lambda one: one.is_file(), self.folder.rglob("*")):
            server.says(f"/{path.relative_to(self.folder.parent)}", Answer(path.read_bytes()))


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[Archive], Path]]:
    """Archives of two releases, and the keyring that vouches for both."""
    folder = tmp_path_factory.mktemp("archive")
    home = folder / "gpg"
    home.mkdir(mode=0o700)
    words = ("gpg", "--batch", "--passphrase", "", "--quick-gen-key", "archive@example", "ed25519")
    call(*words, cwd=folder, GNUPGHOME=str(home))
    ring = folder / "archive.gpg"
    ring.write_bytes(call("gpg", "--batch", "--export", cwd=folder, GNUPGHOME=str(home)))
    yield [Archive(folder, "noble", "1.24", home), Archive(folder, "jammy", "1.22", home)], ring
    call("gpgconf", "--kill", "all", cwd=folder, GNUPGHOME=str(home))


class Packager:
    def __init__(self, folder: Path, ring: Path, address: str, more: str = "") -> None:
        self.folder = folder
        (folder / "archive.gpg").write_bytes(ring.read_bytes())
        debs = "".join(
            f"  - suite: {suite}\n    groups: {{node: [tool]}}\n    components: [main]\n"
            f"    sources: [{{uri: '{UPSTREAM}', suite: {suite}, signedBy: archive.gpg}}]\n"
            for suite in ("noble", "jammy")
        )
        (folder / "small.yaml").write_text(
            f"{HEAD}kind: BundleDefinition\nspec:\n  number: 1\n  architectures: [amd64, arm64]\n"
            f"  installer: false\n  mirrors: {{'{UPSTREAM}': '{address}/ubuntu'}}\n"
            f"{more}  debs:\n{debs}"
        )

    def run(self, code: int, *words: str) -> str:
        environment = {**os.environ, "XDG_CACHE_HOME": str(self.folder / "cache")}
        done = subprocess.run(
            [sys.executable, "-m", "keystone", *words], cwd=self.folder, env=environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done.stderr

    def items(self) -> list[dict[str, Any]]:
        return list(json.loads((self.folder / "small.lock.json").read_bytes())["items"])


def test_two_releases_for_two_architectures(
    archives: tuple[list[Archive], Path], tmp_path: Path
) -> None:
    with serving() as server:
        for archive in archives[0]:
            archive.serve(server)
        packager = Packager(tmp_path, archives[1], server.address)
        packager.run(0, "bundle", "lock", "small.yaml")
        debs = [item for item in packager.items() if item["kind"] == "deb"]
        found = [
            (item["labels"]["suite"], item["name"], item["labels"]["architecture"]) for item in debs
        ]
        each = [("libtool1", "amd64"), ("libtool1", "arm64"), ("tool", "amd64"), ("tool", "arm64"),
                ("tool-data", "all")]  # fmt: skip
        wanted = [(suite, *one) for suite in ("jammy", "noble") for one in each]
        assert sorted(found) == wanted
        assert {item["version"] for item in debs if item["labels"]["suite"] == "noble"} == {"1.24"}
        text = (packager.folder / "small.lock.json").read_text()
        assert f"{UPSTREAM}/pool/" in text
        assert server.address not in text
        packager.run(0, "bundle", "keys", "init", "--dir", "keys")
        packager.run(0, "bundle", "create", "small.yaml", "-o", "a.tar", "--keys", "keys")


def test_an_archive_that_another_key_signed_is_refused(
    archives: tuple[list[Archive], Path], tmp_path: Path
) -> None:
    with serving() as server:
        for archive in archives[0]:
            archive.serve(server)
        ring = "/usr/share/keyrings/debian-archive-keyring.gpg"
        packager = Packager(tmp_path, archives[1], server.address)
        text = (tmp_path / "small.yaml").read_text().replace("archive.gpg", ring)
        (tmp_path / "small.yaml").write_text(text)
        said = packager.run(4, "bundle", "lock", "small.yaml")
    assert "NO_PUBKEY" in said


def test_an_index_that_cannot_be_had_is_not_taken_for_empty_or_from_before(
    archives: tuple[list[Archive], Path], tmp_path: Path
) -> None:
    with serving() as server:
        for archive in archives[0]:
            archive.serve(server)
        packager = Packager(tmp_path, archives[1], server.address)
        packager.run(0, "bundle", "lock", "small.yaml")
        server.says("/ubuntu/dists/noble/InRelease", Answer(status=500))
        packager.run(8, "bundle", "lock", "small.yaml")


def test_apt_takes_the_private_authority(
    archives: tuple[list[Archive], Path], tmp_path: Path
) -> None:
    both, alone = self_signed(tmp_path, "127.0.0.1")
    with serving(tls=both) as server:
        for archive in archives[0]:
            archive.serve(server)
        without = tmp_path / "without"
        without.mkdir()
        Packager(without, archives[1], server.address).run(8, "bundle", "lock", "small.yaml")
        packager = Packager(tmp_path, archives[1], server.address, f"  caFile: {alone.name}\n")
        packager.run(0, "bundle", "lock", "small.yaml")
        kinds = [item["kind"] for item in packager.items()]
        assert len(kinds) - kinds.count("sbom") - kinds.count("provenance") == 12
