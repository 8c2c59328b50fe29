"""Who answers at a Primer's address: real sshd on two machines, asked by the program itself.

It runs in the lab's own network, where 10.77.0.1 is this host: the first Primer of these sites.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from keystone import host_keys, run
from keystone.ansible import playbook
from keystone.install import reach
from keystone.lab import network

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from keystone.lab.machines import Lab

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
"""Nothing is written where this host would find it."""


@pytest.fixture
def status(lab: Lab, tmp_path: Path) -> Callable[..., run.Result]:
    """`status` of a site of this host, p1 and w1. keys: of p1 and w1; known: our known_hosts."""

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


def test_a_key_that_nobody_vouches_for_is_refused_with_the_words_to_write(
    lab: Lab, status: Callable[..., run.Result]
) -> None:
    done = status()
    assert done.returncode == 7
    for number, name in enumerate(("p1", "w1"), 1):
        line = lab.place.host_line(name)
        assert f"nobody vouches for its SSH host key {host_keys.fingerprint(line)}" in done.stderr
        assert f"    primers[{number}].hostKey: {line}\n" in done.stderr


@pytest.mark.parametrize("form", [host_keys.key, host_keys.fingerprint])
def test_keys_of_the_site_file_are_enough(
    lab: Lab, status: Callable[..., run.Result], form: Callable[[str], str]
) -> None:
    done = status(*(form(lab.place.host_line(name)) for name in ("p1", "w1")))
    assert done.returncode == 0, done.stderr
    assert {"desk", "p1", "w1"} <= set(done.stdout.split())


def test_so_are_those_of_an_introduction(lab: Lab, status: Callable[..., run.Result]) -> None:
    done = status(known=lab.place.known_hosts.read_text())
    assert done.returncode == 0, done.stderr


def test_another_key_is_an_error_in_three_plain_lines(
    lab: Lab, status: Callable[..., run.Result]
) -> None:
    own, others = (lab.place.host_line(name) for name in ("p1", "w1"))
    for wrong in (others, host_keys.fingerprint(others)):
        done = status(wrong, others)
        assert done.returncode == 8
        said = done.stderr.splitlines()
        assert said[0].startswith("error: p1 (10.77.0.11): answers with another SSH host key")
        expected, seen = host_keys.fingerprint(others), host_keys.fingerprint(own)
        assert said[1] == f"  expected {expected}, seen {seen}"
        assert said[2].startswith("  next: ")
        assert len(said) == 3


def test_ansible_speaks_to_the_known_only(lab: Lab, tmp_path: Path) -> None:
    own, others = (lab.place.host_line(name) for name in ("p1", "w1"))
    for key, code in ((own, 0), (others, 4)):
        known = tmp_path / "known_hosts"
        known.write_text(f"10.77.0.11 {key}\n")
        # Without a connection that is kept from the first round.
        host = run.Host(
            "p1", "10.77.0.11", key_file=str(lab.key), known_hosts=str(known),
            options=("-o", "ControlPath=none"),
        )  # fmt: skip
        told = playbook.inventory({"p1": playbook.HostVars(host)})
        (tmp_path / "inventory.json").write_text(json.dumps(told))
        done = run.run(
            [*network.prefix(lab.settings), sys.executable, "-m", "ansible", "adhoc", "p1",
             "-i", tmp_path / "inventory.json", "-m", "ansible.builtin.raw", "-a", "true"],
            env={"ANSIBLE_CONFIG": str(playbook.data_root() / "playbooks/ansible.cfg"),
                 "HOME": str(tmp_path)}, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        assert known.read_text() == f"10.77.0.11 {key}\n"


def test_a_key_of_before_does_not_outweigh_the_site_file(
    lab: Lab, status: Callable[..., run.Result]
) -> None:
    """The site file's word holds, whatever was confirmed earlier."""
    own, others = (lab.place.host_line(name) for name in ("p1", "w1"))
    done = status(others, others, known=f"10.77.0.11 {own}\n")
    assert done.returncode == 8
    assert str(reach.KNOWN) == "/etc/keystone/known_hosts"
