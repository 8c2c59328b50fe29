"""apt archives in a definition: two releases, two architectures, signed by a generated key."""

from __future__ import annotations

import os
import shutil
import subprocess  # noqa: TID251 the commands are tried from outside
from typing import TYPE_CHECKING

import pytest

from keystone.errors import ConfigurationError
from keystone.packager.sources import apt, machine_archives
from keystone.packager.sources.upstream import Sources

from .command_line import CommandLine
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


def deb(
    folder: Path, name: str, architecture: str, needs: str = "", version: str = "1.0",
    more: str = "",
) -> None:  # fmt: skip
    """Build an empty package."""
    root = folder / "root"
    control = root / "DEBIAN/control"
    control.parent.mkdir(parents=True, exist_ok=True)
    control.write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: {architecture}\n"
        f"Maintainer: nobody <nobody@example>\nDescription: empty\n{more}"
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
        deb(pool, "broken", "amd64", "libtool1 (>= 9)", version)
        deb(pool, "odd++", "amd64", "", f"1:{version}")
        (pool / f"odd++_{version}_amd64.deb").rename(pool / "vendor_amd64.deb")
        deb(pool, "agent", "amd64", "", version, "Provides: some-agent\n")
        top = self.folder / "dists" / suite
        for architecture in ("amd64", "arm64"):
            where = top / f"main/binary-{architecture}"
            where.mkdir(parents=True)
            words = ("--arch", architecture, "packages", f"pool/{suite}")
            (where / "Packages").write_bytes(call("apt-ftparchive", *words, cwd=self.folder))
        self.sign(self.folder, suite)

    def sign(self, folder: Path, suite: str) -> None:
        """Write and sign the Release file of a suite."""
        top = folder / "dists" / suite
        settings = {
            "Codename": suite, "Suite": suite, "Components": "main", "Architectures": "amd64 arm64"
        }  # fmt: skip
        options = [f"-oAPT::FTPArchive::Release::{key}={value}" for key, value in settings.items()]
        (top / "Release").write_bytes(
            call("apt-ftparchive", *options, "release", f"dists/{suite}", cwd=folder)
        )
        self.gpg("--clearsign", "--output", top / "InRelease", top / "Release")

    def gpg(self, *words: str | Path) -> None:
        call("gpg", "--batch", "--yes", *words, cwd=self.folder, GNUPGHOME=str(self._home))

    def serve(self, server: Faulty) -> None:
        for path in filter(lambda one: one.is_file(), self.folder.rglob("*")):
            server.says(f"/{path.relative_to(self.folder.parent)}", Answer(path.read_bytes()))


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[Archive], Path]]:
    """Archives of two releases, and the keyring that verifies both."""
    folder = tmp_path_factory.mktemp("archive")
    home = folder / "gpg"
    home.mkdir(mode=0o700)
    words = ("gpg", "--batch", "--passphrase", "", "--quick-gen-key", "archive@example", "ed25519")
    call(*words, cwd=folder, GNUPGHOME=str(home))
    ring = folder / "archive.gpg"
    ring.write_bytes(call("gpg", "--batch", "--export", cwd=folder, GNUPGHOME=str(home)))
    yield [Archive(folder, "noble", "1.24", home), Archive(folder, "jammy", "1.22", home)], ring
    call("gpgconf", "--kill", "all", cwd=folder, GNUPGHOME=str(home))


class Packager(CommandLine):
    def __init__(self, folder: Path, ring: Path, address: str, more: str = "") -> None:
        super().__init__(folder)
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


def test_two_releases_are_locked_for_two_architectures(
    archives: tuple[list[Archive], Path], tmp_path: Path
) -> None:
    with serving() as server:
        for archive in archives[0]:
            archive.serve(server)
        packager = Packager(tmp_path, archives[1], server.address)
        packager.said(0, "bundle", "lock", "small.yaml")
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
        packager.said(0, "bundle", "keys", "init", "--dir", "keys")
        packager.said(0, "bundle", "create", "small.yaml", "-o", "a.tar", "--keys", "keys")


