"""Certificates that nobody renews by hand: each Primer renews its own, one after another.

The tests run in the order of this file and share one lab: each looks at what the one before left.
"""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from tests.life import figures, machine_load

from keystone import log
from keystone.lab import nodes
from keystone.lab.machines.machine import becomes

from . import rig as rigs
from .rig import Rig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.life.machine_load import MachineLoad

    from keystone.lab.carry import Carried

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

PRIMERS = ("p1", "p2", "p3")
LEAVES = "/etc/etcd/pki/server.crt /etc/keystone/pki/site.crt"
KUBEADM = "/etc/kubernetes/pki/apiserver.crt"
TREE = "/var/lib/keystone/pki"
SITE = "/var/lib/keystone/site.yaml"
LIFETIME = 480
"""Seconds. By it all is due that was issued two minutes ago: certificates start ten in the past."""

LIFETIMES = int(os.environ.get("KEYSTONE_LIFETIMES", "1"))
"""How long a site is left alone: one is a short form of three."""


@pytest.fixture(scope="module")
def rig(bundle: Carried) -> Iterator[Rig]:
    with rigs.started("trust", bundle, PRIMERS) as ready:
        yield ready


def test_site_is_installed(rig: Rig) -> None:
    done = rig.install("--yes")
    assert done.returncode == 0, done.stderr


def test_every_primer_has_the_tree_and_no_root_key(rig: Rig) -> None:
    for name in PRIMERS:
        assert rig.sh(name, f"stat -c %a {TREE}").strip() == "700"
        assert "valid" in rig.sh(name, "keystone-install trust verify 2>&1")
        key = f"sha256sum {TREE}/site.key"
        assert rig.sh(name, key) == rig.sh("p1", key)
    assert rig.sh("p2", "grep -rl 'BEGIN ENCRYPTED' /var/lib/keystone /etc/keystone || true") == ""


def test_nothing_is_due_on_a_new_site(rig: Rig) -> None:
    assert "no certificate is due" in rig.sh("p1", "keystone-install trust renew 2>&1")


def test_all_primers_renew_at_once_one_after_another(rig: Rig) -> None:
    """Their site file gets a shorter lifetime, by which every certificate is due."""
    before = {name: serials(rig, name) for name in PRIMERS}
    for name in PRIMERS:
        rig.sh(name, f"cp {SITE} {SITE}.before")
        document = json.loads(rig.sh(name, f"cat {SITE}"))
        document["spec"]["trust"]["certificateLifetime"] = f"{LIFETIME // 60}m"
        host = rig.machine(name).host()
        host.run(["sh", "-c", f"cat > {SITE}"], data=json.dumps(document))
    load = machine_load.api(rig.machine("p1").host())
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: maintain(rig, name), PRIMERS))
    assert_all_was_answered(load, "renewal-failed")
    for name in PRIMERS:
        assert_renewed(rig, name, before[name])
    assert_healthy(rig)


def test_site_left_alone_for_lifetimes_goes_on(rig: Rig) -> None:
    """Timers renew by themselves, and one Primer waits for another."""
    load = machine_load.api(rig.machine("p1").host())
    end = time.monotonic() + LIFETIMES * LIFETIME
    while time.monotonic() < end:
        before = {name: serials(rig, name) for name in PRIMERS}
        assert becomes(
            lambda seen=before: not any(seen[name] & serials(rig, name) for name in PRIMERS), 1200
        )
    assert_all_was_answered(load, "lifetimes-failed", times=LIFETIMES)
    assert_healthy(rig)


def test_next_renewal_follows_the_site_file_again(rig: Rig) -> None:
    long = f"openssl x509 -in /etc/etcd/pki/server.crt -noout -checkend {80 * 86400} || echo short"
    for name in PRIMERS:
        rig.sh(name, f"mv {SITE}.before {SITE}")
    assert becomes(lambda: not any("short" in rig.sh(name, long) for name in PRIMERS), 1200)
    assert_healthy(rig)


def test_installer_accepts_what_hosts_renewed(rig: Rig) -> None:
    """Its own tree has older leaves: the hosts keep theirs."""
    done = rig.install("--plan")
    assert "Nothing to do" in done.stdout + done.stderr


def assert_renewed(
    rig: Rig, name: str, before: set[str], files: str = f"{LEAVES} {KUBEADM}"
) -> None:
    record = report(rig, name)["certificates"]
    assert record["error"] == "", record
    assert "renewed" in record["done"]
    assert not before & serials(rig, name, files)
    for user in ("admin", "controller-manager", "scheduler"):
        rig.sh(
            name,
            f"grep client-certificate-data /etc/kubernetes/{user}.conf | cut -d: -f2 | tr -d ' ' "
            "| base64 -d | openssl x509 -noout -checkend 240",
        )


def assert_all_was_answered(load: MachineLoad, figure: str, *, times: int = 1) -> None:
    """Assert that no request to the API failed after one retry."""
    load.goes_on()
    verdict = load.end()
    log.info(f"{figure}: {verdict.line()}")
    figures.record(figure, verdict.failed, f"{verdict.requests} requests", times=times)
    assert (verdict.lost, verdict.wrong, verdict.failed) == ((), (), 0)


def assert_healthy(rig: Rig) -> None:
    nodes.wait_ready(rig.machine("p1").host(), frozenset(PRIMERS), since=time.time(), seconds=900)
    states = [
        one["state"] for one in json.loads(rig.sh("p1", "keystone-install etcd status --json"))
    ]
    assert sorted(states) == ["follower", "follower", "leader"]


def serials(rig: Rig, name: str, files: str = f"{LEAVES} {KUBEADM}") -> set[str]:
    script = f"for f in {files}; do openssl x509 -in $f -noout -serial; done"
    return set(rig.sh(name, script).split())


def maintain(rig: Rig, name: str) -> None:
    rig.sh(
        name,
        "systemctl start keystone-maintain.service || journalctl -u keystone-maintain -n 50 >&2",
    )


def report(rig: Rig, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(rig.sh(name, "cat /var/lib/keystone/maintain.json"))
    return found
