"""A backup of a real trust tree and a real etcd: sealed, checked, brought back, refused."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import json
import shutil
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

import pyrage
import pytest
from click.testing import CliRunner

from keystone import run
from keystone.backup import content, manifest, opened, pack, seal
from keystone.backup.content import Content, Places
from keystone.bundle.trust import accepted
from keystone.bundle.trust.accepted import Accepted
from keystone.cli.backup import group
from keystone.cluster import etcdctl, snapshot_files, snapshots
from keystone.cluster.snapshots import Snapshot
from keystone.errors import DamagedBundleError, HostError, KeystoneError, RefusedError
from keystone.join.tokens import Claim, Tokens, new
from keystone.lab.mirror import upstream
from keystone.pki import certificates, rotate, rotation
from keystone.pki import tree as pki
from keystone.site.model import Networks, Node, Site

if TYPE_CHECKING:
    from collections.abc import Callable

PAIR = pyrage.x25519.Identity.generate()
SITE = Site(
    "north", (Node("p1", IPv4Address("10.77.0.11")),), Networks(IPv4Network("10.77.0.0/24"))
)
DOCUMENT = {
    "apiVersion": "keystone/v1alpha1", "kind": "Site", "metadata": {"name": "north"},
    "spec": {
        "networks": {"nodes": "10.77.0.0/24"},
        "primers": [{"name": "p1", "address": "10.77.0.11",
                     "disks": [{"serial": "A"}, {"serial": "B"}]}],
    },
}  # fmt: skip
PLANTED = b"planted-secret-of-a-pod"
NOW = dt.datetime(2026, 11, 30, 12, tzinfo=dt.UTC)


def places_in(folder: Path) -> Places:
    return Places(
        pki=folder / "pki", site=folder / "site.yaml", known_hosts=folder / "known_hosts",
        trust=folder / "trust", join=folder / "join", snapshots=folder / "snapshots",
    )  # fmt: skip


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """Return a function that makes a snapshot of a real etcd of the site with this root."""
    folder = tmp_path_factory.mktemp("etcd")

    def save(root: str) -> bytes:
        data = folder / root
        data.mkdir()
        ends = ["--listen-client-urls", "unix://localhost:1", "--advertise-client-urls",
                "unix://localhost:1", "--listen-peer-urls", "unix://localhost:2",
                "--initial-advertise-peer-urls", "unix://localhost:2",
                "--initial-cluster", "default=unix://localhost:2"]  # fmt: skip
        client = [upstream.binary("etcdctl"), "--endpoints", "unix://localhost:1"]
        with run.spawned([upstream.binary("etcd"), "--data-dir", data / "d", *ends], cwd=data):
            put = [*client, "put", snapshot_files.SITE_KEY, root]
            for _ in range(600):
                if run.run(put, cwd=data, check=False).returncode == 0:
                    break
            run.run([*client, "put", "/registry/secrets/a", PLANTED.decode()], cwd=data)
            run.run([*client, "snapshot", "save", "s.db"], cwd=data)
        return (data / "s.db").read_bytes()

    return save


class Primer:
    """A Primer's folders, with a real tree, a real snapshot, and one join token."""

    def __init__(self, folder: Path, etcd: Callable[[str], bytes]) -> None:
        self.folder, self.places = folder, places_in(folder)
        self.root_key = folder / "root.key"
        pki.init(SITE, self.places.pki, self.root_key, "correct horse battery")
        self.places.site.write_text(json.dumps(DOCUMENT))
        self.places.known_hosts.write_text("10.77.0.12 ssh-ed25519 AAAA\n")
        self.places.trust.mkdir()
        (self.places.trust / "root.json").write_text("{}")
        accepted.save(Accepted(7, NOW, "sha256:0"), self.places.trust)
        self.unused, self.used = (new("worker", "0" * 64, now=1, ttl=9)[1] for _ in range(2))
        kept = Tokens(self.places.join)
        kept.add(self.unused)
        kept.add(self.used)
        (self.places.join / "claims").mkdir()
        kept.claim(self.used.id, Claim("w1", 5, "key", "10.77.0.21"))
        root = (self.places.pki / "root.crt").read_bytes()
        self.root = certificates.fingerprint(certificates.load_certificate(root, ""))
        self.places.snapshots.mkdir()
        self.snapshot = self._snapshot(etcd(self.root))

    def _snapshot(self, data: bytes) -> Snapshot:
        half = self.places.snapshots / "half"
        half.write_bytes(data)
        size, digest = snapshot_files.check(half)
        found = Snapshot(NOW, snapshot_files.revision_of(half), size, digest, "a", self.root, "3.6")
        half.rename(snapshot_files.path(found, self.places.snapshots))
        return found

    def collect(self, now: dt.datetime = NOW) -> Content:
        return content.collect("north", self.snapshot, self.places, now)

    def seal(self, folder: Path, found: Content | None = None) -> Path:
        folder.mkdir(exist_ok=True)
        return content.seal_to(folder, found or self.collect(), [str(PAIR.to_public())]).file


