"""The keys on a Primer's disk: plain files become links to memory, and a peer opens them again.

A small program stands for clevis: it opens for a peer that has a file of its name in a folder. The
real one, with the real tang, is tried in tests/lab/test_seal.py.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from keystone.backup import content
from keystone.errors import HostError, RefusedError
from keystone.files import write_whole
from keystone.hosts import probe
from keystone.pki import host_files, seal
from keystone.pki import tree as pki
from keystone.site.model import Networks, Node, Site, Trust

PRIMERS = tuple(Node(f"p{n}", IPv4Address(f"10.77.0.1{n}")) for n in (1, 2, 3))
SITE = Site("lab", PRIMERS, Networks(IPv4Network("10.77.0.0/24")))
THUMBPRINTS = {"p1": "one", "p2": "two", "p3": "three"}
CLEVIS = """#!/usr/bin/python3
import base64, json, pathlib, sys
answering = pathlib.Path(__file__).with_name("answering")
def answers(pin):
    return (answering / pin["thp"]).exists()
if sys.argv[1] == "encrypt":
    pins = json.loads(sys.argv[3])["pins"]["tang"]
    if not all(map(answers, pins)):
        sys.exit("Unable to fetch advertisement")
    data = base64.b64encode(sys.stdin.buffer.read()).decode()
    print(json.dumps({"pins": pins, "data": data}))
else:
    sealed = json.load(sys.stdin)
    if not any(map(answers, sealed["pins"])):
        sys.exit("Error communicating with server")
    sys.stdout.buffer.write(base64.b64decode(sealed["data"]))
