"""Three Primers: refusals first, then an installation that is killed again and again, up to the
quorum and what answers joining workers.

The tests run in the order of this file and share one lab: each looks at what the one before left.
What comes after the quorum is `test_install.py`'s.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keystone.lab import demo

from . import rig as rigs
from .rig import NVME, Rig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystone.lab.carry import Carried

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

PRIMERS = ("p1", "p2", "p3")
CUTS = {
    "trust": "KILL",
    "time": "KILL",
    "storage": "INT",
    "store": "KILL",
    "etcd": "KILL",
    "join service": "KILL",
}
"""Phases in the middle of which the installer is cut, and how; INT is what Ctrl-C sends. Each run
goes further than the last."""
FOREIGN_POOL = Path(__file__).with_name("foreign_pool.py").read_text()
PARTITION_TABLE = (
    "import struct, sys\n"
    "with open(sys.argv[1], 'r+b') as disk:\n"
    "    disk.seek(446)\n"
    "    disk.write(struct.pack('<B3sB3sII', 0, bytes(3), 0x83, bytes(3), 2048, 65536))\n"
    "    disk.seek(510)\n"
    "    disk.write(b'\\x55\\xaa')\n"
)
"""A master boot record with one Linux partition."""

WITHOUT_CERTIFICATE = """
import socket, ssl
context = ssl.create_default_context(cafile="/etc/etcd/pki/peer-ca.crt")
with socket.create_connection(("127.0.0.1", 2379), timeout=60) as plain:
    try:
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
            secure.sendall(b"GET /health HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
            print("answered:", secure.recv(100))
    except ssl.SSLError as error:
        print("refused:", error)
"""
"""In TLS 1.3 the server asks for the certificate after the client believes itself connected."""


@pytest.fixture(scope="module")
def rig(bundle: Carried) -> Iterator[Rig]:
    with rigs.started("quorum", bundle, PRIMERS) as ready:
        yield ready


def untouched(rig: Rig) -> dict[str, str]:
    """What a refusal must leave as it was, on every Primer."""
    look = (
        "find /etc /usr /var/lib /opt -xdev -newer /proc/1 -type f -not -path '/var/lib/systemd/*' "
        "| sort; lsblk -no NAME,FSTYPE,PTTYPE; ls /var/lib/keystone 2>&1"
    )
    return {name: rig.sh(name, look, check=False) for name in PRIMERS}


def test_disks_that_hold_something_are_refused_by_serial(rig: Rig) -> None:
    rig.machine("p1").host().run(["python3", "-", f"{NVME}KEYP1B"], data=PARTITION_TABLE)
    rig.sh("p1", f"blockdev --rereadpt {NVME}KEYP1B; udevadm settle")
    rig.sh("p2", f"mkfs.ext4 -q -F {NVME}KEYP2A 64M")
    rig.machine("p3").host().run(["python3", "-", f"{NVME}KEYP3B"], data=FOREIGN_POOL)
    rig.sh("p3", "udevadm trigger --subsystem-match=block && udevadm settle --timeout=60")
    before = untouched(rig)
    result = rig.install("--yes")
    said = result.stdout + result.stderr
    assert result.returncode == 7, said
    for serial in ("KEYP1B", "KEYP2A", "KEYP3B"):
        assert serial in said
    assert "ext4" in said
    assert "dos" in said
    assert "theirs" in said
    assert untouched(rig) == before
    for name, serial in (("p1", "KEYP1B"), ("p2", "KEYP2A"), ("p3", "KEYP3B")):
        rig.sh(
            name,
            f"wipefs -qa {NVME}{serial}; blockdev --rereadpt {NVME}{serial} || :; "
            f"dd if=/dev/zero of={NVME}{serial} bs=1M count=8 status=none; udevadm settle",
        )


def test_hosts_that_are_not_fit_are_named_all_at_once(rig: Rig) -> None:
    rig.sh(
        "p2",
        "dd if=/dev/zero of=/swap bs=1M count=64 status=none; chmod 600 /swap; "
        "mkswap -q /swap; swapon /swap; "
        "fallocate -l $(($(stat -fc '%a*%S' /) - 100 * 1024 * 1024)) /fill",
    )
    rig.sh("p3", "date -s '+1 year'")
    document = demo.site_document(rig.lab, list(PRIMERS))
    document["spec"]["primers"][1]["controlPlane"] = True  # type: ignore[index]
    rig.machine("p1").host().run(["sh", "-c", "cat > /root/big.yaml"], data=json.dumps(document))
    try:
        before = untouched(rig)
        result = rig.install("--yes", site="/root/big.yaml")
        said = result.stdout + result.stderr
        assert result.returncode == 6, said
        for word in ("swap", "memory", "clock", "free"):
            assert word in said, f"{word} is not named in: {said}"
        assert untouched(rig) == before
    finally:
        rig.sh("p2", "swapoff -a; rm -f /swap /fill")
        rig.sh("p3", "date -s '-1 year'")


def test_a_host_that_does_not_answer_is_named(rig: Rig) -> None:
    document = json.dumps(demo.site_document(rig.lab, list(PRIMERS)))
    other = document.replace("10.77.0.13", "10.77.0.99")
    rig.machine("p1").host().run(["sh", "-c", "cat > /root/dead.yaml"], data=other)
    before = untouched(rig)
    result = rig.install("--yes", site="/root/dead.yaml")
    assert result.returncode == 8, result.stderr
    assert "10.77.0.99" in result.stderr
    assert untouched(rig) == before


@pytest.mark.parametrize(("phase", "signal"), CUTS.items())
def test_a_run_that_is_cut(rig: Rig, phase: str, signal: str) -> None:
    rigs.cut(rig, phase, signal)


def test_three_etcd_members_healthy_over_tls_and_nobody_without_a_certificate(rig: Rig) -> None:
    pki = "/etc/etcd/pki"
    base = "etcdctl --endpoints https://127.0.0.1:2379 --command-timeout=60s"
    certs = f"--cacert {pki}/peer-ca.crt --cert {pki}/client.crt --key {pki}/client.key"
    health = rig.sh("p1", f"{base} {certs} endpoint health --cluster -w json")
    assert [entry["health"] for entry in json.loads(health)] == [True] * 3
    bare = f"{base} --cacert {pki}/peer-ca.crt endpoint health"
    assert rig.machine("p1").host().run(shlex.split(bare), check=False).returncode != 0
    said = rig.machine("p1").host().run(["python3", "-"], data=WITHOUT_CERTIFICATE).stdout
    assert "certificate required" in said.lower().replace("_", " ")


@pytest.mark.parametrize("name", PRIMERS)
def test_the_pool_is_online_by_id_with_ashift_12(rig: Rig, name: str) -> None:
    rigs.assert_pool(rig, name)


def test_clocks_are_fed_by_the_first_primer(rig: Rig) -> None:
    for name in PRIMERS[1:]:
        rigs.assert_clock(rig, name)


def test_nothing_tried_to_get_out(rig: Rig) -> None:
    rigs.assert_no_leak(rig)
