"""Host keys of Primers: real sshd on two machines, checked by the program itself.

It runs in the lab's network, where 10.77.0.1 is this host: the first Primer of these sites.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from keystone import host_keys, run
from keystone.ansible import playbook
from keystone.errors import HostError
from keystone.install import reach
from keystone.lab.machines import network
from keystone.lab.machines.machine import becomes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from keystone.lab.machines.lab import Lab

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]

ROOM = """
mount -t tmpfs keystone /run
mkdir /run/etc /run/work
mount -t overlay -o lowerdir=/etc,upperdir=/run/etc,workdir=/run/work keystone /etc
if [ -n "$KNOWN" ]; then
  mkdir -p /etc/keystone
  printf '%s' "$KNOWN" > /etc/keystone/known_hosts
fi
exec "$@"
"""
"""Redirect all files that would be written on this host."""


@pytest.fixture
def status(lab: Lab, tmp_path: Path) -> Callable[..., run.Result]:
    """Run `status` for a site of this host, p1 and w1. keys: theirs. known: our known_hosts."""

    def call(*keys: str, known: str = "") -> run.Result:
        primers: list[dict[str, str]] = [{"name": "desk", "address": "10.77.0.1"}]
        for name, key in zip(("p1", "w1"), keys or ("", ""), strict=True):
            address = str(lab.machine(name).settings.address)
            primers.append({"name": name, "address": address, **({"hostKey": key} if key else {})})
        file = tmp_path / "site.yaml"
        file.write_text(json.dumps({
            "apiVersion": "keystone/v1alpha1", "kind": "Site", "metadata": {"name": "keys"},
            "spec": {
                "trial": True, "storage": {"layout": "directory"},
                "ssh": {"keyFile": str(lab.key)}, "networks": {"nodes": "10.77.0.0/24"},
                "primers": primers,
            },
        }))  # fmt: skip
        return run.run(
            [*network.prefix(lab.settings), "unshare", "--mount", "sh", "-euc", ROOM, "room",
             sys.executable, "-m", "keystone", "status", "--site", file],
            env={"PYTHONPATH": ":".join(sys.path), "KNOWN": known}, check=False,
        )  # fmt: skip

    return call


@pytest.fixture(autouse=True)
def unpenalized(lab: Lab) -> None:
    """Wait until no sshd holds earlier tests' failed connections against this address."""
    for name in ("p1", "w1"):
        host = lab.machine(name).host().soon()

        def answers(host: run.Host = host) -> bool:
            try:
                return host.run(["true"], check=False).returncode == 0
            except HostError:
                return False

        assert becomes(answers, 120), name


def test_unknown_host_key_is_refused_with_line_for_site_file(
    lab: Lab, status: Callable[..., run.Result]
) -> None:
    done = status()
    assert done.returncode == 7
    for number, name in enumerate(("p1", "w1"), 1):
        line = lab.place.host_line(name)
        assert f"its SSH host key {host_keys.fingerprint(line)} is not known" in done.stderr
        assert f"    primers[{number}].hostKey: {line}\n" in done.stderr


@pytest.mark.parametrize("form", [host_keys.key, host_keys.fingerprint])
def test_keys_in_the_site_file_are_accepted(
    lab: Lab, status: Callable[..., run.Result], form: Callable[[str], str]
) -> None:
    assert_accepted(status(*(form(lab.place.host_line(name)) for name in ("p1", "w1"))))


def test_keys_in_an_introduction_are_accepted(lab: Lab, status: Callable[..., run.Result]) -> None:
    assert_accepted(status(known=lab.place.known_hosts.read_text()))


def assert_accepted(done: run.Result) -> None:
    """A shell of each machine answered: it has no Keystone."""
    for name in ("p1", "w1"):
        assert f"{name} gives no report: exit code 127" in done.stdout


def test_changed_host_key_is_named_with_both_fingerprints(
    lab: Lab, status: Callable[..., run.Result]
) -> None:
    own, others = (lab.place.host_line(name) for name in ("p1", "w1"))
    for wrong in (others, host_keys.fingerprint(others)):
        done = status(wrong, others)
        assert done.returncode == 8
        expected, seen = host_keys.fingerprint(others), host_keys.fingerprint(own)
        output = " ".join((done.stdout + done.stderr).split())
        assert "answers with another SSH host key than expected" in output
        assert f"expected {expected}, seen {seen}" in output
        assert "compare the key with the one on its console" in output


def test_ansible_refuses_unknown_host_keys(lab: Lab, tmp_path: Path) -> None:
    own, others = (lab.place.host_line(name) for name in ("p1", "w1"))
    for key, code in ((own, 0), (others, 4)):
        known = tmp_path / "known_hosts"
        known.write_text(f"10.77.0.11 {key}\n")
        # Without a connection kept open from the first round.
        host = run.Host(
            "p1", "10.77.0.11", key_file=str(lab.key), known_hosts=str(known),
            options=("-o", "ControlPath=none"),
        )  # fmt: skip
        document = playbook.inventory({"p1": playbook.HostVars(host)})
        (tmp_path / "inventory.json").write_text(json.dumps(document))
        done = run.run(
            [*network.prefix(lab.settings), sys.executable, "-m", "ansible", "adhoc", "p1",
             "-i", tmp_path / "inventory.json", "-m", "ansible.builtin.raw", "-a", "true"],
            env={"ANSIBLE_CONFIG": str(playbook.data_root() / "playbooks/ansible.cfg"),
                 "HOME": str(tmp_path)}, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        assert known.read_text() == f"10.77.0.11 {key}\n"


def test_key_in_site_file_precedes_a_confirmed_key(
    lab: Lab, status: Callable[..., run.Result]
) -> None:
    """Even if another key was confirmed earlier."""
    own, others = (lab.place.host_line(name) for name in ("p1", "w1"))
    done = status(others, others, known=f"10.77.0.11 {own}\n")
    assert done.returncode == 8
    assert str(reach.KNOWN) == "/etc/keystone/known_hosts"