"""


class Primer:
    """A Primer with two keys, whose peers can be let answer or not."""

    def __init__(self, folder: Path) -> None:
        self.places = seal.Places(
            *(folder / name for name in ("seal.json", "sealed/keys", "sealed/record", "memory")),
            lock=folder / "lock",
        )
        self.answering = folder / "bin/answering"
        self.answering.mkdir(parents=True)
        self.keys = [folder / "pki/site.key", folder / "pki/sa.key"]
        for key in self.keys:
            write_whole(key, f"secret of {key.name}".encode(), 0o600)

    def peers(self, *thumbprints: str) -> None:
        """Make these its peers, all of which answer."""
        who = [seal.Peer(one, f"http://{one}:8445", one) for one in thumbprints]
        write_whole(self.places.config, seal.configuration(who).encode(), 0o644)
        for one in thumbprints:
            (self.answering / one).touch()

    def seal(self) -> str:
        return seal.seal([str(key) for key in self.keys], self.places)

    def start_again(self) -> None:
        """Lose what is only in memory."""
        shutil.rmtree(self.places.opened)

    def texts(self) -> list[str]:
        return [key.read_text() for key in self.keys]


@pytest.fixture
def primer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Primer:
    made = Primer(tmp_path)
    program = tmp_path / "bin/clevis"
    program.write_text(CLEVIS)
    program.chmod(0o755)
    monkeypatch.setenv("KEYSTONE_PATH", f"{program.parent}:/usr/bin:/bin")
    return made


def test_peers_are_the_other_primers_whose_key_is_known() -> None:
    found = seal.peers(SITE, PRIMERS[0], {**THUMBPRINTS, "p3": ""})
    assert found == (seal.Peer("p2", "http://10.77.0.12:8445", "two"),)
    assert [one.name for one in seal.peers(SITE, PRIMERS[1], THUMBPRINTS)] == ["p1", "p3"]


def test_one_primer_alone_and_a_site_that_wants_none_have_no_peers() -> None:
    alone, none = replace(SITE, primers=PRIMERS[:1]), replace(SITE, trust=Trust(seal="none"))
    assert seal.peers(alone, PRIMERS[0], THUMBPRINTS) == ()
    assert seal.peers(none, PRIMERS[0], THUMBPRINTS) == ()
    assert [seal.wanted(site) for site in (SITE, alone, none)] == [True, False, False]


def test_policy_pins_the_keys_of_all_peers_of_which_one_opens() -> None:
    wanted = json.loads(seal.policy(seal.peers(SITE, PRIMERS[0], THUMBPRINTS)))
    assert wanted == {
        "t": 1,
        "pins": {
            "tang": [
                {"url": "http://10.77.0.12:8445", "thp": "two"},
                {"url": "http://10.77.0.13:8445", "thp": "three"},
            ]
        },
    }


def test_secret_paths_are_the_keys_that_sign_and_encrypt_and_no_certificate() -> None:
    tree, kubeadm = "/var/lib/keystone/pki", "/etc/kubernetes/pki"
    names = ("etcd-peer", "etcd-client", "kubernetes", "front-proxy", "site", "sa")
    assert set(host_files.secret_files()) == {
        *(f"{tree}/{name}.key" for name in names),
        f"{tree}/rotation.json", f"{tree}/encryption.yaml",
        f"{kubeadm}/ca.key", f"{kubeadm}/front-proxy-ca.key", f"{kubeadm}/sa.key",
        f"{kubeadm}/encryption.yaml",
    }  # fmt: skip


def test_sealed_keys_are_links_with_the_same_content(primer: Primer) -> None:
    before = primer.texts()
    primer.peers("p2", "p3")
    assert "2 files, 2 of them anew; p2 or p3 opens them" in primer.seal()
    assert all(key.is_symlink() for key in primer.keys)
    assert primer.texts() == before
    assert primer.seal() == ""


def test_without_configuration_nothing_is_sealed(primer: Primer) -> None:
    assert primer.seal() == ""
    assert not any(key.is_symlink() for key in primer.keys)


def test_file_that_was_written_anew_is_sealed_with_its_new_content(primer: Primer) -> None:
    primer.peers("p2")
    primer.seal()
    write_whole(primer.keys[0], b"rotated", 0o600)
    assert "2 files, 1 of them anew" in primer.seal()
    primer.start_again()
    seal.unseal(primer.places)
    assert primer.texts() == ["rotated", "secret of sa.key"]


def test_any_one_peer_opens_after_a_start(primer: Primer) -> None:
    before = primer.texts()
    primer.peers("p2", "p3")
    primer.seal()
    primer.start_again()
    (primer.answering / "p2").unlink()
    assert seal.unseal(primer.places) == "opened: 2 files"
    assert primer.texts() == before


def test_without_a_peer_nothing_opens_and_the_error_names_who_is_missing(primer: Primer) -> None:
    primer.peers("p2", "p3")
    primer.seal()
    primer.start_again()
    shutil.rmtree(primer.answering)
    with pytest.raises(HostError, match=r"waits for p2 \(http://p2:8445\) or p3") as refused:
        seal.unseal(primer.places)
    assert "backup" in refused.value.hint
    assert not any(key.exists() for key in primer.keys)
    with pytest.raises(HostError, match="is sealed"):
        primer.seal()


def test_keys_stay_plain_while_no_peer_answers(primer: Primer) -> None:
    before = primer.texts()
    primer.peers("p2", "p3")
    shutil.rmtree(primer.answering)
    with pytest.raises(HostError, match=r"p2 \(http://p2:8445\) or p3 \(http://p3:8445\)"):
        primer.seal()
    assert not any(key.is_symlink() for key in primer.keys)
    assert primer.texts() == before


def test_peer_that_does_not_answer_is_left_out_until_it_does(primer: Primer) -> None:
    before = primer.texts()
    primer.peers("p2", "p3")
    (primer.answering / "p3").unlink()
    assert "; p2 opens them" in primer.seal()
    sealed = primer.places.sealed.read_text()
    assert primer.seal() == ""
    assert primer.places.sealed.read_text() == sealed
    (primer.answering / "p3").touch()
    assert "p2 or p3 opens them" in primer.seal()
    primer.start_again()
    (primer.answering / "p2").unlink()
    seal.unseal(primer.places)
    assert primer.texts() == before


def test_another_set_of_peers_is_sealed_for_and_the_old_opens_no_more(primer: Primer) -> None:
    before = primer.texts()
    primer.peers("p2")
    primer.seal()
    primer.peers("p3")
    assert "p3 opens them" in primer.seal()
    primer.start_again()
    (primer.answering / "p3").unlink()
    with pytest.raises(HostError):
        seal.unseal(primer.places)
    (primer.answering / "p3").touch()
    seal.unseal(primer.places)
    assert primer.texts() == before


def test_without_peers_all_is_plain_again(primer: Primer) -> None:
    before = primer.texts()
    primer.peers("p2")
    primer.seal()
    primer.peers()
    assert primer.seal() == "no longer sealed: 2 files"
    assert not any(key.is_symlink() for key in primer.keys)
    assert primer.texts() == before
    assert not primer.places.sealed.exists()
    assert primer.seal() == ""


def test_keys_of_a_tree_that_was_moved_away_stay_sealed(primer: Primer) -> None:
    before = primer.texts()
    primer.peers("p2")
    primer.seal()
    away = primer.keys[0].parent.rename(primer.keys[0].parent.with_name("away"))
    primer.seal()
    away.rename(primer.keys[0].parent)
    primer.start_again()
    seal.unseal(primer.places)
    assert primer.texts() == before


def test_wiped_folder_is_empty_and_its_blocks_are_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "deploy"
    write_whole(folder / "p1.json", b"a key", 0o600)
    (tmp_path / "same").hardlink_to(folder / "p1.json")
    seal.wipe(folder)
    assert list(folder.iterdir()) == []
    assert (tmp_path / "same").read_bytes() == bytes(5)
    seal.wipe(tmp_path / "absent")


def test_link_of_somebody_else_is_refused(primer: Primer) -> None:
    primer.peers("p2")
    primer.keys[0].unlink()
    primer.keys[0].symlink_to(primer.keys[1])
    with pytest.raises(RefusedError, match=r"site\.key: is a link"):
        primer.seal()


def test_old_blocks_of_a_sealed_file_are_overwritten(primer: Primer, tmp_path: Path) -> None:
    primer.peers("p2")
    (tmp_path / "same").hardlink_to(primer.keys[0])  # the file that the link replaces
    primer.seal()
    assert (tmp_path / "same").read_bytes().strip(b"\0") == b""


def test_tree_that_nobody_has_opened_is_not_taken_for_an_incomplete_one(tmp_path: Path) -> None:
    folder = tmp_path / "pki"
    pki.init(SITE, folder, tmp_path / "root.pem", "a passphrase that is long")
    for name in ("site.key", "rotation.json"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(tmp_path / "nothing")
        with pytest.raises(HostError, match=f"{name}: is sealed"):
            pki.observe(SITE, folder)
        (folder / name).unlink()


def test_backup_has_the_content_of_sealed_files(primer: Primer) -> None:
    primer.peers("p2")
    primer.seal()
    found = content._tree(primer.keys[0].parent, primer.places)
    assert found == {"pki/site.key": b"secret of site.key", "pki/sa.key": b"secret of sa.key"}


def test_probe_reports_the_thumbprint_by_which_tang_names_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key of tang 15, which names the file by the thumbprint (jose jwk thp -a S256)."""
    recorded = Path(__file__).parents[2] / "cases/facts/tang-signing-key.json"
    case = json.loads(recorded.read_text())
    monkeypatch.setattr(probe, "TANG", str(tmp_path))
    assert probe.thumbprint() == ""
    exchange = {**case["key"], "key_ops": ["deriveKey"]}
    (tmp_path / "0.jwk").write_text(json.dumps(exchange))
    (tmp_path / "1.jwk").write_text(json.dumps(case["key"]))
    assert probe.thumbprint() == case["thumbprint"]


