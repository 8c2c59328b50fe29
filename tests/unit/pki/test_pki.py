"""pki.tree: the content of the trust tree, interrupted runs, and refusals."""

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
from keystone.pki import authorities, certificates, host_files, leaf_files, root_key
from keystone.pki import tree as pki
from keystone.pki.host_files import deployment_file
from keystone.site.model import Networks, Node, Site, Trust

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


def must_not_be_called() -> str:
    pytest.fail("init asked for the passphrase although it does not need it")


def load(file: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(file.read_bytes())


def test_new_tree_is_valid_and_second_run_changes_nothing(made: Path) -> None:
    before = {file: file.read_bytes() for file in made.rglob("*") if file.is_file()}
    assert pki.verify(SITE, made, NOW) == []
    # A complete tree needs neither the root's file nor the passphrase.
    assert not pki.init(SITE, made, Path("/nowhere/root.pem"), must_not_be_called, NOW)
    assert pki.issue(SITE, made, NOW) == ()
    assert not pki.plan_trust(SITE, pki.observe(SITE, made, NOW), NOW)
    assert {file: file.read_bytes() for file in made.rglob("*") if file.is_file()} == before


def test_root_key_is_encrypted_and_only_in_file_of_operator(made: Path, tmp_path: Path) -> None:
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


def test_issuing_authorities_have_own_keys_short_lifetime_and_one_purpose(made: Path) -> None:
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
        assert life <= authorities.LIFETIME + certificates.BACKDATE
    assert len({certificates.pin(load(made / f"{name}.crt")) for name in pki.ISSUING}) == 5


def test_leaves_have_addresses_and_start_in_the_past(made: Path) -> None:
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


def test_certificate_never_starts_before_build_floor(tmp_path: Path) -> None:
    wrong_clock = dt.datetime(1999, 1, 1, tzinfo=dt.UTC)
    pki.init(SITE, tmp_path / "pki", tmp_path / "root.pem", "x", wrong_clock)
    assert load(tmp_path / "pki/root.crt").not_valid_before_utc == pki.BUILD_FLOOR


def test_log_has_every_certificate_and_edits_of_log_are_found(made: Path) -> None:
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


def test_incomplete_last_line_of_log_is_overwritten(made: Path) -> None:
    with (made / "issued.jsonl").open("ab") as log:
        log.write(b'{"number": 99')
    (made / "leaves/p1/site.crt").unlink()
    assert [spec.name for spec in pki.issue(SITE, made, NOW)] == ["site"]
    assert pki.verify(SITE, made, NOW) == []


class PowerCutError(BaseException):
    """Simulates a power cut."""


def replace_writes(patch: pytest.MonkeyPatch, write: object, new: object) -> None:
    for module in (pki, root_key, leaf_files):
        patch.setattr(module, "write_whole", write)
    patch.setattr(root_key, "write_new", new)


def test_init_interrupted_at_every_write_can_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupt before and after each rename; the second run keeps every complete CA."""
    write_whole = pki.write_whole
    # Thousands of writes and hundreds of encryptions: do without fsync and the cost of scrypt.
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(pkcs8, "SCRYPT_N", 2)
    cuts = 0
    for cut in range(120):
        directory, root_file = tmp_path / f"{cut}/pki", tmp_path / f"{cut}/root.pem"
        left = [cut]

        def write(file: Path, content: bytes, mode: int, left: list[int] = left) -> None:
            if left[0] == 0:
                raise PowerCutError
            write_whole(file, content, mode)
            left[0] -= 1
            if left[0] == 0:
                raise PowerCutError
            left[0] -= 1

        replace_writes(monkeypatch, write, write)
        try:
            pki.init(SITE, directory, root_file, "pass", NOW)
        except PowerCutError:
            cuts += 1
        replace_writes(monkeypatch, write_whole, write_new)
        if cuts <= cut:
            break
        complete = {path: path.read_bytes() for path in directory.glob("*") if path.is_file()}
        pki.init(SITE, directory, root_file, "pass", NOW)
        assert pki.verify(SITE, directory, NOW) == []
        for path, content in complete.items():
            if path.suffix in {".crt", ".key"}:
                assert path.read_bytes() == content
    assert cuts > 80


@pytest.mark.parametrize("damage", ["missing", "other site", "wrong passphrase"])
def test_unfinished_tree_refuses_other_root_key(made: Path, tmp_path: Path, damage: str) -> None:
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


def test_root_key_file_inside_the_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="outside"):
        pki.init(SITE, tmp_path / "pki", tmp_path / "pki/root.pem", "x", NOW)
    with pytest.raises(RefusedError, match="outside"):
        pki.init(SITE, tmp_path / "pki", Path(), "x", NOW)


def test_leaves_are_due_in_last_third_of_lifetime(made: Path) -> None:
    observed = pki.observe(SITE, made, NOW)
    assert not pki.plan_trust(SITE, observed, NOW + dt.timedelta(days=59))
    due = pki.plan_trust(SITE, observed, NOW + dt.timedelta(days=61))
    assert due.leaves == pki.desired(SITE)
    assert due.authorities == ()


def test_leaves_made_while_clock_was_ahead_are_issued_again(made: Path) -> None:
    ahead = NOW + dt.timedelta(days=400)
    pki.issue(SITE, made, ahead)
    assert any("p3/site: not valid now" in line for line in pki.verify(SITE, made, NOW))
    observed = pki.observe(SITE, made, NOW)
    assert observed.due
    assert pki.plan_trust(SITE, observed, NOW).leaves == pki.desired(SITE)
    assert pki.init(SITE, made, Path("/nowhere/root.pem"), must_not_be_called, NOW)
    assert pki.verify(SITE, made, NOW) == []
    # Small differences between clocks, which preflight accepts, make nothing due.
    assert not pki.plan_trust(SITE, pki.observe(SITE, made, NOW), NOW - dt.timedelta(minutes=5))


def test_authorities_that_are_not_valid_now_do_not_sign(made: Path) -> None:
    """The clock is wrong, or was wrong when they were made: verifiers would refuse the leaves."""
    issuing = [f"{name}{end}" for name in pki.ISSUING for end in (".crt", "-anchor.crt")]
    early, late = NOW - dt.timedelta(days=1), NOW + authorities.LIFETIME * 2
    for wrong, names in ((early, ["root.crt", *issuing]), (late, issuing)):
        found = pki.observe(SITE, made, wrong)
        assert [authority.split()[0] for authority in found.outside_validity] == names
        (finding,) = standing.lives(found, "p1")
        assert (finding.severity, finding.host) == ("failed", "p1")
        for make in (
            lambda moment=wrong: pki.issue(SITE, made, moment),
            lambda moment=wrong: pki.init(SITE, made, Path("/nowhere"), must_not_be_called, moment),
        ):
            with pytest.raises(RefusedError, match="not valid by this machine's clock"):
                make()
    assert not list(standing.lives(pki.observe(SITE, made, NOW), "p1"))


def test_leaf_with_changed_address_or_other_key_is_issued_again(made: Path) -> None:
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


def test_invalid_certificate_file_is_named_in_error(made: Path) -> None:
    (made / "leaves/p1/site.crt").write_text("garbage")
    with pytest.raises(RefusedError, match=r"leaves/p1/site\.crt"):
        pki.observe(SITE, made, NOW)


def test_host_gets_only_files_that_it_needs(made: Path) -> None:
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
        if b"PRIVATE KEY" in host_files.data(placed):
            assert placed["mode"] == ("0640" if placed["group"] == "etcd" else "0600")
    mode = stat.S_IMODE(deployment_file(made, "p1").stat().st_mode)
    assert mode == 0o600


def test_missing_deployment_file_is_written_again(made: Path) -> None:
    file = deployment_file(made, "p1")
    before = file.read_bytes()
    file.unlink()
    assert pki.issue(SITE, made, NOW) == ()
    assert file.read_bytes() == before


def placed(tree: Path) -> dict[str, dict[str, str]]:
    """Return the files of each host, as the role trust places them."""
    return {
        node.name: {
            file["path"]: file["content"]
            for file in json.loads(deployment_file(tree, node.name).read_text())["files"]
            if "content" in file
        }
        for node in SITE.primers
    }


def without_keys(hosts: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Return what a probe sees of them."""
    return {
        host: {path: text for path, text in files.items() if path.endswith(".crt")}
        for host, files in hosts.items()
    }


def test_every_primer_gets_the_tree_without_the_root_key(made: Path, tmp_path: Path) -> None:
    for host, files in placed(made).items():
        other = tmp_path / host
        for path, text in files.items():
            if path.startswith(f"{host_files.TREE}/"):
                file = other / Path(path).name
                file.parent.mkdir(exist_ok=True)
                file.write_text(text)
        # With it alone that host renews its own leaves, and nobody else's.
        due = pki.issue(SITE, other, NOW, {host: {}})
        assert {spec.host for spec in due} == {host}
        assert pki.verify(SITE, other, NOW, {host: placed_of(other, host)}) == []
        assert pki.observe(SITE, other, NOW, {}).wanted == pki.observe(SITE, made, NOW).wanted


def placed_of(tree: Path, host: str) -> dict[str, str]:
    files = json.loads(deployment_file(tree, host).read_text())["files"]
    return {file["path"]: file["content"] for file in files if "content" in file}


def test_host_that_renewed_its_leaves_is_left_alone(made: Path) -> None:
    """Its certificates are younger than those that the tree here issued, which are due."""
    hosts = placed(made)
    later = NOW + dt.timedelta(days=70)
    pki.issue(SITE, made, later, {"p2": {}})
    hosts["p2"] = placed(made)["p2"]
    for seen in (hosts, without_keys(hosts)):
        observed = pki.observe(SITE, made, later, seen)
        assert observed.due == {"p1", "p3"}
        assert observed.wanted == pki.observe(SITE, made, NOW).wanted


def test_host_never_gets_an_older_leaf_than_it_has(made: Path) -> None:
    old, later = placed(made), NOW + dt.timedelta(days=20)
    shutil.rmtree(made / "leaves/p2")
    pki.issue(SITE, made, later, {"p2": {}})
    hosts = {**old, "p2": placed(made)["p2"]}
    for spec in pki.desired(SITE):
        if spec.host == "p2":  # the tree of another Primer, which issued the first ones
            for suffix in (".crt", ".key"):
                path = host_files.leaf_places(SITE.primers[1])[spec.name]
                file = made / "leaves/p2" / f"{spec.name}{suffix}"
                file.write_text(old["p2"][path.removesuffix(".crt") + suffix])
    due = pki.issue(SITE, made, later, without_keys({"p2": hosts["p2"]}))
    assert len(due) == len(host_files.leaf_places(SITE.primers[1]))
    assert pki.issue(SITE, made, later, without_keys({"p2": placed(made)["p2"]})) == ()


def test_shorter_lifetime_counts_for_existing_leaves(made: Path) -> None:
    site = replace(SITE, trust=Trust(certificate_lifetime=dt.timedelta(hours=1)))
    assert not pki.observe(site, made, NOW, placed(made)).due
    assert pki.observe(site, made, NOW + dt.timedelta(hours=1), placed(made)).due


@pytest.mark.parametrize(
    "links", [True, False], ids=["with hard links", "without hard links (FAT)"]
)
def test_write_new_never_overwrites_a_key_file(
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