@pytest.fixture(scope="module")
def _programs() -> None:
    folder = upstream.binary("etcd").parent
    with pytest.MonkeyPatch.context() as patch:
        for name, program in (("UTILITY", "etcdutl"), ("PROGRAM", "etcdctl"), ("SERVER", "etcd")):
            patch.setattr(etcdctl, name, str(folder / program))
        yield


@pytest.fixture(scope="module")
def lost(
    tmp_path_factory: pytest.TempPathFactory, etcd: Callable[[str], bytes], _programs: None
) -> Primer:
    """The Primer that is lost later; tests change nothing there."""
    return Primer(tmp_path_factory.mktemp("p1"), etcd)


class Blank:
    """A blank machine."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        self.places, self.opened = places_in(folder), folder / "opened"
        self.member = folder / "member"
        patch.setattr(opened, "LIVES", (self.member,))

    def open(self, file: Path, *, older: bool = False) -> opened.Opened:
        opened.require_blank(self.opened, self.places)
        found = opened.read_in(file, str(PAIR), older=older, folder=self.opened)
        opened.place(found, self.opened, self.places)
        return opened.observe(self.opened) or pytest.fail("nothing is opened")

    @property
    def is_unchanged(self) -> bool:
        return not any(one.exists() for one in (self.places.pki, self.places.site, self.opened))


@pytest.fixture
def blank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Blank:
    return Blank(tmp_path / "blank", monkeypatch)


def test_backup_brings_tree_site_and_floor_back_to_a_blank_machine(
    tmp_path: Path, lost: Primer, blank: Blank
) -> None:
    found = blank.open(lost.seal(tmp_path / "out"))
    assert (found.placed, found.pending, found.manifest.root) == (True, True, lost.root)
    for file in lost.places.pki.rglob("*"):
        if file.is_file() and file.name != ".lock":
            there = blank.places.pki / file.relative_to(lost.places.pki)
            assert there.read_bytes() == file.read_bytes(), file
    assert (blank.places.pki / "sa.key").stat().st_mode & 0o777 == 0o600
    folders = [blank.places.pki, *(one for one in blank.places.pki.rglob("*") if one.is_dir())]
    assert {one.stat().st_mode & 0o777 for one in folders} == {0o700}
    assert pki.verify(SITE, blank.places.pki) == []
    assert json.loads(blank.places.site.read_text()) == DOCUMENT
    floor = accepted.load(blank.places.trust)
    assert floor is not None
    assert floor.number == 7
    database = (blank.opened / manifest.SNAPSHOT).read_bytes()
    assert PLANTED in database


def test_authorities_are_not_made_again(tmp_path: Path, lost: Primer, blank: Blank) -> None:
    blank.open(lost.seal(tmp_path / "out"))
    asked = lambda: pytest.fail("the passphrase of the offline root is not needed")  # noqa: E731
    assert not pki.init(SITE, blank.places.pki, tmp_path / "no.key", asked)


def test_no_secret_is_in_the_sealed_file_nor_the_root_key_in_its_content(
    tmp_path: Path, lost: Primer
) -> None:
    file = lost.seal(tmp_path / "out")
    data, plain = file.read_bytes(), io.BytesIO()
    seal.unseal(file, plain, str(PAIR))
    secrets = [one.read_bytes()[40:100] for one in lost.places.pki.rglob("*.key")]
    secrets += [PLANTED, b"PRIVATE KEY", (lost.places.pki / "encryption.yaml").read_bytes()]
    assert len(secrets) > 8
    for secret in secrets:
        assert secret not in data
        assert secret in plain.getvalue()
    assert lost.root_key.read_bytes()[60:120] not in plain.getvalue()
    assert b"ENCRYPTED PRIVATE KEY" not in plain.getvalue()


def test_root_key_in_the_tree_is_refused(tmp_path: Path, lost: Primer) -> None:
    copy = replace(lost.places, pki=tmp_path / "pki")
    shutil.copytree(lost.places.pki, copy.pki)
    shutil.copy(lost.root_key, copy.pki / "root.key")
    with pytest.raises(RefusedError, match="offline root's key must not be"):
        content.collect("north", lost.snapshot, copy)


def test_second_opening_has_nothing_to_do_and_the_end_leaves_nothing(
    tmp_path: Path, lost: Primer, blank: Blank
) -> None:
    file = lost.seal(tmp_path / "out")
    assert blank.open(file) == blank.open(file)
    opened.restored(blank.opened)
    now = opened.observe(blank.opened)
    assert now is not None
    assert not now.pending
    blank.places.join.mkdir()
    opened.forget(blank.opened, blank.places)
    assert opened.observe(blank.opened) is None
    assert not blank.opened.exists()
    back = Tokens(blank.places.join)
    assert back.find(lost.unused.id) == lost.unused
    assert back.find(lost.used.id) == replace(lost.used, revoked=True)


@pytest.mark.parametrize("point", ["settle", "write_whole", "_place_bundle_trust"])
def test_opening_cut_anywhere_is_finished_by_the_same_command(
    tmp_path: Path, lost: Primer, blank: Blank, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """Cut before and after each step that changes something, one further on each time."""
    file = lost.seal(tmp_path / "out")
    real = getattr(opened, point)
    for cut in range(1, 9):
        calls = iter(range(1, 100))

        def step(*args: object, _calls: object = calls, _cut: int = cut, **words: object) -> object:
            if next(_calls) == _cut:  # type: ignore[call-overload]
                raise KeyboardInterrupt
            return real(*args, **words)

        with monkeypatch.context() as patch:
            patch.setattr(opened, point, step)
            try:
                blank.open(file)
            except KeyboardInterrupt:
                continue
            break
    found = blank.open(file)
    assert found.placed
    assert pki.verify(SITE, blank.places.pki) == []


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda data: data[:-1], DamagedBundleError),
        (lambda data: data[: len(data) // 2], DamagedBundleError),
        (lambda data: data[:5000] + b"x" + data[5001:], DamagedBundleError),
        (lambda data: data + b"x", DamagedBundleError),
        (lambda _data: b"", DamagedBundleError),
        (lambda _data: pyrage.encrypt(b"x" * 9999, [PAIR.to_public()]), DamagedBundleError),
        (lambda _data: pyrage.encrypt(b"", [PAIR.to_public()]), DamagedBundleError),
    ],
    ids=["truncated", "half", "one byte", "longer", "empty", "no archive", "nothing in it"],
)
def test_damaged_backup_changes_nothing(
    tmp_path: Path, lost: Primer, blank: Blank, damage: Callable[[bytes], bytes],
    error: type[KeystoneError],
) -> None:  # fmt: skip
    file = lost.seal(tmp_path / "out")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(error, match=file.name):
        blank.open(file)
    assert blank.is_unchanged
    assert error.exit_code == 5


def resealed(lost: Primer, folder: Path, change: dict[str, bytes | None]) -> Path:
    """Seal the same backup with other files: whoever has the public key can do that."""
    found = lost.collect()
    small = {name: data for name, data in {**found.small, **change}.items() if data is not None}
    entries = tuple(
        replace(one, size=len(small[one.name]), sha256=sha(small[one.name]))
        if one.name in small
        else one
        for one in found.manifest.files
        if one.name in small or one.name == manifest.SNAPSHOT
    )
    return lost.seal(folder, Content(replace(found.manifest, files=entries), small, found.snapshot))


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_parts_of_different_sites_are_refused(tmp_path: Path, lost: Primer, blank: Blank) -> None:
    other = tmp_path / "other"
    pki.init(
        replace(SITE, name="south"), other / "pki", other / "root.key", "correct horse battery"
    )
    theirs = (other / "pki" / "root.crt").read_bytes()
    described = json.loads(snapshots.dump(lost.snapshot))
    cases: list[tuple[dict[str, bytes | None], str]] = [
        ({"pki/root.crt": theirs}, "different sites"),
        ({"etcd/snapshot.json": json.dumps({**described, "site": "0" * 64}).encode()}, "different"),
        ({"pki/etcd-peer.key": certificates.key_pem(certificates.new_key())}, "is not its key"),
        ({"pki/sa.key": None}, "sa.key: missing"),
        ({"site.yaml": json.dumps({**DOCUMENT, "metadata": {"name": "south"}}).encode()}, "south"),
        ({"pki/issued.jsonl": b'{"number": 2}\n'}, "does not follow"),
    ]
    for number, (change, reason) in enumerate(cases):
        with pytest.raises(RefusedError, match=reason):
            blank.open(resealed(lost, tmp_path / str(number), change))
        assert blank.is_unchanged, change


def test_missing_or_impossible_part_is_damage(tmp_path: Path, lost: Primer, blank: Blank) -> None:
    for number, change in enumerate(
        [{"site.yaml": None}, {"site.yaml": b"spec: [}"}, {"pki/root.crt": None},
         {"etcd/snapshot.json": b"{}"}, {"etcd/snapshot.json": None}]
    ):  # fmt: skip
        with pytest.raises(DamagedBundleError):
            blank.open(resealed(lost, tmp_path / str(number), change))
        assert blank.is_unchanged, change


def test_older_backup_is_refused_without_an_explicit_word(
    tmp_path: Path, lost: Primer, blank: Blank
) -> None:
    file = lost.seal(tmp_path / "out")
    root = lost.root[:8]
    newer = f"keystone-north-{root}-20261201T000000Z-r{lost.snapshot.revision + 5}.age"
    (file.parent / newer).write_bytes(b"")
    with pytest.raises(RefusedError, match=f"{newer} beside it is newer"):
        blank.open(file)
    assert blank.is_unchanged
    assert blank.open(file, older=True).older


def test_backup_of_a_site_whose_root_was_replaced_is_made_and_opened(
    tmp_path: Path, lost: Primer, blank: Blank
) -> None:
    """Its etcd and its snapshots name it by the first root."""
    shutil.copytree(lost.places.pki, tmp_path / "pki")
    now = dt.datetime.now(dt.UTC)
    rotate.sign_again(SITE, tmp_path / "pki", tmp_path / "new-root.key", "other words here", now)
    places = replace(lost.places, pki=tmp_path / "pki")
    found = content.collect("north", lost.snapshot, places, NOW)
    assert found.manifest.first_root == lost.root != found.manifest.root
    opened_ = blank.open(lost.seal(tmp_path / "out", found))
    assert opened_.manifest == found.manifest
    assert rotation.site_fingerprint(blank.places.pki) == lost.root


def test_machine_of_a_site_is_refused(tmp_path: Path, lost: Primer, blank: Blank) -> None:
    file = lost.seal(tmp_path / "out")
    blank.member.mkdir()
    with pytest.raises(RefusedError, match="a site lives on this machine"):
        blank.open(file)
    assert blank.is_unchanged


def test_machine_with_another_tree_is_refused(tmp_path: Path, lost: Primer, blank: Blank) -> None:
    pki.init(SITE, blank.places.pki, tmp_path / "other.key", "correct horse battery")
    before = (blank.places.pki / "root.crt").read_bytes()
    with pytest.raises(RefusedError, match="has the trust tree of a site already"):
        blank.open(lost.seal(tmp_path / "out"))
    assert (blank.places.pki / "root.crt").read_bytes() == before


def test_folder_of_a_tree_with_its_lock_only_is_replaced(
    tmp_path: Path, lost: Primer, blank: Blank
) -> None:
    blank.places.pki.mkdir()
    (blank.places.pki / ".lock").touch()
    assert blank.open(lost.seal(tmp_path / "out")).placed
    assert (blank.places.pki / "sa.key").exists()


def test_authorities_that_are_incomplete_are_not_replaced(
    tmp_path: Path, lost: Primer, blank: Blank
) -> None:
    blank.places.pki.mkdir()
    (blank.places.pki / "kubernetes.key").touch()
    with pytest.raises(RefusedError, match="has the trust tree of a site already"):
        blank.open(lost.seal(tmp_path / "out"))


def test_another_backup_than_the_opened_one_is_refused(
    tmp_path: Path, lost: Primer, blank: Blank
) -> None:
    blank.open(lost.seal(tmp_path / "out"))
    other = lost.seal(tmp_path / "more", lost.collect(NOW + dt.timedelta(days=1)))
    with pytest.raises(RefusedError, match="another backup is opened here"):
        blank.open(other)


def test_higher_floor_of_the_machine_stays(tmp_path: Path, lost: Primer, blank: Blank) -> None:
    blank.places.trust.mkdir()
    (blank.places.trust / "root.json").write_text('{"newer": 1}')
    accepted.save(Accepted(9, NOW, "sha256:1"), blank.places.trust)
    blank.open(lost.seal(tmp_path / "out"))
    floor = accepted.load(blank.places.trust)
    assert floor is not None
    assert floor.number == 9
    assert (blank.places.trust / "root.json").read_text() == '{"newer": 1}'


def test_snapshot_of_another_site_is_not_sealed(lost: Primer) -> None:
    with pytest.raises(RefusedError, match="another site than the trust tree"):
        content.collect("north", replace(lost.snapshot, site="0" * 64), lost.places)


def test_link_in_the_folder_of_the_join_service_is_not_followed(
    tmp_path: Path, lost: Primer
) -> None:
    """Its user could let root read any file into the backup, or wait on a pipe."""
    claims = tmp_path / "join" / "claims"
    claims.mkdir(parents=True)
    (claims / "abc.json").symlink_to("/etc/shadow")
    with pytest.raises(RefusedError, match=r"abc\.json: is a link"):
        content.collect("north", lost.snapshot, replace(lost.places, join=tmp_path / "join"))


# The verbs ----------------------------------------------------------------------------------


def verb(*words: object) -> str:
    done = CliRunner().invoke(group, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_operator_verifies_a_backup_with_the_key_file(tmp_path: Path, lost: Primer) -> None:
    (tmp_path / "words").write_text("correct horse battery\n")
    words = ["--passphrase-file", tmp_path / "words"]
    public = verb("keys", "init", tmp_path / "key", *words).splitlines()[-1]
    assert verb("keys", "show", tmp_path / "key", *words).strip() == public
    file = content.seal_to(tmp_path, lost.collect(), [public]).file
    assert "sealed to 1 key" in verb("show", file)
    assert "pki/sa.key" in verb("show", file, "--key", tmp_path / "key", *words)
    said = verb("verify", file, "--key", tmp_path / "key", *words, "--work", tmp_path, "--json")
    assert json.loads(said)["keys"] == 2
    verb("open", file, "--key", tmp_path / "key", *words, "--into", tmp_path / "all")
    assert (tmp_path / "all" / "etcd" / "snapshot.db").read_bytes()[:100]
    assert file.name in verb("list", "--dir", tmp_path)


def test_snapshot_that_changes_under_the_backup_is_found(tmp_path: Path, lost: Primer) -> None:
    found = lost.collect()
    other = replace(found, snapshot=lost.places.site)
    with pytest.raises(RefusedError, match="changed while the backup was made"):
        lost.seal(tmp_path / "out", other)
    assert list((tmp_path / "out").iterdir()) == []


def test_no_room_is_an_error_before_anything_is_written(
    tmp_path: Path, lost: Primer, blank: Blank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened, "free", lambda _path: 1000)
    with pytest.raises(HostError, match="are needed"):
        blank.open(lost.seal(tmp_path / "out"))
    assert blank.is_unchanged


def test_archive_is_read_by_tar(tmp_path: Path, lost: Primer) -> None:
    plain = tmp_path / "plain.tar"
    with plain.open("wb") as sink:
        seal.unseal(lost.seal(tmp_path / "out"), sink, str(PAIR))
    run.run(["tar", "xf", plain], cwd=tmp_path)
    assert (tmp_path / "site.yaml").read_bytes() == lost.places.site.read_bytes()
    assert pack.CHUNK