def only(packager: Packager, *names: str) -> None:
    """Change the definition to these packages, in noble and for amd64 only."""
    path = packager.folder / "small.yaml"
    text = path.read_text().partition("  - suite: jammy")[0]
    text = text.replace("[amd64, arm64]", "[amd64]")
    path.write_text(text.replace("[tool]", f"[{', '.join(names)}]"))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("odd++", ["odd++ 1:1.24"]),  # a plus sign, an epoch, another file name
        ("some-agent", ["agent 1.24"]),  # a name that another package provides
        ("tool-data", ["tool-data 1.24"]),
    ],
)
def test_packages_are_found_by_real_and_provided_names(
    archives: tuple[list[Archive], Path], tmp_path: Path, name: str, found: list[str]
) -> None:
    with serving() as server:
        archives[0][0].serve(server)
        packager = Packager(tmp_path, archives[1], server.address)
        only(packager, name)
        packager.said(0, "bundle", "lock", "small.yaml", "--no-sbom")
    debs = [item for item in packager.items() if item["kind"] == "deb"]
    assert [f"{item['name']} {item['version']}" for item in debs] == found


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["tool-", "libtool1"], "no package tool- for amd64"),  # a removal for apt
        (["tool+"], "no package tool+ for amd64"),  # an installation for apt
        (["to.l", "nothing"], "no package nothing, to.l for amd64"),  # a pattern for apt
        (["broken"], "broken : Depends: libtool1 (>= 9)"),
    ],
)
def test_unknown_or_uninstallable_package_is_refused_with_the_reason(
    archives: tuple[list[Archive], Path], tmp_path: Path, names: list[str], words: str
) -> None:
    with serving() as server:
        archives[0][0].serve(server)
        packager = Packager(tmp_path, archives[1], server.address)
        only(packager, *names)
        assert words in packager.said(3, "bundle", "lock", "small.yaml")


def test_package_of_a_flat_archive_is_locked(
    archives: tuple[list[Archive], Path], tmp_path: Path
) -> None:
    """A flat archive has one folder for index and packages, as many vendors use it."""
    archive = archives[0][0]
    folder = tmp_path / "flat"
    folder.mkdir()
    deb(folder, "lone", "amd64", "", "2.0")
    (folder / "Packages").write_bytes(call("apt-ftparchive", "packages", ".", cwd=folder))
    (folder / "Release").write_bytes(call("apt-ftparchive", "release", ".", cwd=folder))
    archive.gpg("--clearsign", "--output", folder / "InRelease", folder / "Release")
    (folder / "Release").unlink()
    with serving() as server:
        for file in ("Packages", "InRelease", "lone_2.0_amd64.deb"):
            server.says(f"/ubuntu/flat/{file}", Answer((folder / file).read_bytes()))
        packager = Packager(tmp_path, archives[1], server.address)
        only(packager, "lone")
        path = tmp_path / "small.yaml"
        path.write_text(
            path.read_text().replace("suite: noble, signedBy", "suite: flat/, signedBy")
        )
        packager.said(0, "bundle", "lock", "small.yaml", "--no-sbom")
    assert [item["name"] for item in packager.items() if item["kind"] == "deb"] == ["lone"]


SOURCES = """\
# Types: deb
types: deb deb-src
URIs: http://one.example/debian
 http://two.example/debian
Suites: noble noble-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBF
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: http://off.example/
Suites: noble
Enabled: False

Types: deb-src
URIs: http://source.example/
Suites: noble

Types: deb
URIs: http://three.example/
# a comment
Suites: noble-security
Signed-By: /usr/share/keyrings/three.gpg
"""


def test_sources_file_is_parsed_with_continued_fields_and_comments() -> None:
    key = (
        "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBF\n -----END PGP PUBLIC KEY BLOCK-----"
    )
    pairs = [
        (f"http://{one}.example/debian", suite, key)
        for one in ("one", "two")
        for suite in ("noble", "noble-updates")
    ]
    last = ("http://three.example/", "noble-security", "/usr/share/keyrings/three.gpg")
    assert list(machine_archives.of_sources(SOURCES)) == [*pairs, last]


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """/etc/apt of a machine with Debian 12."""
    folder = tmp_path / "etc"
    (folder / "sources.list.d").mkdir(parents=True)
    (tmp_path / "os-release").write_text("ID=debian\nVERSION_CODENAME=bookworm\n")
    monkeypatch.setattr(machine_archives, "ETC_APT", folder)
    monkeypatch.setattr(machine_archives, "OS_RELEASE", tmp_path / "os-release")
    return folder


