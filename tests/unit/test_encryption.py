"""The key of secrets in etcd: made once, never twice, and the three stages of a running site."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
import yaml

from keystone.errors import RefusedError
from keystone.hosts import observe, probe
from keystone.hosts.facts import StandingFacts
from keystone.install import standing
from keystone.pki import encryption, root_key
from keystone.pki import tree as pki
from keystone.pki.host_files import deployment_file
from keystone.pki.plan import TrustFacts
from keystone.site.model import Networks, Node, Site

PRIMERS = tuple(Node(f"p{n}", IPv4Address(f"10.77.0.1{n}"), control_plane=n < 3) for n in (1, 2, 3))
SITE = Site("lab", PRIMERS, Networks(IPv4Network("10.77.0.0/24")))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "pki"
    pki.init(SITE, folder, tmp_path / "root.pem", "a passphrase that is long")
    return folder


def placed(tree: Path, host: str) -> dict[str, Any]:
    files = json.loads(deployment_file(tree, host).read_text())["files"]
    return {file["path"]: file for file in files}


def providers(text: str) -> list[dict[str, Any]]:
    (resource,) = yaml.safe_load(text)["resources"]
    assert resource["resources"] == ["secrets"]
    found: list[dict[str, Any]] = resource["providers"]
    return found


def test_a_new_site_reads_and_writes_with_the_key_alone(tree: Path) -> None:
    (provider,) = providers((tree / encryption.FILE).read_text())
    assert list(provider) == ["secretbox"]
    assert pki.observe(SITE, tree).encryption == encryption.REQUIRED


def test_control_planes_get_the_same_file_and_nobody_else(tree: Path) -> None:
    texts = {placed(tree, host)[encryption.PLACE]["content"] for host in ("p1", "p2")}
    assert texts == {(tree / encryption.FILE).read_text()}
    assert placed(tree, "p1")[encryption.PLACE]["mode"] == "0600"
    assert encryption.PLACE not in placed(tree, "p3")
    assert (tree / encryption.FILE).stat().st_mode & 0o777 == 0o600


def test_an_older_site_can_read_before_anything_is_encrypted(tree: Path) -> None:
    """It has no such file, and needs no root key to get one."""
    (tree / encryption.FILE).unlink()
    seen = pki.observe(SITE, tree)
    assert (seen.complete, seen.incomplete, seen.encryption) == (False, (), encryption.READABLE)
    assert pki.verify(SITE, tree) != []
    assert pki.init(SITE, tree, tree.parent / "gone.pem", "") is True
    assert [list(p) for p in providers((tree / encryption.FILE).read_text())] == [
        ["identity"], ["secretbox"],
    ]  # fmt: skip
    assert pki.observe(SITE, tree).complete


def test_stages_keep_the_key_and_change_what_hosts_get(tree: Path) -> None:
    (tree / encryption.FILE).unlink()
    pki.issue(SITE, tree)
    key = providers((tree / encryption.FILE).read_text())[1]["secretbox"]
    for stage in (encryption.WRITTEN, encryption.REQUIRED):
        before = pki.observe(SITE, tree).deployed
        encryption.advance(tree, stage)
        pki.issue(SITE, tree)
        seen = pki.observe(SITE, tree)
        assert seen.encryption == stage
        assert {host for host in before if before[host] != seen.deployed[host]} == {"p1", "p2"}
        assert providers((tree / encryption.FILE).read_text())[0]["secretbox"] == key


def test_a_lost_file_comes_back_from_what_the_api_server_uses(tree: Path, tmp_path: Path) -> None:
    """With another key no secret of the cluster could be read."""
    text = (tree / encryption.FILE).read_text()
    (tmp_path / "in-use.yaml").write_text(text)
    (tree / encryption.FILE).unlink()
    encryption.ensure(tree, encryption.READABLE, in_use=tmp_path / "in-use.yaml")
    assert (tree / encryption.FILE).read_text() == text


@pytest.mark.parametrize(
    "text", ["", "resources: []", "{}", "resources: [{providers: [{identity: {}}]}]", "a: ["]
)
def test_a_file_that_says_something_else_is_refused(tree: Path, text: str) -> None:
    (tree / encryption.FILE).write_text(text)
    with pytest.raises(RefusedError, match=encryption.FILE):
        pki.observe(SITE, tree)


def test_a_site_whose_hosts_changed_keeps_its_key(tree: Path) -> None:
    text = (tree / encryption.FILE).read_text()
    pki.issue(
        replace(SITE, primers=(replace(PRIMERS[0], address=IPv4Address("10.77.0.19")),)), tree
    )
    assert (tree / encryption.FILE).read_text() == text


@pytest.mark.parametrize(
    "text", ["", encryption._dump({"identity": {}, "secretbox": {}}, "written")]
)
def test_a_key_that_was_lost_is_not_made_anew(tree: Path, tmp_path: Path, text: str) -> None:
    """What the API server used is there and empty: a new key would end up over the last copies."""
    (tmp_path / "in-use.yaml").write_text(text)
    (tree / encryption.FILE).unlink()
    with pytest.raises(RefusedError) as refused:
        encryption.ensure(tree, encryption.READABLE, in_use=tmp_path / "in-use.yaml")
    assert encryption.PLACE in refused.value.message + refused.value.hint
    assert not (tree / encryption.FILE).exists()


CAPTURE = Path(__file__).parents[1] / "cases" / "facts" / "debian13-blank.json"
BLANK = observe.parse("p1", json.loads(CAPTURE.read_text()), (0, 0))


@pytest.mark.parametrize(
    ("here", "hosts", "refused"),
    [
        # A new site, an older one without a key, and one that is as it should be.
        ("", ("", "", ""), ""),
        ("a", ("", "", ""), ""),
        ("a", ("a", "a", ""), ""),
        # The tree lost its copy: the first Primer has it, or only others have.
        ("", ("a", "a", ""), ""),
        ("", ("", "a", "a"), "p2 p3"),
        ("", ("?", "a", ""), "p1 p2"),
        ("", ("?", "?", "?"), "p1 p2 p3"),
        # A damaged file of a host is placed again.
        ("a", ("a", "?", ""), ""),
        # A copy of the tree from before, with another key; and one of three that is another.
        ("b", ("b", "a", "a"), "p2 p3"),
        ("", ("b", "a", ""), "p2"),
        # By hand: one more key, then without the first.
        ("ab", ("a", "a", "a"), ""),
        ("b", ("ab", "ba", ""), ""),
    ],
)
def test_no_run_takes_the_key_away_from_an_api_server(
    here: str, hosts: tuple[str, ...], refused: str
) -> None:
    """Each letter is a key; "?" for one that was there."""
    named = [tuple(word.replace("?", "")) if word != "?" else ("",) for word in hosts]
    seen = {
        f"p{number}": replace(BLANK, standing=StandingFacts(keys=keys))
        for number, keys in enumerate(named, 1)
    }
    found = list(standing.secrets(TrustFacts(keys=tuple(here)), seen, "p1"))
    assert " ".join(finding.host for finding in found) == refused
    assert all(finding.severity == "refused" for finding in found)
    assert all(f"{standing.TREE}/{encryption.FILE}" in finding.hint for finding in found)


def test_the_probe_and_the_tree_name_a_key_alike(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "encryption.yaml"
    monkeypatch.setattr(probe, "SECRETS", str(file))
    assert probe.keys("") == []
    assert probe.keys("- --encryption-provider-config=/etc") == [""]
    for stage in encryption._PROVIDERS:
        encryption.advance(tree, stage)
        file.write_text((tree / encryption.FILE).read_text())
        assert tuple(probe.keys("")) == encryption.keys(tree) == pki.observe(SITE, tree).keys
    assert probe.keys("") != [""]
    file.write_text("")
    assert probe.keys("") == [""]


def test_a_key_of_a_site_that_was_given_up_is_not_taken_for_the_next() -> None:
    """Nor its stage: the file is there, and neither the root nor etcd's data is."""
    seen = {"p1": replace(BLANK, standing=StandingFacts(keys=("a",)))}
    (found,) = standing.authorities(TrustFacts(("root.crt",)), seen)
    assert (found.severity, found.host) == ("refused", "p1")
    assert "/etc/kubernetes" in found.hint
    assert not list(standing.secrets(TrustFacts(("root.crt",)), seen, "p1"))


def test_a_first_run_that_was_killed_at_the_root_key_is_finished(tmp_path: Path) -> None:
    """On FAT an empty file is left, elsewhere a hidden one with the key in it."""
    file, cut = tmp_path / "root.pem", tmp_path / ".root.pem.4711"
    site = replace(SITE, trust=replace(SITE.trust, root_key_file=str(file)))
    file.touch()
    cut.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert root_key.left(site, tmp_path / "pki") == (cut,)
    assert pki.init(site, tmp_path / "pki", file, "a passphrase that is long") is True
    assert not cut.exists()
    assert root_key.left(site, tmp_path / "pki") == (file,)
    assert pki.verify(site, tmp_path / "pki") == []
