"""The trust tree on disk: what is in it, what a cut leaves, what it refuses."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import stat
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from keystone import pkcs8
from keystone.errors import RefusedError
from keystone.files import write_new
from keystone.install import standing
from keystone.pki import certificates, root_key
from keystone.pki import plan as pki_plan
from keystone.pki import tree as pki
from keystone.pki.host_files import deployment_digest, deployment_file
from keystone.site.model import Networks, Node, Site

NOW = dt.datetime(2026, 6, 1, 12, 0, tzinfo=dt.UTC)
SITE = Site(
    "north",
    tuple(
        Node(f"p{number}", IPv4Address(f"10.77.0.1{number}"), control_plane=number == 1)
        for number in (1, 2, 3)
    ),
    Networks(IPv4Network("10.77.0.0/24")),
)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    directory = tmp_path / "pki"
    assert pki.init(SITE, directory, tmp_path / "root.pem", "correct horse", NOW)
    return directory


def never_asked() -> str:
    pytest.fail("the passphrase was asked for without need")


def load(file: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(file.read_bytes())


def test_a_fresh_tree_is_sound_and_a_second_run_changes_nothing(made: Path) -> None:
    before = {file: file.read_bytes() for file in made.rglob("*") if file.is_file()}
    assert pki.verify(SITE, made, NOW) == []
    # Neither the root's file nor the passphrase is asked for again.
    assert not pki.init(SITE, made, Path("/nowhere/root.pem"), never_asked, NOW)
    assert pki.issue(SITE, made, NOW) == ()
    assert not pki.plan_trust(SITE, pki.observe(SITE, made, NOW), NOW)
    assert {file: file.read_bytes() for file in made.rglob("*") if file.is_file()} == before


def test_the_root_key_is_encrypted_and_only_in_the_operators_file(
    made: Path, tmp_path: Path
) -> None:
    pem = (tmp_path / "root.pem").read_bytes()
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in pem
    assert stat.S_IMODE((tmp_path / "root.pem").stat().st_mode) == 0o600
    root = load(made / "root.crt")
    for file in made.rglob("*.key"):
        key = certificates.load_key(file.read_bytes(), str(file))
        assert not certificates.same_key(root, key)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert isinstance(root.public_key(), ec.EllipticCurvePublicKey)
    assert root.public_key().curve.name == "secp384r1"
    assert root.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 1


def test_issuing_authorities_are_separate_short_and_bound_to_a_purpose(made: Path) -> None:
    for name, usages in pki.ISSUING.items():
        certificate, anchor = load(made / f"{name}.crt"), load(made / f"{name}-anchor.crt")
        assert certificates.pin(certificate) == certificates.pin(anchor)
        assert certificates.issued_by(certificate, load(made / "root.crt"))
        assert certificates.issued_by(anchor, anchor)
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert (basic.ca, basic.path_length) == (True, 0)
        extended = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert len(list(extended)) == len(usages)
        life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        assert life <= pki.ISSUING_LIFETIME + certificates.BACKDATE
    assert len({certificates.pin(load(made / f"{name}.crt")) for name in pki.ISSUING}) == 5


def test_leaves_carry_addresses_and_start_in_the_past(made: Path) -> None:
    peer, server = (load(made / f"leaves/p2/etcd-{name}.crt") for name in ("peer", "server"))
    names = x509.SubjectAlternativeName
    peer_names = peer.extensions.get_extension_for_class(names).value
    server_names = server.extensions.get_extension_for_class(names).value
    assert peer_names.get_values_for_type(x509.IPAddress) == [IPv4Address("10.77.0.12")]
    assert IPv4Address("127.0.0.1") in server_names.get_values_for_type(x509.IPAddress)
    assert peer.not_valid_before_utc == NOW - dt.timedelta(minutes=10)
    assert peer.not_valid_after_utc == NOW + dt.timedelta(days=90)
    assert not (made / "leaves/p2/apiserver-etcd-client.crt").exists()
    assert (made / "leaves/p1/apiserver-etcd-client.crt").exists()


def test_no_certificate_starts_before_the_program_was_built(tmp_path: Path) -> None:
    dead_clock = dt.datetime(1999, 1, 1, tzinfo=dt.UTC)
    pki.init(SITE, tmp_path / "pki", tmp_path / "root.pem", "x", dead_clock)
    assert load(tmp_path / "pki/root.crt").not_valid_before_utc == pki.BUILD_FLOOR


def test_every_certificate_is_in_the_log_and_the_log_cannot_be_edited(made: Path) -> None:
    file = made / "issued.jsonl"
    logged = {json.loads(line)["sha256"] for line in file.read_text().splitlines()}
    assert {certificates.fingerprint(load(path)) for path in made.rglob("*.crt")} == logged
    lines = file.read_text().splitlines(keepends=True)
    for changed in (
        [*lines[:3], *lines[4:]],
        [*lines[:3], lines[3].replace("north", "south"), *lines[4:]],
    ):
        file.write_text("".join(changed))
        assert any("issued.jsonl" in problem for problem in pki.verify(SITE, made, NOW))
        (made / "leaves/p1/site.crt").unlink(missing_ok=True)
        with pytest.raises(RefusedError, match=r"issued\.jsonl"):
            pki.issue(SITE, made, NOW)


def test_a_torn_last_line_is_written_over(made: Path) -> None:
    with (made / "issued.jsonl").open("ab") as log:
        log.write(b'{"number": 99')
    (made / "leaves/p1/site.crt").unlink()
    assert [spec.name for spec in pki.issue(SITE, made, NOW)] == ["site"]
    assert pki.verify(SITE, made, NOW) == []


class CutError(BaseException):
    """Stands for the end of power."""


def cut_writes(patch: pytest.MonkeyPatch, write: object, new: object) -> None:
    for module in (pki, root_key):
        patch.setattr(module, "write_whole", write)
    patch.setattr(root_key, "write_new", new)


def test_init_cut_at_every_write_ends_in_one_sound_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut before and after each rename; the re-run keeps every CA that was already believed."""
    whole = pki.write_whole
    # Thousands of writes and hundreds of locks: neither syncing nor scrypt's cost is tried here.
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(pkcs8, "SCRYPT_N", 2)
    cuts = 0
    for cut in range(100):
        directory, root_file = tmp_path / f"{cut}/pki", tmp_path / f"{cut}/root.pem"
        left = [cut]

        def write(file: Path, content: bytes, mode: int, left: list[int] = left) -> None:
            if left[0] == 0:
                raise CutError
            whole(file, content, mode)
            left[0] -= 1
            if left[0] == 0:
                raise CutError
            left[0] -= 1

        cut_writes(monkeypatch, write, write)
        try:
            pki.init(SITE, directory, root_file, "pass", NOW)
        except CutError:
            cuts += 1
        cut_writes(monkeypatch, whole, write_new)
        if cuts <= cut:
            break
        believed = {path: path.read_bytes() for path in directory.glob("*") if path.is_file()}
        pki.init(SITE, directory, root_file, "pass", NOW)
        assert pki.verify(SITE, directory, NOW) == []
        for path, content in believed.items():
            if path.suffix in {".crt", ".key"}:
                assert path.read_bytes() == content
    assert cuts > 80


