"""Site files: each case is a file and the mistakes it must bring out, all of them."""

from __future__ import annotations

import json
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from click.testing import CliRunner

from keystone import documents, site, site_template
from keystone.cli.site import group
from keystone.errors import ConfigurationError, UsageError

CASES = Path(__file__).parent.parent / "cases" / "site"
GOOD = CASES / "good.yaml"


@pytest.mark.parametrize("expected", sorted(CASES.glob("*.txt")), ids=lambda path: path.stem)
def test_all_mistakes_of_a_file_come_out_at_once(expected: Path) -> None:
    file = expected.with_suffix(".yaml")
    with pytest.raises(ConfigurationError) as caught:
        site.load(file)
    found = [str(mistake).removeprefix(f"{file}:") for mistake in caught.value.mistakes]
    assert found == expected.read_text().splitlines()
    assert caught.value.exit_code == 3


def test_a_good_file_becomes_a_site() -> None:
    loaded = site.load(GOOD)
    assert loaded.name == "lab"
    assert [node.name for node in loaded.primers] == ["p1", "p2", "p3"]
    assert [node.name for node in loaded.control_planes] == ["p1"]
    assert loaded.primers[1].address == IPv4Address("10.77.0.12")
    assert loaded.primers[1].disks == (site.Disk("KEYP2A"), site.Disk("KEYP2B"))
    assert loaded.patience.profile == "emulated"


def test_a_trial_site_asks_for_no_disks() -> None:
    loaded = site.load(CASES / "trial-good.yaml")
    assert loaded.trial
    assert not loaded.storage.on_pool
    assert [node.disks for node in loaded.primers] == [(), (), ()]
    assert loaded.control_planes == loaded.primers
    ordinary = site.load(GOOD)
    assert not ordinary.trial
    assert ordinary.storage.on_pool


def test_relative_paths_belong_to_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = site.load(GOOD)
    assert loaded.ssh.key_file == str(CASES / "id_ed25519")
    assert loaded.trust.root_key_file == str(CASES / "lab-root.key")
    assert loaded.trust.passphrase_file == "/run/pass"


def test_defaults_are_the_types_own() -> None:
    text = """{apiVersion: keystone/v1alpha1, kind: Site, metadata: {name: s}, spec: {
      networks: {nodes: 10.0.0.0/24},
      primers: [{name: p, address: 10.0.0.1, disks: [{serial: A}, {serial: B}]}]}}"""
    document = documents.loads(text, kind="Site", schema=site.schema())
    made = site.from_document(document)
    nodes = made.networks.nodes
    assert made == site.Site("s", made.primers, site.Networks(nodes=nodes))
    assert made.primers[0].control_plane
    assert made.primers[0].kubelet


def test_the_digest_follows_every_value(tmp_path: Path) -> None:
    changed = tmp_path / "site.yaml"
    text = GOOD.read_text().replace("./id_ed25519", str(CASES / "id_ed25519"))
    text = text.replace("./lab-root.key", str(CASES / "lab-root.key"))
    changed.write_text(text)
    assert site.digest(site.load(changed)) == site.digest(site.load(GOOD))
    changed.write_text(text.replace("KEYP3B", "KEYP3C"))
    assert site.digest(site.load(changed)) != site.digest(site.load(GOOD))


def test_check_lists_every_mistake_in_a_table() -> None:
    result = CliRunner().invoke(group, ["check", str(CASES / "all-at-once.yaml")])
    assert isinstance(result.exception, ConfigurationError)
    for word in ("storge", "overlaps", "2 Primers", "is taken by"):
        assert word in result.output


def test_check_as_json() -> None:
    good = CliRunner().invoke(group, ["check", "--json", str(GOOD)])
    assert json.loads(good.output)["site"]["name"] == "lab"
    bad = CliRunner().invoke(group, ["check", "--json", str(CASES / "quorum.yaml")])
    assert len(json.loads(bad.output)["mistakes"]) == 7


def test_init_writes_a_file_that_check_accepts(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(site_template.example())
    loaded = site.load(file)
    assert loaded.primers[0].disks == (site.Disk("SERIAL-A"), site.Disk("SERIAL-B"))


def test_the_schema_is_printed() -> None:
    result = CliRunner().invoke(group, ["schema"])
    assert json.loads(result.output)["title"] == "Site"


def test_the_installed_site_is_the_same_wherever_it_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(site, "INSTALLED", tmp_path / "lib/site.yaml")
    with pytest.raises(UsageError, match="no site file is given"):
        site.installed()
    site.keep(site.read(GOOD))
    assert site.load(site.installed()) == site.load(GOOD)
    assert site.INSTALLED.stat().st_mode & 0o777 == 0o600
