"""pki.rotate and pki.rotation: stages of a rotation, interrupted at every write, and refusals."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from keystone.errors import RefusedError
from keystone.pki import authorities, certificates, host_files, leaf_files, rotate, rotation
from keystone.pki import tree as pki
from keystone.pki.rotation import DROPPED, REISSUED, SERVICE_ACCOUNTS, STAGES, TRUSTED

from .test_pki import NOW, SITE, PowerCutError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAME = "kubernetes"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rotation")
    pki.init(SITE, folder / "pki", folder / "root.pem", "correct horse", NOW)
    return folder


@pytest.fixture(scope="module")
def root(original: Path) -> certificates.Pair:
    """Decrypting it costs half a second each time."""
    return rotate.opened(SITE, original / "pki", original / "root.pem", "correct horse")


@pytest.fixture
def made(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original / "pki", tmp_path / "pki")


def advance(directory: Path, stage: str, root: certificates.Pair, name: str = NAME) -> None:
    start = NOW - dt.timedelta(minutes=10)
    rotate.advance(SITE, directory, name, stage, lambda: root, start)


def pins(pem: str) -> list[str]:
    found = x509.load_pem_x509_certificates(pem.encode())
    return [certificates.pin(one) for one in found]


def signer(directory: Path, name: str = NAME) -> str:
    (found,) = pins((directory / f"{name}-anchor.crt").read_text())
    return found


def leaf(directory: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((directory / f"leaves/p1/{name}.crt").read_bytes())


def test_every_ca_goes_through_all_stages_and_tree_stays_valid(
    made: Path, root: certificates.Pair
) -> None:
    for name in authorities.ISSUING:
        old = signer(made, name)
        advance(made, TRUSTED, root, name)
        both = pins(rotation.trusted(made, name))
        assert (both[0], len(both), signer(made, name)) == (old, 2, old)
        assert not pki.issue(SITE, made, NOW)
        advance(made, REISSUED, root, name)
        assert pins(rotation.trusted(made, name)) == both[::-1]
        assert signer(made, name) == both[1]
        issued = {spec.issuer for spec in pki.issue(SITE, made, NOW)}
        assert issued <= {name}
        advance(made, DROPPED, root, name)
        assert pins(rotation.trusted(made, name)) == [both[1]]
        assert pki.verify(SITE, made, NOW) == []


def test_leaf_of_the_old_ca_is_due_once_the_new_one_signs(
    made: Path, root: certificates.Pair
) -> None:
    for stage in (TRUSTED, REISSUED):
        advance(made, stage, root, "etcd-peer")
    due = {(spec.host, spec.name) for spec in pki.issue(SITE, made, NOW)}
    assert due == {(n.name, leaf) for n in SITE.primers for leaf in ("etcd-peer", "etcd-server")}
    anchor = x509.load_pem_x509_certificate((made / "etcd-peer-anchor.crt").read_bytes())
    assert certificates.issued_by(leaf(made, "etcd-peer"), anchor)


def test_hosts_get_both_cas_in_one_file_and_one_for_the_signer(
    made: Path, root: certificates.Pair
) -> None:
    node = SITE.primers[0]
    before = host_files.wanted(made, SITE, node)
    advance(made, TRUSTED, root)
    pki.issue(SITE, made, NOW)
    placed = {
        file["path"]: file["content"]
        for file in json.loads(host_files.deployment(made, node))["files"]
        if "content" in file
    }
    for path in ("/etc/kubernetes/pki/ca.crt", "/etc/keystone/pki/kubernetes-ca.crt"):
        assert len(pins(placed[path])) == 2
    assert pins(placed[host_files.SIGNER]) == [signer(made)]
    assert len(pins(json.loads(placed[host_files.ANCHORS_FILE])["kubernetes"])) == 2
    assert rotation.parse(placed[f"{host_files.TREE}/{rotation.FILE}"], "").stage(NAME) == TRUSTED
    assert host_files.wanted(made, SITE, node) != before


@pytest.mark.parametrize("stage", STAGES)
def test_stage_cut_at_every_write_is_completed_by_next_run(
    original: Path, root: certificates.Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    stage: str,
) -> None:  # fmt: skip
    write_whole = rotation.write_whole
    for count in range(20):
        directory = shutil.copytree(original / "pki", tmp_path / f"{count}")
        for earlier in STAGES[: STAGES.index(stage)]:
            advance(directory, earlier, root)
            pki.issue(SITE, directory, NOW)
        cut = Cut(count, write_whole)
        for module in (rotation, leaf_files, pki):
            monkeypatch.setattr(module, "write_whole", cut.write)
        ended = cut.run(lambda at=directory: (advance(at, stage, root), pki.issue(SITE, at, NOW)))
        monkeypatch.undo()
        advance(directory, stage, root)
        pki.issue(SITE, directory, NOW)
        assert pki.verify(SITE, directory, NOW) == []
        assert rotation.read(directory).stage(NAME) == stage
        if ended:
            assert count > 0
            return
    pytest.fail("more writes than were expected")


class Cut:
    """Cuts the power before the write of a number, or right after it."""

    def __init__(self, count: int, write: Callable[[Path, bytes, int], None]) -> None:
        self.left, self.real = count, write

    def write(self, file: Path, content: bytes, mode: int) -> None:
        if self.left == 0:
            raise PowerCutError
        self.left -= 1
        self.real(file, content, mode)

    def run(self, work: Callable[[], object]) -> bool:
        try:
            work()
        except PowerCutError:
            return False
        return True


def test_host_whose_files_were_cut_completes_them_from_the_state(
    made: Path, root: certificates.Pair, tmp_path: Path
) -> None:
    """The role places the state first: any part of the other files may be missing."""
    other = shutil.copytree(made, tmp_path / "p2")
    for stage in (TRUSTED, REISSUED):
        advance(made, stage, root)
    for name in (rotation.FILE, f"{NAME}.key"):
        shutil.copy(made / name, other / name)
    pki.issue(SITE, other, NOW)
    assert signer(other) == signer(made)
    assert pki.verify(SITE, other, NOW) == []


def test_stages_are_not_skipped(made: Path, root: certificates.Pair) -> None:
    for stage in (REISSUED, DROPPED):
        with pytest.raises(RefusedError, match="cannot be"):
            advance(made, stage, root)


def test_key_of_service_accounts_is_rotated_without_root(made: Path) -> None:
    def must_not_be_called() -> certificates.Pair:
        pytest.fail("the root's key is not needed")

    old = (made / "sa.pub").read_text()
    for stage, keys in zip(STAGES, (2, 2, 1), strict=True):
        rotate.advance(SITE, made, SERVICE_ACCOUNTS, stage, must_not_be_called, NOW)
        assert rotation.trusted(made, SERVICE_ACCOUNTS).count("BEGIN PUBLIC KEY") == keys
        assert ((made / "sa.pub").read_text() == old) == (stage == TRUSTED)
    assert pki.verify(SITE, made, NOW) == []


def test_new_root_signs_same_cas_and_old_root_stays_known(made: Path, tmp_path: Path) -> None:
    old, anchors = (made / "root.crt").read_text(), [signer(made, n) for n in authorities.ISSUING]
    for _ in range(2):  # the second run finds that it was done
        rotate.sign_again(SITE, made, tmp_path / "new.pem", "battery staple", NOW)
    found = rotation.read(made)
    assert (found.number, found.roots) == (1, (old,))
    assert (made / "root.crt").read_text() != old
    assert [signer(made, name) for name in authorities.ISSUING] == anchors
    assert not pki.issue(SITE, made, NOW)
    assert pki.verify(SITE, made, NOW) == []
    new = rotate.opened(SITE, made, tmp_path / "new.pem", "battery staple")
    for stage in STAGES:
        advance(made, stage, new)
        pki.issue(SITE, made, NOW)
    assert pki.verify(SITE, made, NOW) == []


def test_root_of_another_site_and_unfinished_rotation_are_refused(
    made: Path, root: certificates.Pair, tmp_path: Path
) -> None:
    advance(made, TRUSTED, root)
    with pytest.raises(RefusedError, match="being rotated"):
        rotate.sign_again(SITE, made, tmp_path / "new.pem", "battery staple", NOW)
    with pytest.raises(RefusedError, match="missing or empty"):
        rotate.opened(SITE, made, tmp_path / "none.pem", "x")


UNKNOWN = (
    '{"number": 1, "running": {"../etc": {"stage": "trusted", "began": ""}}, "roots": [], '
    '"signed": {}}'
)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"number": 1}', '{"number": 1, "running": {"x": {}}}', UNKNOWN]
)
def test_invalid_state_is_refused_with_its_file(made: Path, text: str) -> None:
    (made / rotation.FILE).write_text(text)
    with pytest.raises(RefusedError, match=r"rotation\.json"):
        pki.observe(SITE, made, NOW)
