"""Keys, the ceremony that changes the root, and how hosts verify the result."""

from __future__ import annotations

import shutil
import subprocess  # noqa: TID251 openssl checks that it can read our keys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from keystone import pkcs8
from keystone.bundle.format import Target
from keystone.bundle.model import Digest, Item
from keystone.bundle.trust import verify
from keystone.errors import ConfigurationError, RefusedError, UntrustedBundleError
from keystone.packager import issued_numbers
from keystone.packager.keys import ceremony, keyfile, keys, roots
from keystone.packager.keys.ceremony import Change
from keystone.packager.lock import Lock, LockedBlob, numbered

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

CREATED = datetime(2026, 11, 20, 12, tzinfo=UTC)
SECRET = "correct horse"


class People:
    """Holders of root keys, each with a separate folder."""

    def __init__(self, top: Path) -> None:
        self.top, self.release = top, top / "release"

    def public(self, name: str) -> Path:
        path = self.top / name / f"{name}.pem"
        if not path.exists():
            path.parent.mkdir()
            keyfile.generate(path, None)
        return path.with_suffix(".pub")

    def sign(self, name: str) -> Path:
        """Sign on a copy of the folder, as on a stick; returns the signed file."""
        pending = roots.pending(self.release)
        assert pending
        stick = self.top / f"stick-{name}"
        shutil.rmtree(stick, ignore_errors=True)
        stick.mkdir()
        for path in self.release.glob("*.root*.json"):
            shutil.copy(path, stick)
        ceremony.sign(stick / pending.name, self.top / name / f"{name}.pem", None)
        return stick / pending.name

    def collect(self, *names: str) -> roots.State:
        return ceremony.collect(self.release, [self.sign(name) for name in names])

    def files(self, number: int = 1) -> dict[str, bytes]:
        targets = {"keystone.json": Target(1, Digest("0" * 64))}
        return keys.sign(self.release, targets, number=number, created=CREATED, valid_days=300,
                         passphrase=None)  # fmt: skip

    @property
    def pin(self) -> verify.Pin:
        return verify.Pin(root=(self.release / "1.root.json").read_bytes())


@pytest.fixture
def people(tmp_path: Path) -> People:
    """Three holders, of whom two must sign, and a signed first root."""
    made = People(tmp_path)
    keys.init_apart(made.release, [made.public(n) for n in ("ann", "bob", "cy")], 2, None)
    assert made.collect("ann", "cy").whole
    return made


def test_root_is_complete_when_enough_holders_have_signed(tmp_path: Path) -> None:
    made = People(tmp_path)
    keys.init_apart(made.release, [made.public(n) for n in ("ann", "bob", "cy")], 2, None)
    with pytest.raises(ConfigurationError, match="not signed yet"):
        made.files()
    assert made.collect("ann").missing_new == 1
    assert made.collect("ann").missing_new == 1
    assert not (made.release / "1.root.json").exists()
    assert made.collect("bob").whole
    assert roots.pending(made.release) is None
    verify.verify(made.files(), made.pin)


def test_release_folder_holds_no_root_key(people: People) -> None:
    assert [key.path.name for key in keyfile.kept(people.release)] == ["release.pem"]
    verify.verify(people.files(), people.pin)


def test_rotation_needs_old_and_new_holders(people: People) -> None:
    change = Change(add_root=[people.public("dee"), people.public("eve")], revoke=["ann", "bob"])
    ceremony.propose(people.release, change)
    # Two holders of the new root, but only one of the old root.
    state = people.collect("dee", "cy")
    assert (state.missing_old, state.missing_new) == (1, 0)
    assert {holder.name for holder in state.holders if holder.role == "leaving"} == {"ann", "bob"}
    # A leaving holder signs too.
    assert people.collect("ann").whole
    verified = verify.verify(people.files(2), people.pin)
    assert verified.root == (people.release / "2.root.json").read_bytes()


