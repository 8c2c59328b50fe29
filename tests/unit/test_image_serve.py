"""Files for network boot: which tar files are taken apart, and what is said to the site's DHCP."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from click.testing import CliRunner

from keystone.ansible.roles import mirror
from keystone.appliance import netboot
from keystone.bundle.formats import tar
from keystone.cli.image import group
from keystone.errors import DamagedBundleError, KeystoneError, PreflightError
from keystone.image import pxe

CONTENT = {
    "boot.ipxe": b"#!ipxe\n",
    "vmlinuz": b"k" * 700,
    "initrd": b"i" * 512,
    "medium.iso": b"m" * 3000,
}


def packed(files: dict[str, bytes], end: int = 10240) -> bytes:
    """As tar --format=ustar does it; end: bytes of zeros behind the last file."""
    parts = [
        tar.header(tar.Member(name, len(content), mtime=1)) + content.ljust(
            tar.padded(len(content)), b"\0"
        )
        for name, content in files.items()
    ]  # fmt: skip
    return b"".join(parts) + bytes(end)


GOOD = packed(CONTENT)
LINK = bytearray(tar.header(tar.Member("initrd", 0)))
LINK[156:163] = b"2vmlinu"
LINK[148:156] = b"%06o\0 " % sum(LINK[:148] + b" " * 8 + LINK[156:])


def unpack(content: bytes, folder: Path) -> None:
    netboot.unpack(io.BytesIO(content), "primer-pxe.tar", folder)


def test_the_four_files_are_taken_out(tmp_path: Path) -> None:
    assert tuple(CONTENT) == pxe.FILES == tuple(netboot.MOST)
    unpack(GOOD, tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == CONTENT


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no boot.ipxe follows"),
        (GOOD[:100], "no boot.ipxe follows"),
        (packed({"boot.ipxe": b"x"}), "no vmlinuz follows"),
        (packed(CONTENT | {"more": b"x"}), "something follows medium.iso"),
        (packed({"more": b"x"} | CONTENT), "more where boot.ipxe should be"),
        (packed(dict(reversed(CONTENT.items()))), "medium.iso where boot.ipxe should be"),
        (packed(CONTENT | {"vmlinuz": b""}), "vmlinuz of 0 bytes"),
        (packed(CONTENT | {"boot.ipxe": b"x" * 65537}), "boot.ipxe of 65537 bytes"),
        (GOOD.replace(bytes(LINK[:100]), b"../initrd".ljust(100, b"\0")), "no initrd follows"),
        (GOOD.replace(tar.header(tar.Member("initrd", 512, mtime=1)), bytes(LINK)),
         "no initrd follows, but a link"),
        (GOOD.replace(b"ustar\00000", b"ustar  \0", 1), "no boot.ipxe follows"),
        (packed(CONTENT)[: 4 * 512 + 3 * 1024], "it ends in the middle of medium.iso"),
        (packed(CONTENT, end=512), "its end is missing"),
        (GOOD + b"\0x", "something follows medium.iso"),
    ],
)  # fmt: skip
def test_any_other_tar_file_is_refused(content: bytes, why: str, tmp_path: Path) -> None:
    with pytest.raises(DamagedBundleError, match=r"primer-pxe\.tar") as error:
        unpack(content, tmp_path)
    assert why in error.value.message
    assert error.value.hint


def test_script_and_medium_name_one_system() -> None:
    line = "boot=keystone keystone.root=ab keystone.tree=4096 keystone.version=2 quiet"
    script = pxe.script("primer", 2, line).encode()
    assert netboot.options(script) == netboot.options(line.encode())
    assert netboot.options(script.replace(b"root=ab", b"root=cd")) != netboot.options(line.encode())
    assert netboot.options(script + b"keystone.root=cd") != netboot.options(line.encode())


def test_the_address_to_give_is_said() -> None:
    said = netboot.dhcp("10.77.0.11")
    assert f"http://10.77.0.11:{mirror.BOOT_PORT}/boot/boot.ipxe" in said
    assert "Keystone runs no DHCP server" in said


def test_one_of_a_file_and_stop_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "x.tar").touch()
    for words in ([], [str(tmp_path / "x.tar"), "--stop"]):
        with pytest.raises(KeystoneError, match="a file to serve, or --stop"):
            CliRunner().invoke(group, ["serve", *words], catch_exceptions=False)


def fake_ss(folder: Path, monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    program = folder / "ss"
    program.write_text(f"#!/bin/sh\n[ \"$2\" = 'sport = :{mirror.BOOT_PORT}' ] && echo '{says}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("KEYSTONE_PATH", f"{folder}:/usr/bin:/bin")


def test_a_primer_that_serves_nothing_is_told_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f'LISTEN 0 511 0.0.0.0:{mirror.BOOT_PORT} 0.0.0.0:* users:(("%s",pid=7,fd=9))'
    fake_ss(tmp_path, monkeypatch, line % "nginx")
    netboot.require_server()
    for says in ("", line % "java"):
        fake_ss(tmp_path, monkeypatch, says)
        with pytest.raises(PreflightError) as error:
            netboot.require_server()
        assert "networkBoot: true" in error.value.hint


def test_no_primer_serves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netboot, "CERTIFICATE", tmp_path / "site.crt")
    with pytest.raises(PreflightError, match="no Primer of a site"):
        netboot.address()