def own(*components: str) -> list[tuple[str, str, str]]:
    found = machine_archives.machine_archives("trixie", components or ("main",))
    return [(one.uri, one.suite, one.signed_by) for one in found]


def test_archives_of_the_machine_have_the_keys_it_trusts(etc: Path) -> None:
    (etc / "sources.list").write_bytes(
        "# für alle\n".encode("latin-1")  # apt accepts any encoding
        + b"deb http://one.example/debian bookworm main\n"
        b"deb [signed-by=/etc/apt/keyrings/corp.gpg] http://two.example/x bookworm-updates main\n"
        b"deb [signed-by=/usr/share/keyrings/debian-archive-bookworm-stable.gpg]"
        b" http://three.example/x stable-security main\n"
        b"deb http://four.example/debian/ stable main\n"
        b"deb http://vendor.example/deb stable main\n"
        b"deb http://one.example/debian bookworm-backports main\n"
        b"deb http://one.example/debian trixie main\n"
    )
    inline = "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQ"
    (etc / "sources.list.d/x.sources").write_text(
        f"Types: deb\nURIs: http://five.example/\nSuites: bookworm\nSigned-By:{inline}\n"
    )
    assert own() == [
        ("http://five.example/", "trixie", inline),
        ("http://one.example/debian", "trixie", apt.KEYRING),
        ("http://two.example/x", "trixie-updates", "/etc/apt/keyrings/corp.gpg"),
        ("http://three.example/x", "trixie-security", apt.KEYRING),
        ("http://four.example/debian/", "trixie", apt.KEYRING),
    ]


def test_local_mirror_list_gives_its_first_supported_uri(etc: Path, tmp_path: Path) -> None:
    """Debian's cloud images use such mirror lists."""
    listed = tmp_path / "debian.list"
    listed.write_text("# first\n\ntor+http://x.example/\nhttps://one.example/debian\tpriority:1\n")
    (etc / "sources.list").write_text(
        f"deb mirror+file:{listed} stable main\ndeb mirror+http://m.example/l bookworm main\n"
    )
    assert own() == [("https://one.example/debian", "trixie", apt.KEYRING)]


@pytest.mark.parametrize("uri", ["mirror+http://m.example/l", "tor+http://x.example/debian"])
def test_unsupported_archive_uri_is_refused(etc: Path, uri: str) -> None:
    (etc / "sources.list").write_text(f"deb {uri} bookworm main\n")
    with pytest.raises(ConfigurationError) as caught:
        own()
    assert uri in caught.value.message
    assert "spec.debs[].sources" in caught.value.hint