def test_sign_refuses_a_key_that_is_no_root_key(people: People) -> None:
    ceremony.propose(people.release, Change())
    people.public("mallory")
    with pytest.raises(RefusedError, match="not a root key"):
        people.sign("mallory")
    with pytest.raises(RefusedError, match="not a root key"):
        ceremony.sign(people.release / "2.root.pending.json", people.release / "release.pem", None)


def test_leaving_holder_can_sign_only_beside_the_previous_root(people: People) -> None:
    ceremony.propose(people.release, Change(revoke=["ann"]))
    alone = people.top / "2.root.pending.json"
    shutil.copy(people.release / alone.name, alone)
    with pytest.raises(RefusedError, match=r"nor of 1\.root\.json"):
        ceremony.sign(alone, people.top / "ann/ann.pem", None)


def test_collect_refuses_signatures_of_another_proposal(people: People) -> None:
    ceremony.propose(people.release, Change())
    copy = people.sign("ann")
    (people.release / copy.name).unlink()
    ceremony.propose(people.release, Change(threshold=1))
    with pytest.raises(RefusedError, match="its signed content differs"):
        ceremony.collect(people.release, [copy])


def test_collect_drops_an_invalid_signature(people: People) -> None:
    ceremony.propose(people.release, Change())
    copy = people.sign("ann")
    text = copy.read_text()
    at = text.index('"sig"') + 10
    copy.write_text(text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :])
    state = ceremony.collect(people.release, [copy])
    assert not any(holder.signed for holder in state.holders)
    pending = roots.pending(people.release)
    assert pending
    assert roots.read(pending).signatures == {}


def test_new_threshold_needs_signatures_by_old_and_new_threshold(people: People) -> None:
    ceremony.propose(people.release, Change(threshold=3))
    assert people.collect("ann", "bob").missing_new == 1
    assert people.collect("cy").whole
    ceremony.propose(people.release, Change(threshold=1))
    state = people.collect("ann")
    assert (state.missing_old, state.missing_new) == (2, 0)


@pytest.mark.parametrize(
    "change",
    [
        Change(threshold=4), Change(threshold=0), Change(threshold=-1),
        Change(revoke=["nobody"]), Change(revoke=["a"]), Change(revoke=["release"]),
        Change(revoke=["ann", "bob"]),
    ],
    ids=str,
)  # fmt: skip
def test_propose_refuses_a_change_that_could_never_be_signed(
    people: People, change: Change
) -> None:
    with pytest.raises(ConfigurationError):
        ceremony.propose(people.release, change)
    assert roots.pending(people.release) is None


def test_key_can_have_only_one_role(people: People) -> None:
    with pytest.raises(ConfigurationError, match="already"):
        ceremony.propose(people.release, Change(add_release=[people.public("ann")]))
    with pytest.raises(ConfigurationError, match="already"):
        ceremony.propose(people.release, Change(add_root=[people.public("ann")]))


def test_second_proposal_is_refused_while_one_is_pending(people: People) -> None:
    ceremony.propose(people.release, Change())
    with pytest.raises(RefusedError, match="waiting"):
        ceremony.propose(people.release, Change())
    with pytest.raises(RefusedError, match="waiting"):
        keys.new_release_key(people.release, None)


def test_renewal_is_a_rotation_without_a_change(people: People) -> None:
    later = CREATED + timedelta(days=1500)
    ceremony.propose(people.release, Change(years=2), now=later)
    state = people.collect("ann", "bob")
    assert state.expires == later + timedelta(days=730)


def rotate_release(people: People) -> None:
    public, old = keys.new_release_key(people.release, None)
    ceremony.propose(people.release, Change(add_release=[public], revoke=old))


