"""Files for network boot: accepted tar files, and the text for the site's DHCP server."""

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
    """A tar file like that of tar --format=ustar. end: number of zero bytes after the last file."""
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


def test_four_files_unpacked(tmp_path: Path) -> None:
    assert tuple(CONTENT) == pxe.FILES == tuple(netboot.MOST)
    unpack(GOOD, tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == CONTENT


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no file boot.ipxe"),
        (GOOD[:100], "no file boot.ipxe"),
        (packed({"boot.ipxe": b"x"}), "no file vmlinuz"),
        (packed(CONTENT | {"more": b"x"}), "data follows medium.iso"),
        (packed({"more": b"x"} | CONTENT), "expected boot.ipxe, found more"),
        (packed(dict(reversed(CONTENT.items()))), "expected boot.ipxe, found medium.iso"),
        (packed(CONTENT | {"vmlinuz": b""}), "vmlinuz has 0 bytes"),
        (packed(CONTENT | {"boot.ipxe": b"x" * 65537}), "boot.ipxe has 65537 bytes"),
        (GOOD.replace(bytes(LINK[:100]), b"../initrd".ljust(100, b"\0")), "no file initrd"),
        (GOOD.replace(tar.header(tar.Member("initrd", 512, mtime=1)), bytes(LINK)),
         "no file initrd, but a link"),
        (GOOD.replace(b"ustar\00000", b"ustar  \0", 1), "no file boot.ipxe"),
        (packed(CONTENT)[: 4 * 512 + 3 * 1024], "the file ends within medium.iso"),
        (packed(CONTENT, end=512), "the end of the archive is missing"),
        (GOOD + b"\0x", "data follows medium.iso"),
    ],
)  # fmt: skip
def test_any_other_tar_file_refused(content: bytes, why: str, tmp_path: Path) -> None:
    with pytest.raises(DamagedBundleError, match=r"primer-pxe\.tar") as error:
        unpack(content, tmp_path)
    assert why in error.value.message
    assert error.value.hint


def test_options_of_script_equal_those_of_medium() -> None:
    line = "boot=keystone keystone.root=ab keystone.tree=4096 keystone.version=2 quiet"
    script = pxe.script("primer", 2, line).encode()
    assert netboot.options(script) == netboot.options(line.encode())
    assert netboot.options(script.replace(b"root=ab", b"root=cd")) != netboot.options(line.encode())
    assert netboot.options(script + b"keystone.root=cd") != netboot.options(line.encode())


def test_dhcp_text_has_url() -> None:
    text = netboot.dhcp("10.77.0.11")
    assert f"http://10.77.0.11:{mirror.BOOT_PORT}/boot/boot.ipxe" in text
    assert "Keystone runs no DHCP server" in text


def test_serve_needs_either_file_or_stop(tmp_path: Path) -> None:
    (tmp_path / "x.tar").touch()
    for words in ([], [str(tmp_path / "x.tar"), "--stop"]):
        with pytest.raises(KeystoneError, match="a file to serve or --stop"):
            CliRunner().invoke(group, ["serve", *words], catch_exceptions=False)


def fake_ss(folder: Path, monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    program = folder / "ss"
    program.write_text(f"#!/bin/sh\n[ \"$2\" = 'sport = :{mirror.BOOT_PORT}' ] && echo '{says}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("KEYSTONE_PATH", f"{folder}:/usr/bin:/bin")


def test_serve_without_nginx_refused_with_hint(
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


def test_serve_refused_on_machine_that_is_no_primer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netboot, "CERTIFICATE", tmp_path / "site.crt")
    with pytest.raises(PreflightError, match="not a Primer of an installed site"):
        netboot.address()
