"""join.yaml: files and their expected mistakes; adding workers; which machine uses which entry."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from keystone.appliance import identity, installing
from keystone.appliance.guided import worker as guided
from keystone.appliance.identity import Card, Hardware
from keystone.appliance.write import Plan
from keystone.cli.token import create
from keystone.errors import ConfigurationError, RefusedError
from keystone.join import join_yaml
from keystone.join import tokens as join
from keystone.site.model import Machine, Node, Site, Ssh

CASES = Path(__file__).parents[2] / "cases" / "join"
GOOD = CASES / "good.yaml"
KNOWN = join_yaml.load(GOOD)
MAC = "52:54:00:00:00:23"


@pytest.mark.parametrize("expected", sorted(CASES.glob("*.txt")), ids=lambda path: path.stem)
def test_load_reports_all_mistakes_of_a_file(expected: Path) -> None:
    file = expected.with_suffix(".yaml")
    with pytest.raises(ConfigurationError) as caught:
        join_yaml.load(file)
    found = [str(mistake).removeprefix(f"{file}:") for mistake in caught.value.mistakes]
    assert found == expected.read_text().splitlines()


def test_valid_file_survives_reading_and_writing() -> None:
    assert [worker.name for worker in KNOWN.workers] == ["", "w2", "w3", "w4"]
    assert KNOWN.workers[1].machine == Machine("M2", ("52:54:00:00:00:22",))
    assert KNOWN.workers[1].address == IPv4Address("10.77.0.22")
    assert KNOWN.workers[2].primer == "10.77.0.12"
    assert KNOWN.system_floor == 2
    assert join_yaml.parse(join_yaml.text(KNOWN)) == KNOWN


def entry(number: int, **more: object) -> dict[str, object]:
    token = join.Token(f"{number:012x}", "a" * 40, KNOWN.pin)
    return {"token": str(token), "server": "https://10.77.0.11:8444", **more}


def test_grown_adds_a_worker_and_drops_workers_with_dead_tokens() -> None:
    more = entry(9, name="w2", machine={"serial": "M2"})
    text = join_yaml.grown(KNOWN, KNOWN, lambda worker: worker.name == "w2", more)
    grown = join_yaml.parse(text)
    assert [worker.name for worker in grown.workers] == ["", "w3", "w4", "w2"]
    assert grown.workers[-1].machine == Machine("M2")
    assert (grown.ssh, grown.networks) == (KNOWN.ssh, KNOWN.networks)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"name": "w2"}, 'duplicate name "w2": workers[1] already has it'),
        ({"address": "10.78.0.1"}, "outside networks.nodes"),
        ({"machine": {"serial": "M9"}}, "has no name"),
        ({"name": "W9"}, "lower-case"),
    ],
)
def test_grown_reports_an_invalid_worker(more: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        join_yaml.grown(KNOWN, KNOWN, lambda _: False, entry(9, **more))
    assert any(why in str(mistake) for mistake in caught.value.mistakes)


def test_grown_refuses_the_file_of_another_site() -> None:
    another = replace(KNOWN, ca=KNOWN.ca.replace("MII", "MIJ"))
    with pytest.raises(RefusedError, match="another CA"):
        join_yaml.grown(another, KNOWN, lambda _: False, entry(9))


def test_grown_takes_only_workers_from_the_existing_file() -> None:
    """An attacker prepared the stick: with the site's CA, which is public, and his own SSH key."""
    networks = replace(KNOWN.networks, gateway=IPv4Address("10.77.0.66"))
    stick = replace(
        KNOWN, name="x", networks=networks, ssh=Ssh(("ssh-ed25519 AAAA thief",)), system_floor=9
    )
    grown = join_yaml.parse(join_yaml.grown(KNOWN, stick, lambda _: False, entry(9)))
    assert replace(grown, workers=KNOWN.workers) == KNOWN
    assert grown.workers[:-1] == KNOWN.workers


def test_hand_over_drops_unknown_tokens_of_this_primer(tmp_path: Path) -> None:
    file, tokens = tmp_path / "join.yaml", join.Tokens(tmp_path)
    file.write_text(join_yaml.text(KNOWN))
    token, record = join.new("worker", KNOWN.pin, now=int(tokens.now()), ttl=60)
    new = {"token": str(token), "server": "https://10.77.0.11:8444"}
    create._add_to_file(file, KNOWN, new, tokens, record)
    # Tokens of p2 stay: only p2 knows whether they are valid.
    left = [worker.primer for worker in join_yaml.load(file).workers]
    assert left == ["10.77.0.12", "10.77.0.12", "10.77.0.11"]


P1 = Node("p1", IPv4Address("10.77.0.11"), machine=Machine("M1"))
SITE = Site("plant", (P1,), KNOWN.networks)
DESCRIBED = replace(KNOWN, workers=KNOWN.workers[1:3])


