"""Status of the running system: Secure Boot and TPM measurements."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from keystone.appliance import status
from keystone.appliance.status import NO_UEFI, OFF, ON, Status
from keystone.image import pcr as measured

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("value", "expected"), [(b"\6\0\0\0\1", ON), (b"\6\0\0\0\0", OFF), (b"", OFF)]
)
def test_secure_boot_read_from_last_byte_of_efi_variable(
    tmp_path: Path, value: bytes, expected: str
) -> None:
    variable = tmp_path / status.SECURE_BOOT
    variable.parent.mkdir()
    variable.write_bytes(value)
    assert status.secure_boot(tmp_path) == expected


def test_no_secure_boot_without_uefi(tmp_path: Path) -> None:
    assert status.secure_boot(tmp_path / "none") == NO_UEFI


@pytest.mark.parametrize(("value", "expected"), [("AB" * 32 + "\n", "ab" * 32), ("0" * 64, "")])
def test_pcr_of_zeros_means_no_measurement(tmp_path: Path, value: str, expected: str) -> None:
    pcr = tmp_path / "11"
    assert status.measured(pcr) == ""
    pcr.write_text(value)
    assert status.measured(pcr) == expected


def test_short_status_fits_one_line() -> None:
    longest = Status(1000, "medium", "ab" * 32, NO_UEFI, "cd" * 32).short()
    assert len(longest) <= 74
    assert "Secure Boot none" in longest


def test_pcr_extended_by_sections_in_order_of_specification() -> None:
    def hashed(text: bytes) -> bytes:
        return sha256(text).digest()

    contents = {".sbat": b"s", ".text": b"code", ".cmdline": b"c", ".linux": b"l"}
    listed = {name: {"sha256": hashed(text).hex()} for name, text in contents.items()}
    value = bytes(32)
    for name in (".linux", ".cmdline", ".sbat"):
        value = hashed(value + hashed(name.encode() + b"\0"))
        value = hashed(value + hashed(contents[name]))
    assert measured.register(json.dumps(listed)) == value.hex()