@pytest.mark.parametrize("damage", ["missing", "other site", "wrong passphrase"])
def test_an_unfinished_tree_takes_no_other_root(made: Path, tmp_path: Path, damage: str) -> None:
    (made / "site.crt").unlink()
    root_file, passphrase = tmp_path / "root.pem", "correct horse"
    if damage == "missing":
        root_file.unlink()
    elif damage == "other site":
        other = replace(SITE, name="south")
        root_file.unlink()
        pki.init(other, tmp_path / "other", root_file, passphrase, NOW)
    else:
        passphrase = "wrong"
    before = (made / "root.crt").read_bytes()
    with pytest.raises(RefusedError, match=r"root\.pem"):
        pki.init(SITE, made, root_file, passphrase, NOW)
    assert (made / "root.crt").read_bytes() == before
    assert not (made / "site.crt").exists()


def test_the_root_key_may_not_be_left_in_the_tree(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="outside"):
        pki.init(SITE, tmp_path / "pki", tmp_path / "pki/root.pem", "x", NOW)
    with pytest.raises(RefusedError, match="outside"):
        pki.init(SITE, tmp_path / "pki", Path(), "x", NOW)


def test_leaves_are_renewed_in_their_last_third(made: Path) -> None:
    observed = pki.observe(SITE, made, NOW)
    assert not pki.plan_trust(SITE, observed, NOW + dt.timedelta(days=59))
    due = pki.plan_trust(SITE, observed, NOW + dt.timedelta(days=61))
    assert due.leaves == pki.desired(SITE)
    assert due.authorities == ()


