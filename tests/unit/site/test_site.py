"""Site files: for each file in tests/cases/site, exactly the listed mistakes are reported."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from keystone import documents
from keystone.cli.site import group
from keystone.errors import ConfigurationError, UsageError
from keystone.hosts import observe
from keystone.hosts.facts import DiskFacts, HostFacts
from keystone.pki import plan
from keystone.site import model as site
from keystone.site import template

CASES = Path(__file__).parents[2] / "cases" / "site"
GOOD = CASES / "good.yaml"


@pytest.mark.parametrize("expected", sorted(CASES.glob("*.txt")), ids=lambda path: path.stem)
def test_all_mistakes_of_file_are_reported_at_once(expected: Path) -> None:
    file = expected.with_suffix(".yaml")
    with pytest.raises(ConfigurationError) as caught:
        site.load(file)
    found = [str(mistake).removeprefix(f"{file}:") for mistake in caught.value.mistakes]
    assert found == expected.read_text().splitlines()
    assert caught.value.exit_code == 3


def test_valid_file_is_loaded() -> None:
    loaded = site.load(GOOD)
    assert loaded.name == "lab"
    assert [node.name for node in loaded.primers] == ["p1", "p2", "p3"]
    assert [node.name for node in loaded.control_planes] == ["p1"]
    assert loaded.primers[1].address == IPv4Address("10.77.0.12")
    assert loaded.primers[1].disks == (site.Disk("KEYP2A"), site.Disk("KEYP2B"))
    assert loaded.patience.profile == "emulated"


def test_trial_site_with_layout_directory_has_no_disks() -> None:
    loaded = site.load(CASES / "trial-good.yaml")
    assert loaded.trial
    assert not loaded.storage.on_pool
    assert [node.disks for node in loaded.primers] == [(), (), ()]
    assert loaded.control_planes == loaded.primers
    ordinary = site.load(GOOD)
    assert not ordinary.trial
    assert ordinary.storage.on_pool


def test_relative_paths_are_relative_to_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = site.load(GOOD)
    assert loaded.ssh.key_file == str(CASES / "id_ed25519")
    assert loaded.trust.root_key_file == str(CASES / "lab-root.key")
    assert loaded.trust.passphrase_file == "/run/pass"


def test_omitted_keys_have_defaults_of_the_types() -> None:
    text = """{apiVersion: keystone/v1alpha1, kind: Site, metadata: {name: s}, spec: {
      networks: {nodes: 10.0.0.0/24},
      primers: [{name: p, address: 10.0.0.1, disks: [{serial: A}, {serial: B}]}]}}"""
    document = documents.loads(text, kind="Site", schema=site.schema())
    made = site.from_document(document)
    nodes = made.networks.nodes
    assert made == site.Site("s", made.primers, site.Networks(nodes=nodes))
    assert made.primers[0].control_plane
    assert made.primers[0].kubelet


def test_digest_changes_with_a_value(tmp_path: Path) -> None:
    changed = tmp_path / "site.yaml"
    text = GOOD.read_text().replace("./id_ed25519", str(CASES / "id_ed25519"))
    text = text.replace("./lab-root.key", str(CASES / "lab-root.key"))
    changed.write_text(text)
    assert site.digest(site.load(changed)) == site.digest(site.load(GOOD))
    changed.write_text(text.replace("KEYP3B", "KEYP3C"))
    assert site.digest(site.load(changed)) != site.digest(site.load(GOOD))


def test_check_prints_all_mistakes_in_a_table() -> None:
    result = CliRunner().invoke(group, ["check", str(CASES / "all-at-once.yaml")])
    assert isinstance(result.exception, ConfigurationError)
    for word in ("storge", "overlaps", "2 Primers", "already has it"):
        assert word in result.output


def test_check_json_has_site_or_mistakes() -> None:
    good = CliRunner().invoke(group, ["check", "--json", str(GOOD)])
    assert json.loads(good.output)["site"]["name"] == "lab"
    bad = CliRunner().invoke(group, ["check", "--json", str(CASES / "quorum.yaml")])
    assert len(json.loads(bad.output)["mistakes"]) == 7


def host(*found: DiskFacts) -> HostFacts:
    seen = json.loads((CASES.parent / "facts" / "debian13-blank.json").read_text())
    return replace(observe.parse("p1", seen, (0, 0)), disks=found)


def blank(name: str, serial: str, **more: Any) -> DiskFacts:
    fields = {"model": "X", "size": 1 << 40, "logical_sector": 512, "physical_sector": 4096}
    return DiskFacts(name, f"/dev/{name}", (), serial, **{**fields, **more})


@pytest.mark.parametrize(
    ("disks", "written"),
    [
        ((blank("sda", "D1"), blank("sdb", "D1"), blank("sdc", "D2"), blank("sdd", "D3")),
         ["D2", "D3"]),
        ((blank("sda", "D1"), blank("sdb", "D1"), blank("sdc", "D2")), ["D2"]),
        ((blank("sda", "D1"), blank("sdb", "D1", mounted=("/",))), ["SERIAL-A", "SERIAL-B"]),
        ((blank("sda", ""), blank("sdb", ""), blank("sdc", "D2")), ["D2"]),
        ((blank("sda", "A 1"), blank("sdb", 'x"\n- y'), blank("sdc", "D2")), ["D2"]),
        ((blank("sda", "D1", unreadable="Input/output error"), blank("sdc", "D2")), ["D2"]),
        ((blank("sda", "D1", removable=True, transport="sata"),), ["D1"]),
        ((blank("sda", "D1", transport="usb"), blank("sdc", "D2")), ["D2"]),
        ((blank("sda", "D1", model="two\nlines: [x"),), ["D1"]),
    ],
)  # fmt: skip
def test_init_lists_only_disks_with_unique_valid_serials(
    tmp_path: Path, disks: tuple[DiskFacts, ...], written: list[str]
) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(template.render(template.start(host(*disks))))
    (primer,) = site.load(file).primers
    assert [disk.serial for disk in primer.disks] == written


def test_init_and_schema_accept_the_same_serial_numbers() -> None:
    text = json.dumps(documents.packaged_schema("site"))
    assert f'"pattern": "^{template.SERIAL}$"' in text


def test_init_example_is_a_valid_site_file(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(template.example())
    loaded = site.load(file)
    assert loaded.primers[0].disks == (site.Disk("SERIAL-A"), site.Disk("SERIAL-B"))


HOST = observe.parse(
    "p1", json.loads((CASES.parent / "facts/debian13-blank.json").read_text()), (0, 0)
)


@pytest.mark.parametrize(
    ("networks", "wanted"),
    [
        (["10.0.5.130/22"], "10.0.5.130 in 10.0.4.0/22, 10.244.0.0/16, 10.96.0.0/16"),
        (["169.254.3.1/24", "fe80::1/64", "192.168.1.7/23"],
         "192.168.1.7 in 192.168.0.0/23, 10.244.0.0/16, 10.96.0.0/16"),
        (["10.1.2.3/32", "10.1.2.3/8"], "10.1.2.3 in 10.0.0.0/8, 172.20.0.0/16, 172.21.0.0/16"),
        (["169.254.3.1/24"], "10.77.0.11 in 10.77.0.0/24, 10.244.0.0/16, 10.96.0.0/16"),
    ],
)  # fmt: skip
def test_init_uses_address_and_mask_of_this_machine(
    networks: list[str], wanted: str, tmp_path: Path
) -> None:
    seen = replace(HOST, networks=tuple(networks))
    file = tmp_path / "site.yaml"
    file.write_text(template.render(template.start(seen)))
    loaded = site.load(file)
    ours = loaded.networks
    found = f"{loaded.primers[0].address} in {ours.nodes}, {ours.pods}, {ours.services}"
    assert found == wanted


@pytest.mark.parametrize(
    ("hostname", "name"),
    [("P7.example", "p7"), ("localhost", "p1"), ("all", "p1"), ("12", "p1"), ("n" * 60, "p1")],
)
def test_init_replaces_hostname_that_check_would_refuse(hostname: str, name: str) -> None:
    assert template.start(replace(HOST, hostname=hostname)).name == name


def test_schema_command_prints_schema_of_site() -> None:
    result = CliRunner().invoke(group, ["schema"])
    assert json.loads(result.output)["title"] == "Site"


def test_widest_networks_and_longest_name_are_accepted() -> None:
    """The widest networks of kubeadm, and a name with a common name of 64 characters (X.509)."""
    loaded = site.load(CASES / "widest-good.yaml")
    longest = max(len(spec.profile.common_name) for spec in plan.desired(loaded))
    assert longest == 64


def test_installed_site_file_loads_to_the_same_site(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(site, "INSTALLED", tmp_path / "lib/site.yaml")
    with pytest.raises(UsageError, match="no --site was given"):
        site.installed()
    site.keep(site.read(GOOD))
    assert site.load(site.installed()) == site.load(GOOD)
    assert site.INSTALLED.stat().st_mode & 0o777 == 0o600