def test_lock_without_apt_is_a_configuration_error(
    archives: tuple[list[Archive], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYSTONE_PATH", str(tmp_path))
    packager = Packager(tmp_path, archives[1], "http://127.0.0.1:9")
    output = packager.said(3, "bundle", "lock", "small.yaml")
    assert "apt-config: no such program" in output
    assert "Debian or Ubuntu" in output


def test_archive_in_a_local_folder_is_locked_and_verified(
    archives: tuple[list[Archive], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """apt-mirror, aptly, a DVD; apt keeps a version's colon as %3a in names of files."""
    archive = archives[0][0]
    packager = Packager(tmp_path, archives[1], "http://127.0.0.1:9")
    only(packager, "tool", "epoch")
    path = tmp_path / "small.yaml"
    folder = tmp_path / "a folder"
    shutil.copytree(archive.folder, folder)
    pool = folder / "pool/noble"
    deb(pool, "epoch", "amd64", "", "1:2.0~rc+1")
    (pool / "epoch_2.0~rc+1_amd64.deb").rename(pool / "epoch_1%3a2.0~rc+1_amd64.deb")
    where = folder / "dists/noble/main/binary-amd64/Packages"
    words = ("--arch", "amd64", "packages", "pool/noble")
    where.write_bytes(call("apt-ftparchive", *words, cwd=folder))
    archive.sign(folder, "noble")
    uri = f"file:{folder}".replace(" ", "%20")
    path.write_text(path.read_text().replace(f"uri: '{UPSTREAM}'", f"uri: '{uri}'"))
    packager.said(0, "bundle", "lock", "small.yaml")
    names = sorted(item["name"] for item in packager.items("deb"))
    assert names == ["epoch", "libtool1", "tool", "tool-data"]
    packager.said(0, "bundle", "check", "small.lock.json")
    with monkeypatch.context() as without_apt:
        without_apt.setenv("KEYSTONE_PATH", str(tmp_path))
        output = packager.said(3, "bundle", "check", "small.lock.json")
    assert "no such program" in output
    packager.said(0, "bundle", "keys", "init", "--dir", "keys")
    packager.said(0, "bundle", "create", "small.yaml", "-o", "a.tar", "--keys", "keys")
    (pool / "tool-data_1.24_all.deb").write_bytes(b"other")
    (tmp_path / "a.tar").unlink()
    output = packager.said(3, "bundle", "create", "small.yaml", "-o", "a.tar", "--keys", "keys")
    assert "tool-data_1.24_all.deb: the lock names" in output


def test_key_embedded_in_a_sources_file_verifies_the_archive(
    archives: tuple[list[Archive], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    archive, ring = archives[0][0], archives[1]
    armored = call("gpg", "--batch", "--enarmor", "--output", "-", ring, cwd=tmp_path).decode()
    armored = armored.replace("ARMORED FILE", "PUBLIC KEY BLOCK")
    kept = [line for line in armored.splitlines() if not line.startswith("Comment:")]
    key = "".join(f"\n {line or '.'}" for line in kept)
    uri = f"file:{archive.folder}"
    stanza = f"Types: deb\nURIs: {uri}\nSuites: noble\nSigned-By:{key}\n"
    ((_, _, signed_by),) = machine_archives.of_sources(stanza)
    found = apt.Archive(uri, "noble", ("main",), signed_by)
    with apt.Tree.ready([found], "amd64", Sources()) as tree:
        assert [one.name for one in tree.closure(["tool-data"])] == ["tool-data"]


def test_archive_signed_by_another_key_is_refused(
    archives: tuple[list[Archive], Path], tmp_path: Path
) -> None:
    with serving() as server:
        for archive in archives[0]:
            archive.serve(server)
        ring = "/usr/share/keyrings/debian-archive-keyring.gpg"
        packager = Packager(tmp_path, archives[1], server.address)
        text = (tmp_path / "small.yaml").read_text().replace("archive.gpg", ring)
        (tmp_path / "small.yaml").write_text(text)
        output = packager.said(4, "bundle", "lock", "small.yaml")
    assert "NO_PUBKEY" in output


def test_unavailable_index_is_an_error(
    archives: tuple[list[Archive], Path], tmp_path: Path
) -> None:
    with serving() as server:
        for archive in archives[0]:
            archive.serve(server)
        packager = Packager(tmp_path, archives[1], server.address)
        packager.said(0, "bundle", "lock", "small.yaml")
        server.says("/ubuntu/dists/noble/InRelease", Answer(status=500))
        packager.said(8, "bundle", "lock", "small.yaml")


def test_apt_trusts_the_ca_file(archives: tuple[list[Archive], Path], tmp_path: Path) -> None:
    both, alone = self_signed(tmp_path, "127.0.0.1")
    with serving(tls=both) as server:
        for archive in archives[0]:
            archive.serve(server)
        without = tmp_path / "without"
        without.mkdir()
        Packager(without, archives[1], server.address).run(8, "bundle", "lock", "small.yaml")
        packager = Packager(tmp_path, archives[1], server.address, f"  caFile: {alone.name}\n")
        packager.said(0, "bundle", "lock", "small.yaml")
        kinds = [item["kind"] for item in packager.items()]
        assert len(kinds) - kinds.count("sbom") - kinds.count("provenance") == 12