def test_probe_reports_what_is_sealed_plain_and_shut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("open", "plain", "shut", "gone")
    paths = [str(tmp_path / name) for name in names]
    (tmp_path / "plain").touch()
    (tmp_path / "open").symlink_to(tmp_path / "plain")
    (tmp_path / "shut").symlink_to(tmp_path / "nothing")
    record = tmp_path / "record.json"
    record.write_text(
        json.dumps({"peers": ["p2"], "files": dict.fromkeys(paths, ""), "digest": ""})
    )
    monkeypatch.setattr(probe, "SEALED", str(record))
    found = probe.seal()
    assert (found["peers"], found["plain"], found["shut"]) == (["p2"], [paths[1]], [paths[2]])


def test_keys_from_a_backup_replace_only_links_that_lead_to_nothing(primer: Primer) -> None:
    primer.peers("p2")
    primer.seal()
    primer.start_again()
    write_whole(primer.keys[1], b"newer", 0o600)
    found = {str(key): f"secret of {key.name}".encode() for key in primer.keys}
    assert seal.bring_back(found, places=primer.places) == "brought back: 1 files"
    assert primer.texts() == ["secret of site.key", "newer"]
    shutil.rmtree(primer.answering)
    assert seal.unseal(primer.places) == ""  # what waits for it goes on
    primer.peers()
    primer.seal()
    assert not primer.places.sealed.exists()


def test_keys_of_an_older_backup_are_refused_but_for_the_state_of_rotations(
    primer: Primer,
) -> None:
    """What is brought back is the truth for the next seal, which would forget the right keys."""
    primer.peers("p2")
    primer.seal()
    primer.start_again()
    older = {str(key): b"of month 5" for key in primer.keys}
    with pytest.raises(RefusedError, match="not what was sealed here") as refused:
        seal.bring_back(older, str(primer.keys[0]), primer.places)
    assert str(primer.keys[1]) in refused.value.message
    assert str(primer.keys[0]) not in refused.value.message
    assert all(seal.is_shut(key) for key in primer.keys)
    changing = {**older, str(primer.keys[1]): b"secret of sa.key"}
    seal.bring_back(changing, str(primer.keys[0]), primer.places)
    assert primer.texts() == ["of month 5", "secret of sa.key"]