def test_release_key_changes_only_when_the_root_is_signed(people: People) -> None:
    before, old = people.files(1), (people.release / "release.pem").read_bytes()
    rotate_release(people)
    assert people.files(1) == before
    people.collect("ann", "bob")
    assert (people.release / "release.pem").read_bytes() != old
    assert not list(people.release.glob("release.next.*"))
    after = people.files(2)
    verify.verify(after, people.pin)
    # Hosts that have pinned the new root refuse everything that the old key signs.
    (people.release / "release.pem").write_bytes(old)
    with pytest.raises(ConfigurationError, match="withdrawn"):
        people.files(3)
    pinned = verify.Pin(root=(people.release / "2.root.json").read_bytes())
    with pytest.raises(UntrustedBundleError) as refused:
        verify.verify(before, pinned)
    assert refused.value.code == "KSB-02"


def test_interruption_between_root_and_release_key_is_repaired(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotate_release(people)
    with monkeypatch.context() as patched:
        patched.setattr(ceremony, "settle", lambda _: None)
        assert people.collect("ann", "bob").whole
    assert (people.release / "release.next.pem").exists()
    verify.verify(people.files(2), people.pin)
    ceremony.propose(people.release, Change())
    assert not (people.release / "release.next.pem").exists()
    verify.verify(people.files(2), people.pin)


def test_init_completes_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):  # noqa: N818 stands for a kill
        pass

    def kill(*_: object) -> None:
        raise Killed

    for name in ("propose", "sign", "collect"):
        folder = tmp_path / name
        with monkeypatch.context() as patched:
            patched.setattr(ceremony, name, kill)
            with pytest.raises(Killed):
                keys.init(folder, None)
        assert not (folder / "1.root.json").exists()
        release = (folder / "release.pem").read_bytes()
        keys.init(folder, None)
        assert (folder / "release.pem").read_bytes() == release
        with pytest.raises(RefusedError, match="already"):
            keys.init(folder, None)


def test_propose_refuses_more_roots_than_hosts_accept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ceremony, "MAX_ROOTS", 4)
    keys.init(tmp_path, None)
    for _ in range(3):
        pending = ceremony.propose(tmp_path, Change())
        ceremony.sign(pending, tmp_path / "root.pem", None)
        ceremony.collect(tmp_path)
    with pytest.raises(RefusedError, match="at most 4"):
        ceremony.propose(tmp_path, Change())
    files = keys.sign(tmp_path, {}, number=1, created=CREATED, valid_days=9, passphrase=None)
    verify.verify(files, verify.Pin(root=(tmp_path / "1.root.json").read_bytes()), CREATED)


def test_expired_root_signs_nothing(tmp_path: Path) -> None:
    keys.init(tmp_path, None, CREATED - timedelta(days=3650))
    with pytest.raises(ConfigurationError, match="expired"):
        keys.sign(tmp_path, {}, number=1, created=CREATED, valid_days=9, passphrase=None)


# Private keys at rest.


def test_key_is_encrypted_and_openssl_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "root.pem"
    keyfile.generate(path, SECRET)
    assert path.stat().st_mode & 0o777 == 0o600
    done = subprocess.run(
        ["openssl", "pkey", "-in", path, "-passin", f"pass:{SECRET}", "-pubout"],
        capture_output=True, check=True,
    )  # fmt: skip
    assert done.stdout == path.with_suffix(".pub").read_bytes()
    parsed = subprocess.run(
        ["openssl", "asn1parse", "-in", path], capture_output=True, check=True, text=True
    )
    assert ":PBES2" in parsed.stdout
    assert ":scrypt" in parsed.stdout
    assert ":aes-256-cbc" in parsed.stdout


def test_two_keys_with_one_passphrase_have_different_ciphertexts(tmp_path: Path) -> None:
    for name in "ab":
        keyfile.generate(tmp_path / f"{name}.pem", SECRET)
    first, second = ((tmp_path / f"{name}.pem").read_text().split("\n")[1:-2] for name in "ab")
    assert first[1:] != second[1:]


