"""Sealing: only the operator's key opens it; damage, other keys and no key are told apart."""

from __future__ import annotations

import io
from pathlib import Path

import pyrage
import pytest

from keystone.backup import seal
from keystone.errors import ConfigurationError, DamagedBundleError, HostError, RefusedError
from keystone.site import bech32

PLAIN = b"-----BEGIN PRIVATE KEY-----" + bytes(range(256)) * 1000
PAIR = pyrage.x25519.Identity.generate()


def sealed(path: Path, *recipients: str) -> Path:
    sink = io.BytesIO()
    seal.seal(io.BytesIO(PLAIN), sink, recipients or (str(PAIR.to_public()),))
    path.write_bytes(sink.getvalue())
    return path


def unsealed(file: Path, identity: object = PAIR) -> bytes:
    sink = io.BytesIO()
    seal.unseal(file, sink, str(identity))
    return sink.getvalue()


def test_each_recipient_opens_what_is_sealed(tmp_path: Path) -> None:
    other = pyrage.x25519.Identity.generate()
    file = sealed(tmp_path / "b.age", str(PAIR.to_public()), str(other.to_public()))
    assert unsealed(file) == unsealed(file, other) == PLAIN
    assert seal.kinds(file) == ("X25519", "X25519")


def test_plain_text_is_not_in_the_sealed_file(tmp_path: Path) -> None:
    assert b"PRIVATE KEY" not in sealed(tmp_path / "b.age").read_bytes()


def test_other_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"b\.age: sealed to other keys"):
        unsealed(sealed(tmp_path / "b.age"), pyrage.x25519.Identity.generate())


@pytest.mark.parametrize("cut", [0, 10, 150, 70_000, 65_800, -1, -16])
def test_truncated_file_is_damaged(tmp_path: Path, cut: int) -> None:
    file = sealed(tmp_path / "b.age")
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(DamagedBundleError, match=r"b\.age"):
        unsealed(file)


@pytest.mark.parametrize("at", [5, 1000, 100_000, -1])
def test_changed_file_is_not_opened(tmp_path: Path, at: int) -> None:
    file = sealed(tmp_path / "b.age")
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)
    with pytest.raises(DamagedBundleError, match=r"b\.age"):
        unsealed(file)


def test_bytes_that_follow_are_damage(tmp_path: Path) -> None:
    file = sealed(tmp_path / "b.age")
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(DamagedBundleError):
        unsealed(file)


def test_receiver_that_refuses_stops_the_reading(tmp_path: Path) -> None:
    class Refusing(io.BytesIO):
        def write(self, _data: object, /) -> int:
            raise RefusedError("not this one")

    with pytest.raises(RefusedError, match="not this one"):
        seal.unseal(sealed(tmp_path / "b.age"), Refusing(), str(PAIR))


def test_source_that_fails_stops_the_sealing() -> None:
    class Failing(io.BytesIO):
        def read(self, _size: int | None = -1, /) -> bytes:
            raise RefusedError("changed meanwhile")

    with pytest.raises(RefusedError, match="changed meanwhile"):
        seal.seal(Failing(), io.BytesIO(), [str(PAIR.to_public())])


@pytest.mark.parametrize("recipients", [(), ("age1qqqq",), (str(PAIR.to_public())[:-1] + "b",)])
def test_nothing_is_sealed_to_nobody(recipients: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError):
        seal.seal(io.BytesIO(PLAIN), io.BytesIO(), recipients)


def test_key_file_opens_with_its_passphrase_only(tmp_path: Path) -> None:
    file = tmp_path / "operator.key"
    public = seal.new_key(file, "correct horse battery")
    assert b"AGE-SECRET-KEY" not in file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600
    identity = seal.open_key(file, lambda: "correct horse battery")
    assert seal.public_of(identity) == public
    with pytest.raises(RefusedError, match="the passphrase is wrong"):
        seal.open_key(file, lambda: "wrong")
    with pytest.raises(RefusedError, match="exists"):
        seal.new_key(file, "correct horse battery")


def test_key_of_age_keygen_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text(f"# created: 2026\n# public key: {PAIR.to_public()}\n{PAIR}\n")
    assert seal.open_key(tmp_path / "plain", lambda: pytest.fail("asked")) == str(PAIR)


@pytest.mark.parametrize("content", [b"", b"AGE-SECRET-KEY-1", b"-----BEGIN PRIVATE KEY-----"])
def test_file_without_a_key_is_no_key_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "k").write_bytes(content)
    with pytest.raises(ConfigurationError, match="not the key file"):
        seal.open_key(tmp_path / "k", lambda: "x")


def test_checksum_of_a_public_key_finds_each_changed_character() -> None:
    text = str(PAIR.to_public())
    assert bech32.is_valid(text)
    for at in range(4, len(text)):
        other = "q" if text[at] != "q" else "p"
        assert not bech32.is_valid(text[:at] + other + text[at + 1 :])


def test_key_file_that_is_too_much_work_for_this_machine_is_not_called_damaged(
    tmp_path: Path,
) -> None:
    """Work factor 30: scrypt(2**30). The header is that of age-encryption.org/v1."""
    salt, wrapped, mac = "A" * 22, "A" * 43, "A" * 43
    head = f"age-encryption.org/v1\n-> scrypt {salt} 30\n{wrapped}\n--- {mac}\n"
    (tmp_path / "k").write_bytes(head.encode() + bytes(48))
    with pytest.raises(HostError, match="much slower"):
        seal.open_key(tmp_path / "k", lambda: "x")