def test_what_was_made_while_the_clock_was_ahead_is_made_again(made: Path) -> None:
    ahead = NOW + dt.timedelta(days=400)
    pki.issue(SITE, made, ahead)
    assert any("p3/site: not valid now" in line for line in pki.verify(SITE, made, NOW))
    observed = pki.observe(SITE, made, NOW)
    assert not observed.complete
    assert pki.plan_trust(SITE, observed, NOW).leaves == pki.desired(SITE)
    assert pki.init(SITE, made, Path("/nowhere/root.pem"), never_asked, NOW)
    assert pki.verify(SITE, made, NOW) == []
    # Clocks that are a little apart, as preflight takes them, make nothing due.
    assert not pki.plan_trust(SITE, pki.observe(SITE, made, NOW), NOW - dt.timedelta(minutes=5))


def test_authorities_that_are_not_valid_now_sign_nothing(made: Path) -> None:
    """The clock is wrong, or was when they were made: leaves would help nobody."""
    issuing = [f"{name}{end}" for name in pki.ISSUING for end in (".crt", "-anchor.crt")]
    early, late = NOW - dt.timedelta(days=1), NOW + pki_plan.ISSUING_LIFETIME * 2
    for wrong, names in ((early, ["root.crt", *issuing]), (late, issuing)):
        found = pki.observe(SITE, made, wrong)
        assert [said.split()[0] for said in found.outside] == names
        (finding,) = standing.lives(found, "p1")
        assert (finding.severity, finding.host) == ("failed", "p1")
        for make in (
            lambda moment=wrong: pki.issue(SITE, made, moment),
            lambda moment=wrong: pki.init(SITE, made, Path("/nowhere"), never_asked, moment),
        ):
            with pytest.raises(RefusedError, match="not valid by this machine's clock"):
                make()
    assert not list(standing.lives(pki.observe(SITE, made, NOW), "p1"))


def test_what_changed_or_does_not_fit_is_issued_again(made: Path) -> None:
    moved = replace(SITE.primers[1], address=IPv4Address("10.77.0.99"))
    site = replace(SITE, primers=(SITE.primers[0], moved, SITE.primers[2]))
    due = pki.plan_trust(site, pki.observe(site, made, NOW), NOW).leaves
    assert {(spec.host, spec.name) for spec in due} == {
        ("p2", "etcd-peer"), ("p2", "etcd-server"), ("p2", "site"),
    }  # fmt: skip
    shutil.copy(made / "leaves/p1/site.key", made / "leaves/p3/site.key")
    due = pki.plan_trust(SITE, pki.observe(SITE, made, NOW), NOW).leaves
    assert [(spec.host, spec.name) for spec in due] == [("p3", "site")]
    assert any("p3/site" in problem for problem in pki.verify(SITE, made, NOW))


def test_a_file_that_is_no_certificate_is_named(made: Path) -> None:
    (made / "leaves/p1/site.crt").write_text("garbage")
    with pytest.raises(RefusedError, match=r"leaves/p1/site\.crt"):
        pki.observe(SITE, made, NOW)


def test_a_host_gets_what_it_needs_and_no_more(made: Path) -> None:
    files = {
        host: {
            file["path"]: file
            for file in json.loads(deployment_file(made, host).read_text())["files"]
        }
        for host in ("p1", "p2")
    }
    assert "/etc/kubernetes/pki/ca.key" in files["p1"]
    assert not [path for path in files["p2"] if path.startswith("/etc/kubernetes")]
    root_keys = [path for path in files["p1"] if "root" in path and path.endswith(".key")]
    assert root_keys == []
    for placed in (*files["p1"].values(), *files["p2"].values()):
        if "PRIVATE KEY" in placed["content"]:
            assert placed["mode"] == ("0640" if placed["group"] == "etcd" else "0600")
    mode = stat.S_IMODE(deployment_file(made, "p1").stat().st_mode)
    assert mode == 0o600


def test_a_lost_or_old_deployment_file_is_written_again(made: Path) -> None:
    digest = deployment_digest(made, "p1")
    deployment_file(made, "p1").unlink()
    assert deployment_digest(made, "p1") == ""
    missing = pki.plan_trust(SITE, pki.observe(SITE, made, NOW), NOW)
    assert (missing.leaves, missing.deployments) == ((), ("p1",))
    assert pki.issue(SITE, made, NOW) == ()
    assert deployment_digest(made, "p1") == digest
    pki.issue(SITE, made, NOW + dt.timedelta(days=80))
    assert deployment_digest(made, "p1") != digest


@pytest.mark.parametrize("links", [True, False], ids=["links", "as on FAT"])
def test_a_key_file_is_never_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    file = tmp_path / "root.key"
    write_new(file, b"first", 0o600)
    with pytest.raises(FileExistsError):
        write_new(file, b"second", 0o600)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [
        ("root.key", b"first")
    ]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