@pytest.mark.parametrize(
    ("site", "known", "here", "name"),
    [
        (None, KNOWN, Hardware("M2", ()), "w2"),
        (None, KNOWN, Hardware("", (MAC,)), "w3"),
        (SITE, KNOWN, Hardware("M2", ()), "w2"),
        (SITE, KNOWN, Hardware("M1", ()), "p1"),
        (SITE, None, Hardware("M1", ()), "p1"),
        (None, KNOWN, Hardware("M9", ()), None),
    ],
)
def test_machine_is_identified_by_the_file_that_describes_it(
    site: Site | None, known: join_yaml.Join | None, here: Hardware, name: str | None
) -> None:
    found = identity.who(site, known, here)
    assert (found.name if found else None) == name


@pytest.mark.parametrize(
    ("site", "known", "here", "why", "hint"),
    [
        (
            SITE, replace(KNOWN, workers=(replace(KNOWN.workers[1], machine=Machine("M1")),)),
            Hardware("M1", ()), "matches p1 and w2",
            "in the site file: primers[].machine and in join.yaml: workers[].machine",
        ),
        (None, KNOWN, Hardware("M2", (MAC,)), "matches w2 and w3", "join.yaml"),
        (None, DESCRIBED, Hardware("M9", ()), "is no worker of join.yaml", "describes w2, w3"),
        (SITE, DESCRIBED, Hardware("M9", ()), "no Primer of site plant and no worker", "w2, w3"),
        (SITE, KNOWN, Hardware("M9", ()), "no Primer of site plant and no worker", "(2), install"),
        (SITE, None, Hardware("M9", ()), "is no Primer of site plant", "describes p1"),
    ],
)  # fmt: skip
def test_unidentified_or_ambiguous_machine_is_refused(
    site: Site | None, known: join_yaml.Join | None, here: Hardware, why: str, hint: str
) -> None:
    with pytest.raises(RefusedError) as caught:
        identity.who(site, known, here)
    assert why in caught.value.message
    assert hint in caught.value.hint


def test_only_disk_of_a_worker_is_its_system_disk() -> None:
    _, _, w3, _ = KNOWN.workers
    assert identity.system_disk(w3, Hardware("", (), ("X",))) == "X"
    with pytest.raises(RefusedError, match=r"w3: .* this machine has X, Y$") as caught:
        identity.system_disk(w3, Hardware("", (), ("X", "Y")))
    assert "join.yaml: workers[].systemDisk" in caught.value.hint


def test_worker_without_address_uses_dhcp_but_not_its_host_name() -> None:
    _, w2, w3, _ = KNOWN.workers
    text, _ = identity.state(KNOWN, w3, MAC)["etc/systemd/network/10-keystone.network"]
    assert f"MACAddress={MAC}\n" in text
    assert "[Network]\nDHCP=ipv4\n" in text
    assert "[DHCPv4]\nClientIdentifier=mac\nUseHostname=no\n" in text
    assert "Address=1" not in text
    text, _ = identity.state(KNOWN, w2, "")["etc/systemd/network/10-keystone.network"]
    assert "Address=10.77.0.22/24\nGateway=10.77.0.1\n" in text


def test_disk_of_a_worker_has_only_its_own_token_with_mode_0600() -> None:
    files = installing.worker_files(KNOWN, KNOWN.workers[1])
    text, mode = files["etc/keystone/join.yaml"]
    assert mode == 0o600
    assert join_yaml.parse(text).workers == (KNOWN.workers[1],)
    assert files["etc/keystone/pki/site-ca.crt"] == (KNOWN.ca, 0o644)


BLANK = Plan("/dev/a", "A", 8 << 30, 1, held=False)
CARDS = {MAC: Card("eno1", "igb", cable=True), "52:54:00:00:00:99": Card("eno2", "igb", cable=True)}


def test_plan_names_the_network_card_or_is_refused() -> None:
    w3, w4 = KNOWN.workers[2:]
    assert f"on network card {MAC} (eno1, igb, cable)" in installing.with_card(
        BLANK, w3, CARDS
    ).describe("10.77.0.23")
    with pytest.raises(
        RefusedError, match="network card for the address from DHCP: 2 of"
    ) as caught:
        installing.with_card(BLANK, w4, CARDS)
    assert "join.yaml: workers[].machine.macs" in caught.value.hint


def test_plan_of_a_written_disk_names_no_network_card() -> None:
    done = installing.Plan(replace(BLANK, held=True))
    assert done.describe("10.77.0.23") == "disk A (/dev/a) already holds version 1"


def test_entry_for_a_machine_is_the_one_describing_it_or_the_first_free() -> None:
    first, w2, *_ = KNOWN.workers
    assert guided.entry_of(KNOWN, Hardware("M2", ())) == w2
    assert guided.entry_of(KNOWN, Hardware("M9", ())) == first
    assert guided.entry_of(DESCRIBED, Hardware("M9", ())) is None
