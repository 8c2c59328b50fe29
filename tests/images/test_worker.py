"""Install a worker from the medium: unattended by join.yaml on a stick, and by a person."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from keystone.join import join_yaml, script, tokens
from keystone.run import Host, run

from .bench import NETWORK, free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .bench import Bench
    from .machine import Machine

pytestmark = [pytest.mark.images, pytest.mark.timeout(3600)]
ENTER, DOWN = "\r", "\x1b[B"
PRIMER, ADDRESS = "10.77.0.11", "10.77.0.21"
JOIN = """\
apiVersion: keystone/v1alpha1
kind: Join
metadata: {{name: plant}}
spec:
  ca: |
    {ca}
  networks: {{nodes: 10.77.0.0/24}}
  ssh: {{authorizedKeys: ["{key}"]}}
  workers:
    - token: {token}
      server: https://10.77.0.11:8444
      {about}
"""


def authority() -> str:
    """The certificate of a CA without a Primer."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "site CA")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now).not_valid_after(now + dt.timedelta(days=9))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    return made.public_bytes(serialization.Encoding.PEM).decode()


def invitation(bench: Bench, *about: str) -> str:
    """The text of a join.yaml; about: lines that describe the machine."""
    ca = authority()
    token, _ = tokens.new("worker", script.pin(ca), now=0, ttl=3600)
    text = JOIN.format(
        ca=ca.strip().replace("\n", "\n    "), key=bench.public, token=token,
        about="\n      ".join(about),
    )  # fmt: skip
    assert join_yaml.parse(text).name == "plant"
    return text


def machine_of(bench: Bench, port: int, forward: str = ADDRESS) -> Machine:
    """A blank machine with one disk, whose ssh is at `port` of this host's loopback."""
    machine = bench.machine("w1", disks=[bench.disk("SYS1")])
    nic = f"user,restrict=on,net={NETWORK},model=virtio-net-pci,mac={{mac}}"
    machine.network = ("-nic", f"{nic},hostfwd=tcp:127.0.0.1:{port}-{forward}:22")
    return machine


def assert_waiting_worker(bench: Bench, machine: Machine, port: int) -> Host:
    """Assert that the disk starts with name, network and token, and retries to reach a Primer."""
    machine.hear(r"w1 login:")
    host = bench.login(port)
    assert host.run(["hostname"]).stdout.strip() == "w1"
    assert host.run(["cat", "/run/keystone/from"]).stdout.strip() == "disk"
    listed = host.run(["stat", "-c", "%a", "/etc/keystone/join.yaml"]).stdout.strip()
    assert listed == "600"
    kept = join_yaml.parse(host.run(["cat", "/etc/keystone/join.yaml"]).stdout)
    assert [worker.name for worker in kept.workers] == ["w1"]
    unit = host.run(["systemctl", "show", "-P", "ActiveState", "keystone-continue"]).stdout.strip()
    assert unit == "activating"
    assert host.run(["systemctl", "--failed", "--no-legend", "--plain"]).stdout == ""

    def retries() -> bool:
        log = host.run(["journalctl", "-b", "-u", "keystone-continue", "--no-pager"]).stdout
        return f"https://{PRIMER}:8444:" in log and "trying again" in log

    machine.becomes(retries, "message of keystone-continue about its Primer", 900)
    return host


def test_join_file_on_stick_installs_worker_unattended(
    bench: Bench, build: Callable[..., Path]
) -> None:
    text = invitation(
        bench, "name: w1", f"address: {ADDRESS}", "machine: {serial: M1}", "systemDisk: SYS1"
    )
    port = free_port()
    machine = machine_of(bench, port)
    machine.cd, machine.usb = build(), (bench.stick({"join.yaml": text}),)
    machine.extra = ("-no-reboot",)
    with machine:
        took = machine.hear(r"Done: w1 starts from disk SYS1")
        print(f"{took:.0f} s to the end of the writing")
        machine.ended()
    machine.cd, machine.usb, machine.extra = None, (), ()
    with machine:
        host = assert_waiting_worker(bench, machine, port)
        shown = host.run(["ip", "-4", "-o", "address", "show", "scope", "global"]).stdout
        assert f" {ADDRESS}/24 " in shown
        # If killed, systemd restarts it: it retries, and the unit does not fail permanently.
        host.run(["systemctl", "kill", "--signal=KILL", "keystone-continue"])

        def again() -> bool:
            unit = ["systemctl", "show", "-P", "NRestarts", "keystone-continue"]
            return host.run(unit).stdout.strip() not in {"", "0"}

        machine.becomes(again, "second start of keystone-continue", 900)


def test_person_installs_worker_with_dhcp(bench: Bench, build: Callable[..., Path]) -> None:
    # QEMU's DHCP gives the first client 10.77.0.15.
    text, port = invitation(bench, 'expires: "2099-01-01 00:00Z"'), free_port()
    machine = machine_of(bench, port, "10.77.0.15")
    stick = bench.stick({"join.yaml": text})
    machine.cd, machine.usb, machine.extra = build(), (stick,), ("-no-reboot",)
    with machine:
        machine.wait("This machine: serial number M1", "SYS1", "Continue")
        machine.type(ENTER)
        machine.wait("Role of this machine", "> a worker")
        machine.type(ENTER)
        machine.wait("address empty for DHCP")
        machine.type("w1", ENTER, ENTER)
        machine.wait("Keystone's system is written to this disk", "> SYS1")
        machine.type(ENTER)
        machine.wait("Review", "w1, address from DHCP", "all of disk SYS1", "> only save this")
        machine.type(DOWN, ENTER)
        machine.wait("Done", "Restart")
        machine.type(ENTER)
        machine.ended()
    machine.cd, machine.usb, machine.extra = None, (), ()
    (noted,) = join_yaml.parse(run(["mtype", "-i", stick, "::join.yaml"]).stdout).workers
    assert noted.machine is not None
    assert (noted.name, noted.machine.serial, noted.system_disk) == ("w1", "M1", "SYS1")
    with machine:
        assert_waiting_worker(bench, machine, port)


def test_join_file_without_machine_installs_nothing_unattended(
    bench: Bench, build: Callable[..., Path]
) -> None:
    machine = machine_of(bench, free_port())
    machine.cd, machine.usb = build(), (bench.stick({"join.yaml": invitation(bench)}),)
    with machine:
        machine.wait("This machine: serial number M1", "Continue")
    assert all(disk.file.stat().st_blocks == 0 for disk in machine.disks)
