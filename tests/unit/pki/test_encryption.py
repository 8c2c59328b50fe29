"""The key for secrets in etcd: made once only, and the three stages of a running site."""

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


def test_new_site_reads_and_writes_only_with_key(tree: Path) -> None:
    (provider,) = providers((tree / encryption.FILE).read_text())
    assert list(provider) == ["secretbox"]
    assert pki.observe(SITE, tree).encryption == encryption.REQUIRED


def test_only_control_planes_get_the_file_and_all_the_same(tree: Path) -> None:
    texts = {placed(tree, host)[encryption.PLACE]["content"] for host in ("p1", "p2")}
    assert texts == {(tree / encryption.FILE).read_text()}
    assert placed(tree, "p1")[encryption.PLACE]["mode"] == "0600"
    assert encryption.PLACE not in placed(tree, "p3")
    assert (tree / encryption.FILE).stat().st_mode & 0o777 == 0o600


def test_site_without_file_starts_with_stage_readable(tree: Path) -> None:
    """A site of an older version has no such file; making one needs no root key."""
    (tree / encryption.FILE).unlink()
    seen = pki.observe(SITE, tree)
    assert (seen.complete, seen.incomplete, seen.encryption) == (False, (), encryption.READABLE)
    assert pki.verify(SITE, tree) != []
    assert pki.init(SITE, tree, tree.parent / "gone.pem", "") is True
    assert [list(p) for p in providers((tree / encryption.FILE).read_text())] == [
        ["identity"], ["secretbox"],
    ]  # fmt: skip
    assert pki.observe(SITE, tree).complete


def test_advance_keeps_key_and_changes_files_of_control_planes(tree: Path) -> None:
    (tree / encryption.FILE).unlink()
    pki.issue(SITE, tree)
    key = providers((tree / encryption.FILE).read_text())[1]["secretbox"]
    for stage in (encryption.WRITTEN, encryption.REQUIRED):
        before = pki.observe(SITE, tree).wanted
        encryption.advance(tree, stage)
        pki.issue(SITE, tree)
        seen = pki.observe(SITE, tree)
        assert seen.encryption == stage
        assert {host for host in before if before[host] != seen.wanted[host]} == set(before)
        assert providers((tree / encryption.FILE).read_text())[0]["secretbox"] == key


def test_lost_file_is_restored_from_file_of_api_server(tree: Path, tmp_path: Path) -> None:
    """With another key nobody could read the cluster's secrets."""
    text = (tree / encryption.FILE).read_text()
    (tmp_path / "in-use.yaml").write_text(text)
    (tree / encryption.FILE).unlink()
    encryption.ensure(tree, encryption.READABLE, in_use=tmp_path / "in-use.yaml")
    assert (tree / encryption.FILE).read_text() == text


@pytest.mark.parametrize(
    "text", ["", "resources: []", "{}", "resources: [{providers: [{identity: {}}]}]", "a: ["]
)
def test_file_with_other_content_is_refused(tree: Path, text: str) -> None:
    (tree / encryption.FILE).write_text(text)
    with pytest.raises(RefusedError, match=encryption.FILE):
        pki.observe(SITE, tree)


def test_site_with_changed_hosts_keeps_its_key(tree: Path) -> None:
    text = (tree / encryption.FILE).read_text()
    pki.issue(
        replace(SITE, primers=(replace(PRIMERS[0], address=IPv4Address("10.77.0.19")),)), tree
    )
    assert (tree / encryption.FILE).read_text() == text


@pytest.mark.parametrize(
    "text", ["", encryption._dump({"identity": {}, "secretbox": {}}, "written")]
)
def test_no_new_key_when_file_of_api_server_has_none(tree: Path, tmp_path: Path, text: str) -> None:
    """The API server's file exists without a key: a new key would overwrite the last copies."""
    (tmp_path / "in-use.yaml").write_text(text)
    (tree / encryption.FILE).unlink()
    with pytest.raises(RefusedError) as refused:
        encryption.ensure(tree, encryption.READABLE, in_use=tmp_path / "in-use.yaml")
    assert encryption.PLACE in refused.value.message + refused.value.hint
    assert not (tree / encryption.FILE).exists()


CAPTURE = Path(__file__).parents[2] / "cases" / "facts" / "debian13-blank.json"
BLANK = observe.parse("p1", json.loads(CAPTURE.read_text()), (0, 0))


@pytest.mark.parametrize(
    ("here", "hosts", "refused"),
    [
        # A new site, an older one without a key, and a valid one.
        ("", ("", "", ""), ""),
        ("a", ("", "", ""), ""),
        ("a", ("a", "a", ""), ""),
        # The tree lost its copy: the first Primer has one, or only other Primers have.
        ("", ("a", "a", ""), ""),
        ("", ("", "a", "a"), "p2 p3"),
        ("", ("?", "a", ""), "p1 p2"),
        ("", ("?", "?", "?"), "p1 p2 p3"),
        # The damaged file of a host is replaced.
        ("a", ("a", "?", ""), ""),
        # An old copy of the tree with another key; and one host of three with another key.
        ("b", ("b", "a", "a"), "p2 p3"),
        ("", ("b", "a", ""), "p2"),
        # Changed by hand: a second key was added, then the first was removed.
        ("ab", ("a", "a", "a"), ""),
        ("b", ("ab", "ba", ""), ""),
    ],
)
def test_run_that_would_remove_key_of_api_server_is_refused(
    here: str, hosts: tuple[str, ...], refused: str
) -> None:
    """Each letter is a key; "?" is a lost key."""
    named = [tuple(word.replace("?", "")) if word != "?" else ("",) for word in hosts]
    seen = {
        f"p{number}": replace(BLANK, standing=StandingFacts(keys=keys))
        for number, keys in enumerate(named, 1)
    }
    found = list(standing.secrets(TrustFacts(keys=tuple(here)), seen, "p1"))
    assert " ".join(finding.host for finding in found) == refused
    assert all(finding.severity == "refused" for finding in found)
    assert all(f"{standing.TREE}/{encryption.FILE}" in finding.hint for finding in found)


def test_probe_and_tree_compute_same_hashes_of_keys(
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


def test_new_site_is_refused_on_host_with_key_of_former_site() -> None:
    """The host has the file of the former site, but neither its root nor data of etcd."""
    seen = {"p1": replace(BLANK, standing=StandingFacts(keys=("a",)))}
    (found,) = standing.authorities(TrustFacts(("root.crt",)), seen)
    assert (found.severity, found.host) == ("refused", "p1")
    assert "/etc/kubernetes" in found.hint
    assert not list(standing.secrets(TrustFacts(("root.crt",)), seen, "p1"))


def test_run_killed_while_writing_root_key_is_finished(tmp_path: Path) -> None:
    """On FAT an empty file remains, elsewhere a hidden temporary file with the key."""
    file, temporary = tmp_path / "root.pem", tmp_path / ".root.pem.4711"
    site = replace(SITE, trust=replace(SITE.trust, root_key_file=str(file)))
    file.touch()
    temporary.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert root_key.left(site, tmp_path / "pki") == (temporary,)
    assert pki.init(site, tmp_path / "pki", file, "a passphrase that is long") is True
    assert not temporary.exists()
    assert root_key.left(site, tmp_path / "pki") == (file,)
    assert pki.verify(site, tmp_path / "pki") == []