def test_generate_does_not_overwrite_a_key_created_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ann.pem"

    def slow(plain: bytes, passphrase: str) -> bytes:
        path.write_bytes(b"of the other run")
        return plain + passphrase.encode()

    monkeypatch.setattr(pkcs8, "encrypted", slow)
    with pytest.raises(RefusedError, match=r"ann\.pem: this key exists already"):
        keyfile.generate(path, SECRET)
    assert path.read_bytes() == b"of the other run"
    assert [file.name for file in tmp_path.iterdir()] == ["ann.pem"]


def test_sign_needs_the_passphrase(tmp_path: Path) -> None:
    keys.init(tmp_path, SECRET)
    for passphrase in (None, "", "wrong horse", f"{SECRET} "):
        with pytest.raises(ConfigurationError, match="cannot be opened"):
            keys.sign(tmp_path, {}, number=1, created=CREATED, valid_days=9, passphrase=passphrase)
    keys.sign(tmp_path, {}, number=1, created=CREATED, valid_days=9, passphrase=SECRET)


def test_key_made_by_openssl_can_sign(tmp_path: Path) -> None:
    """An Ed25519 key made by openssl, for holders who keep their keys in another tool."""
    for words in (("genpkey", "-algorithm", "ed25519", "-out", "o.pem"),
                  ("pkey", "-in", "o.pem", "-pubout", "-out", "o.pub")):  # fmt: skip
        subprocess.run(["openssl", *words], cwd=tmp_path, check=True, capture_output=True)
    keys.init_apart(tmp_path / "release", [tmp_path / "o.pub"], 1, None)
    ceremony.sign(tmp_path / "release/1.root.pending.json", tmp_path / "o.pem", None)
    assert ceremony.collect(tmp_path / "release").whole


@pytest.mark.parametrize("kind", ["rsa", "garbage", "missing"])
def test_loading_an_invalid_key_raises_configuration_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "k.pem"
    if kind == "rsa":
        subprocess.run(["openssl", "genpkey", "-algorithm", "rsa", "-out", path],
                       check=True, capture_output=True)  # fmt: skip
    elif kind == "garbage":
        path.write_bytes(b"\0\xff")
    for load in (lambda: keyfile.load(path, None), lambda: keyfile.load_public(path)):
        with pytest.raises(ConfigurationError, match=r"k\.pem"):
            load()


# One number, one content.


def locked(number: int = 1, text: str = "one") -> Lock:
    digest = Digest(f"{len(text):064x}")
    item = Item("file", text, "1", digest, len(text))
    blob = LockedBlob(digest, len(text), f"inline:{text}")
    return Lock("tiny", number, CREATED, 700, ("amd64",), (item,), (blob,))


def test_number_grows_only_with_changed_content(tmp_path: Path) -> None:
    old = locked(3)
    assert numbered(locked(1), None).number == 1
    assert numbered(locked(1), old).number == 3
    assert numbered(locked(1, "two"), old).number == 4
    assert numbered(locked(3, "two"), old).number == 4
    assert numbered(locked(9, "two"), old).number == 9
    assert numbered(locked(9), old).number == 9
    later = replace(locked(1), created=CREATED + timedelta(days=1))
    assert numbered(later, old).number == 3


def test_number_can_be_claimed_for_only_one_content(tmp_path: Path) -> None:
    issued_numbers.claim(tmp_path, locked(2))
    issued_numbers.claim(tmp_path, locked(2))
    for other in (locked(2, "two"), locked(1), locked(1, "two")):
        with pytest.raises(ConfigurationError, match="number 2 was signed already") as refused:
            issued_numbers.claim(tmp_path, other)
        assert "spec.number to 3" in refused.value.hint
    issued_numbers.claim(tmp_path, locked(3, "two"))
    issued_numbers.claim(tmp_path, locked(2))
    issued_numbers.claim(tmp_path, replace(locked(1), name="another"))


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"tiny": []}', b'{"tiny": {"x": "y"}}'])
def test_unreadable_list_of_issued_numbers_is_an_error(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / issued_numbers.FILE).write_bytes(damage)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        issued_numbers.claim(tmp_path, locked())
