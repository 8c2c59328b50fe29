"""Files for network boot: packed as by a build, verified, and unpacked where nginx serves them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from keystone.appliance import netboot
from keystone.cli.image import group
from keystone.errors import DamagedBundleError, HostError, RefusedError

from .media import Builder, fakes

if TYPE_CHECKING:
    from pathlib import Path

SERVER = "10.77.0.11"


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Builder:
    fakes(tmp_path / "bin", monkeypatch)
    monkeypatch.setattr(netboot, "LINK", tmp_path / "state/boot/served")
    return Builder(tmp_path)


def contents(files: Path) -> dict[str, bytes]:
    """The files as they are served: the script also has the URL of this Primer as a fallback."""
    found = {file.name: file.read_bytes() for file in files.iterdir()}
    here = f"set url http://{SERVER}:8080/boot/boot.ipxe ||".encode()
    changed = found["boot.ipxe"].replace(b"set url ${filename} ||", here)
    assert changed != found["boot.ipxe"]
    return found | {"boot.ipxe": changed}


def served() -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in netboot.LINK.iterdir()}


def folders() -> int:
    """The number of folders beside the link."""
    return len([p for p in netboot.LINK.parent.iterdir() if p.is_dir() and not p.is_symlink()])


def test_served_version_replaced_by_next(builder: Builder) -> None:
    for system in (b"one", b"two"):
        files = builder.files(system)
        found = netboot.serve(builder.packed(files), SERVER)
        assert found == netboot.Found(hashlib.sha256(b"system " + system).hexdigest(), 2)
        assert served() == contents(files)
        assert folders() == 1
    for folder in (netboot.LINK.parent, netboot.LINK.resolve()):
        assert folder.stat().st_mode & 0o777 == 0o755


def test_site_file_served_and_named_by_script(builder: Builder) -> None:
    files = builder.files()
    netboot.serve(builder.packed(files), SERVER, b"kind: Site")
    found = served()
    assert found.pop("site.yaml") == b"kind: Site"
    digest = hashlib.sha256(b"kind: Site").hexdigest()
    added = f"keystone.url=${{url}} keystone.site=site.yaml keystone.sitehash={digest} "
    assert found["boot.ipxe"].decode() == contents(files)["boot.ipxe"].decode().replace(
        "keystone.url=${url} ", added
    )
    assert added in found["boot.ipxe"].decode()
    netboot.serve(builder.packed(files), SERVER)
    assert served() == contents(files)


@pytest.mark.parametrize(
    ("file", "old", "new", "why"),
    [
        ("medium.iso", b"system two", b"system twa", ".root: "),
        ("medium.iso", b"core.imgtwo", b"core.imgtwa", "core.img: not as it was built"),
        ("medium.iso", b"linux.efitwo", b"linux.efitwa", "linux.efi: not as it was built"),
        ("vmlinuz", b"two", b"twa", "vmlinuz is not the medium's"),
        ("initrd", b"two", b"two ", "initrd is not the medium's"),
        ("boot.ipxe", b"keystone.tree=4096", b"keystone.tree=8192", "starts another system"),
        ("boot.ipxe", b" keystone.version=2", b"", "starts another system"),
        ("boot.ipxe", b"keystone.url=${url}", b"keystone.url=${cwuri}", "no placeholder for an"),
        ("boot.ipxe", b"set url ${filename}", b"", "no placeholder for an"),
    ],
)
def test_inconsistent_files_refused_and_served_version_kept(
    builder: Builder, file: str, old: bytes, new: bytes, why: str
) -> None:
    netboot.serve(builder.packed(builder.files(b"one")), SERVER)
    before = served()
    files = builder.files(b"two")
    changed = files / file
    changed.write_bytes(changed.read_bytes().replace(old, new))
    with pytest.raises(DamagedBundleError, match="image") as error:
        netboot.serve(builder.packed(files), SERVER)
    assert why in error.value.message
    assert (served(), folders()) == (before, 1)


def test_incomplete_file_refused_and_served_version_kept(builder: Builder) -> None:
    netboot.serve(builder.packed(builder.files(b"one")), SERVER)
    before = served()
    tar = builder.packed(builder.files(b"two"))
    tar.write_bytes(tar.read_bytes()[:5000])
    with pytest.raises(DamagedBundleError, match="the file ends within medium"):
        netboot.serve(tar, SERVER)
    assert (served(), folders()) == (before, 1)


def test_full_disk_reported(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(netboot, "unpack", full)
    with pytest.raises(HostError, match="No space left on device"):
        netboot.serve(builder.packed(builder.files()), SERVER)
    assert folders() == 0


def test_folder_of_interrupted_run_deleted(builder: Builder) -> None:
    left = netboot.LINK.parent / "left"
    left.mkdir(parents=True)
    (left / "link").symlink_to("left")
    netboot.serve(builder.packed(builder.files()), SERVER)
    assert (left.exists(), folders()) == (False, 1)


def test_stop_deletes_all_files(builder: Builder) -> None:
    netboot.stop()
    netboot.serve(builder.packed(builder.files()), SERVER)
    netboot.stop()
    assert (netboot.LINK.is_symlink(), folders()) == (False, 0)


def test_serve_requires_release_named_out_of_band(
    builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netboot, "require_server", lambda: None)
    monkeypatch.setattr(netboot, "address", lambda: SERVER)
    tar = builder.packed(builder.files())
    for words in ((), ("--release", "0" * 64)):
        with pytest.raises(RefusedError, match="not the expected one") as error:
            CliRunner().invoke(group, ["serve", str(tar), *words], catch_exceptions=False)
        assert (netboot.LINK.is_symlink(), folders()) == (False, 0)
    named = error.value.message.partition("its release is ")[2][:64]
    words = ("--release", named)
    done = CliRunner().invoke(group, ["serve", str(tar), *words], catch_exceptions=False)
    assert (done.exit_code, netboot.LINK.is_symlink()) == (0, True), done.output
