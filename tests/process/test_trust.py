"""`keystone-install trust` as processes: the offline root's key, its encryption, its path."""

from __future__ import annotations

import os
import subprocess  # noqa: TID251 commands are tried from outside, two at once
import sys
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat

from keystone.pki import certificates

from .command_line import CommandLine

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "correct horse battery"
SITE = """
apiVersion: keystone/v1alpha1
kind: Site
metadata: {name: north}
spec:
  networks: {nodes: 198.51.100.0/24}
  trust: {rootKeyFile: ./root.key, passphraseFile: ./pass}
  primers:
    - {name: p1, address: 198.51.100.1, disks: [{serial: A}, {serial: B}]}
"""


def arguments(verb: str, tree: str = "tree") -> tuple[str, ...]:
    new = ("--new-site",) if verb == "init" else ()
    return ("trust", verb, "--site", "site.yaml", "--directory", tree, *new)


class Desk(CommandLine):
    """A folder with a site file. Nothing answers at the address of its Primer."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "site.yaml").write_text(SITE)
        (folder / "pass").write_text(f"{SECRET}\n")

    def trust(self, verb: str, *words: str, code: int = 0) -> str:
        return self.said(code, *arguments(verb), *words)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    ssh = tmp_path / "bin/ssh"
    ssh.parent.mkdir()
    ssh.write_text("#!/bin/sh\necho 'connect to host 198.51.100.1: No route to host' >&2; exit 255")
    ssh.chmod(0o755)
    monkeypatch.setenv("KEYSTONE_PATH", f"{ssh.parent}:{os.environ['PATH']}")
    return Desk(tmp_path)


@pytest.fixture
def made(desk: Desk) -> Desk:
    desk.trust("init")
    return desk


def encrypt_weakly(file: Path) -> bytes:
    """Encrypt the key as an older Keystone did: PBKDF2 with 2,048 rounds, as `cryptography` does.

    Return the encrypted key.
    """
    pem = file.read_bytes()
    key = certificates.load_key(pem, "test", SECRET)
    weak = serialization.BestAvailableEncryption(SECRET.encode())
    old = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, weak)
    file.write_bytes(old + pem[pem.index(b"-----BEGIN CERTIFICATE") :])
    return old


def derivation(file: Path) -> str:
    """Return the key derivation of a key file, as OpenSSL prints it."""
    argv = ["openssl", "asn1parse", "-in", str(file)]
    text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return next(name for name in ("scrypt", "PBKDF2") if f":{name}" in text)


@pytest.mark.parametrize("words", ["pw", "elevenchars", "   padded   "])
def test_short_passphrase_for_root_key_is_refused(desk: Desk, words: str) -> None:
    (desk.folder / "pass").write_text(words)
    output = desk.trust("init", code=3)
    assert "12 characters or more" in output
    assert str(desk.folder / "pass") in output
    assert not (desk.folder / "root.key").exists()


def test_short_passphrase_for_release_key_is_refused(desk: Desk) -> None:
    (desk.folder / "pass").write_text("pw\n")
    words = ("bundle", "keys", "init", "--dir", "keys", "--passphrase-file", "pass")
    assert "12 characters or more" in desk.said(3, *words)


def test_root_key_is_encrypted_with_scrypt_and_openssl_decrypts_it(made: Desk) -> None:
    file = made.folder / "root.key"
    assert derivation(file) == "scrypt"
    argv = ["openssl", "pkey", "-in", str(file), "-passin", "file:pass", "-noout", "-text"]
    done = subprocess.run(argv, cwd=made.folder, capture_output=True, text=True, check=True)
    assert "secp384r1" in done.stdout


def test_weak_encryption_is_replaced_when_key_is_used(made: Desk) -> None:
    file = made.folder / "root.key"
    old = encrypt_weakly(file)
    assert derivation(file) == "PBKDF2"
    output = made.trust("verify", "--root-key", "root.key")
    assert "replaced the weak encryption of an older Keystone with scrypt" in output
    assert derivation(file) == "scrypt"
    assert old not in file.read_bytes()
    made.trust("verify", "--root-key", "root.key")
    encrypt_weakly(file)
    (made.folder / "tree/site.crt").unlink()
    (made.folder / "tree/site-anchor.crt").unlink()
    assert "replaced the weak encryption of an older Keystone" in made.trust("init")
    assert derivation(file) == "scrypt"


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to another user")
def test_verify_accepts_weakly_encrypted_copy_that_it_cannot_replace(made: Desk) -> None:
    """A stick that a desktop mounted belongs to its user: root reads it but does not write."""
    stick = made.folder / "stick"
    stick.mkdir()
    copy = stick / "root.key"
    copy.write_bytes((made.folder / "root.key").read_bytes())
    old = encrypt_weakly(copy)
    os.chown(stick, 1000, 1000)
    output = made.trust("verify", "--root-key", str(copy))
    assert "its encryption is weak and cannot be replaced" in output
    assert "belongs to user 1000" in output
    assert f"{copy}: the key of this site's root" in output
    assert copy.read_bytes().startswith(old)


def test_each_run_reminds_of_root_key_on_primer_with_next_step(made: Desk) -> None:
    file = made.folder / "root.key"
    for words in ("init", "verify"):
        output = made.trust(words)
        assert f"{file}: the offline root's key is on this Primer" in output
        assert f"shred -u {file}" in output
    # The site file now has another path: the tree knows the first one.
    (made.folder / "site.yaml").write_text(SITE.replace("./root.key", "./other.key"))
    assert f"shred -u {file}" in made.trust("verify")
    file.unlink()
    assert "root's key" not in made.trust("verify")


def test_parallel_runs_make_one_tree_and_its_key(desk: Desk) -> None:
    """The second process waits, observes again and finds nothing to do."""
    argv = [sys.executable, "-m", "keystone", *arguments("init")]
    both = [subprocess.Popen(argv, cwd=desk.folder, stderr=subprocess.PIPE) for _ in range(6)]
    codes = [(process.communicate()[1], process.returncode) for process in both]
    assert [code for _, code in codes] == [0] * len(both), codes
    desk.trust("verify", "--root-key", "root.key")


def test_second_tree_does_not_overwrite_key_file(made: Desk) -> None:
    key = (made.folder / "root.key").read_bytes()
    made.run(0, *arguments("init", "other"))
    assert (made.folder / "root.key").read_bytes() == key


def test_key_of_another_root_is_reported(made: Desk) -> None:
    root, mine = made.folder / "root.key", made.folder / "mine.key"
    root.rename(mine)
    made.run(0, *arguments("init", "other"))
    # The key file has the other tree's key, as after a race of two runs.
    output = made.trust("verify", code=7)
    assert f"{root}: the key of another root" in output
    output = made.trust("verify", "--root-key", "root.key", code=7)
    assert "so it cannot sign here" in output
    root.unlink()
    assert "mine.key: the key of this site's root" in made.trust("verify", "--root-key", "mine.key")
    # The right certificate with another key.
    pem = mine.read_bytes()
    wrong = certificates.key_pem(certificates.new_key(), SECRET)
    mine.write_bytes(wrong + pem[pem.index(b"-----BEGIN CERTIFICATE") :])
    assert "so it cannot sign here" in made.trust("verify", "--root-key", "mine.key", code=7)
