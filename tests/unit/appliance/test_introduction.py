"""Introductions of Primers, and the first start of the first Primer."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

import pytest

from keystone import run
from keystone.appliance import discover, first_start, unattended
from keystone.errors import ConfigurationError, DamagedBundleError, HostError, RefusedError
from keystone.image import freight
from keystone.run import Host, Result
from keystone.site import introduction
from keystone.site.model import Machine, Networks, Node, Site, Ssh, Trust

if TYPE_CHECKING:
    from pathlib import Path

P1, P2, P3 = (
    Node(f"p{n}", IPv4Address(f"10.77.0.1{n}"), machine=Machine(f"S{n}")) for n in (1, 2, 3)
)
SITE = Site(
    "plant", (P1, P2, P3), Networks(IPv4Network("10.77.0.0/24")),
    ssh=Ssh(authorized_keys=("ssh-ed25519 AAAA operator",)),
)  # fmt: skip


WHOLE = """\
apiVersion: keystone/v1alpha1
kind: Site
metadata: {name: plant}
spec:
  networks: {nodes: 10.77.0.0/24}
  storage: {layout: single}
  primers: [{name: p1, address: 10.77.0.11, disks: [{serial: A}]}]
"""


@pytest.fixture(scope="module")
def made() -> dict[str, dict[str, str]]:
    return {
        name: dict(files) for name, files in introduction.make(SITE, "sha256:ab", "open").items()
    }


def test_openssh_reads_each_host_key_and_known_hosts_has_it(
    made: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    for node in SITE.primers:
        file = tmp_path / node.name
        file.write_text(made[node.name][introduction.HOST_KEY])
        file.chmod(0o600)
        shown = run.run(["ssh-keygen", "-y", "-f", file])
        public = shown.stdout.split()[:2]
        assert f"{node.address} {' '.join(public)}\n" in made["p1"][introduction.KNOWN_HOSTS]


def test_only_first_primer_has_client_key_and_all_primers_accept_it(
    made: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    holders = [name for name, files in made.items() if introduction.CLIENT_KEY in files]
    assert holders == ["p1"]
    file = tmp_path / "key"
    file.write_text(made["p1"][introduction.CLIENT_KEY])
    file.chmod(0o600)
    shown = run.run(["ssh-keygen", "-y", "-f", file])
    for files in made.values():
        assert files[introduction.ALLOWED].startswith(" ".join(shown.stdout.split()[:2]))


def test_known_hosts_has_port_unless_22() -> None:
    found = introduction.make(replace(SITE, ssh=Ssh(port=2222)), "", "")
    assert found["p1"][introduction.KNOWN_HOSTS].startswith("[10.77.0.11]:2222 ssh-ed25519 ")
    assert introduction.FINGERPRINT not in found["p1"]


def test_introductions_saved_once_with_mode_0600(
    made: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    place = introduction.save(made, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["introductions"]
    assert {path.stat().st_mode & 0o777 for path in place.rglob("*") if path.is_file()} == {0o600}
    with pytest.raises(RefusedError, match="exists already"):
        introduction.save(made, tmp_path)


def test_primer_reads_own_files_and_state_has_them(
    made: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    introduction.save(made, tmp_path)
    first = introduction.read(tmp_path / "site.yaml", P1)
    assert first == made["p1"]
    files = introduction.state(SITE, first, "the site")
    assert files["etc/keystone/site.yaml"] == ("the site", 0o644)
    assert files["etc/keystone/passphrase"] == ("open\n", 0o600)
    assert files["root/.ssh/id_ed25519"][1] == 0o600
    keys, mode = files["root/.ssh/authorized_keys"]
    assert (keys.splitlines()[0], mode) == ("ssh-ed25519 AAAA operator", 0o600)
    assert len(keys.splitlines()) == 2
    other = introduction.state(SITE, introduction.read(tmp_path / "site.yaml", P2), "")
    assert not {name for name in other if name.startswith("etc/keystone/")}
    assert "root/.ssh/id_ed25519" not in other


def test_no_introductions_add_nothing(tmp_path: Path) -> None:
    assert introduction.read(tmp_path / "site.yaml", P1) == {}
    assert introduction.state(SITE, {}, "the site") == {}


def test_introductions_without_primer_or_with_unknown_file_refused(
    made: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    place = introduction.save(made, tmp_path)
    with pytest.raises(ConfigurationError, match="no introduction for p9"):
        introduction.read(tmp_path / "site.yaml", replace(P1, name="p9"))
    (place / "p1" / "shadow").write_text("root::0:0::/root:/bin/sh")
    with pytest.raises(ConfigurationError, match="shadow"):
        introduction.read(tmp_path / "site.yaml", P1)


def test_files_of_desktop_ignored_and_damaged_file_named(
    made: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    place = introduction.save(made, tmp_path)
    (place / "p1/.DS_Store").write_bytes(b"\x00\xff")
    assert introduction.read(tmp_path / "site.yaml", P1) == made["p1"]
    (place / "p1" / introduction.HOST_KEY).write_bytes(b"\x00\xff")
    with pytest.raises(ConfigurationError, match=f"{introduction.HOST_KEY}: not a text"):
        introduction.read(tmp_path / "site.yaml", P1)


def test_passphrase_needs_site_file_that_names_it() -> None:
    found = Trust("/root/site-root.key", "/etc/keystone/passphrase")
    introduction.require_alone(replace(SITE, trust=found))
    for trust in (Trust(), replace(found, root_key_file=""), replace(found, passphrase_file="/a")):
        with pytest.raises(ConfigurationError, match="would ask for the passphrase"):
            introduction.require_alone(replace(SITE, trust=trust))


def test_equal_site_files_prefer_one_with_introductions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bare, known = tmp_path / "medium/keystone", tmp_path / "sda1"
    (known / introduction.FOLDER).mkdir(parents=True)
    bare.mkdir(parents=True)
    monkeypatch.setattr(discover, "RUN", tmp_path)
    monkeypatch.setattr(discover, "_labelled", lambda _: [known])
    for place in (bare, known):
        (place / "site.yaml").write_text("a")
    assert discover.site_file() == known / "site.yaml"


def test_site_installed_by_hand_recorded_as_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(first_start, "CONFIG", tmp_path)
    monkeypatch.setattr(first_start, "DONE", tmp_path / "installed")
    first_start.by_hand()
    assert not first_start.DONE.exists()
    (tmp_path / "site.yaml").write_text("a")
    first_start.by_hand()
    assert first_start.DONE.exists()


def test_one_bundle_found_and_two_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one, two = tmp_path / "sda1", tmp_path / "sdb1"
    monkeypatch.setattr(discover, "RUN", tmp_path / "run")
    monkeypatch.setattr(
        discover, "_labelled", lambda label: [one, two] if label is discover.STICK else []
    )
    one.mkdir()
    two.mkdir()
    assert discover.bundle_file() is None
    (one / "offline.tar").write_text("a")
    assert discover.bundle_file() == one / "offline.tar"
    (two / "offline.tar").write_text("a")
    with pytest.raises(RefusedError, match="2 bundles"):
        discover.bundle_file()


def test_bundle_verified_before_disk_of_first_primer_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "offline.tar"
    monkeypatch.setattr(discover, "bundle_file", lambda: None)
    unattended.require_bundle("ab" * 32)  # the first start waits for one
    monkeypatch.setattr(discover, "bundle_file", lambda: file)
    file.write_bytes(b"one")
    unattended.require_bundle("")  # nobody confirmed its fingerprint: a person installs it
    with pytest.raises(DamagedBundleError, match="truncated"):
        unattended.require_bundle("ab" * 32)


def test_files_carried_on_iso_checked_when_it_is_built(
    made: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    freight.require_valid(tmp_path)
    (tmp_path / "site.yaml").write_text("apiVersion: keystone/v1alpha1\nkind: Sight\n")
    with pytest.raises(ConfigurationError, match=r"site\.yaml"):
        freight.require_valid(tmp_path)
    (tmp_path / "site.yaml").write_text(WHOLE)
    introduction.save(made, tmp_path)
    freight.require_valid(tmp_path)
    (tmp_path / "offline.tar").write_bytes(b"one")
    with pytest.raises(DamagedBundleError, match="truncated"):
        freight.require_valid(tmp_path)
    (tmp_path / "offline.tar").unlink()
    (tmp_path / "join.yaml").write_text("kind: Join\n")
    with pytest.raises(ConfigurationError, match=r"join\.yaml"):
        freight.require_valid(tmp_path)


class Late(Host):
    """Answers from the third command on, or never."""

    commands = 0
    after = 2

    def run(self, *_args: object, **_options: object) -> Result:
        type(self).commands += 1
        if self.commands <= self.after:
            raise HostError(f"{self.name}: cannot be reached")
        return Result((), 0, "", "", 0)


def test_wait_for_hosts_ends_when_all_answer_or_names_missing_ones() -> None:
    class Never(Late):
        after = 1 << 30

    now = [0.0]

    def pause(seconds: float) -> None:
        now[0] += seconds

    first_start.wait_for({"p2": Late("p2", "10.77.0.12")}, lambda: now[0], pause)
    assert now[0] == 2 * first_start.PAUSE
    with pytest.raises(HostError, match="timed out after 120 minutes: p3 did not answer"):
        first_start.wait_for({"p3": Never("p3", "10.77.0.13")}, lambda: now[0], pause)
