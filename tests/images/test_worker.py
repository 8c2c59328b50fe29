"""From the installer medium to a worker: alone by join.yaml on a stick, and by a person."""

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
    """A CA that nobody here has: there is no Primer."""
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


def is_a_worker_that_waits(bench: Bench, machine: Machine, port: int) -> Host:
    """Its disk starts, has its name, network and token, and asks for a Primer again and again."""
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

    def said() -> bool:
        told = host.run(["journalctl", "-b", "-u", "keystone-continue", "--no-pager"]).stdout
        return f"https://{PRIMER}:8444:" in told and "trying on" in told

    machine.becomes(said, "words of keystone-continue about its Primer", 900)
    return host


def test_a_join_file_on_a_stick_makes_a_blank_machine_a_worker_that_asks_to_join(
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
        host = is_a_worker_that_waits(bench, machine, port)
        shown = host.run(["ip", "-4", "-o", "address", "show", "scope", "global"]).stdout
        assert f" {ADDRESS}/24 " in shown
        # Ended and started again as systemd would: it asks again, and nothing has failed for ever.
        host.run(["systemctl", "kill", "--signal=KILL", "keystone-continue"])

        def again() -> bool:
            unit = ["systemctl", "show", "-P", "NRestarts", "keystone-continue"]
            return host.run(unit).stdout.strip() not in {"", "0"}

        machine.becomes(again, "second start of keystone-continue", 900)


def test_a_person_makes_a_machine_a_worker_with_dhcp(
    bench: Bench, build: Callable[..., Path]
) -> None:
    # QEMU's DHCP gives the first client 10.77.0.15.
    text, port = invitation(bench, 'expires: "2099-01-01 00:00Z"'), free_port()
    machine = machine_of(bench, port, "10.77.0.15")
    stick = bench.stick({"join.yaml": text})
    machine.cd, machine.usb, machine.extra = build(), (stick,), ("-no-reboot",)
    with machine:
        machine.wait("This machine: serial number M1", "SYS1", "Go on")
        machine.type(ENTER)
        machine.wait("What this machine is", "> a worker")
        machine.type(ENTER)
        machine.wait("Leave the address empty for")
        machine.type("w1", ENTER, ENTER)
        machine.wait("Keystone's own system is written to it", "> SYS1")
        machine.type(ENTER)
        machine.wait("Review", "w1, address of DHCP", "disk SYS1, all of it", "> only save this")
        machine.type(DOWN, ENTER)
        machine.wait("Done", "Restart")
        machine.type(ENTER)
        machine.ended()
    machine.cd, machine.usb, machine.extra = None, (), ()
    (noted,) = join_yaml.parse(run(["mtype", "-i", stick, "::join.yaml"]).stdout).workers
    assert noted.machine is not None
    assert (noted.name, noted.machine.serial, noted.system_disk) == ("w1", "M1", "SYS1")
    with machine:
        is_a_worker_that_waits(bench, machine, port)


def test_a_join_file_for_any_machine_installs_nothing_by_itself(
    bench: Bench, build: Callable[..., Path]
) -> None:
    machine = machine_of(bench, free_port())
    machine.cd, machine.usb = build(), (bench.stick({"join.yaml": invitation(bench)}),)
    with machine:
        machine.wait("This machine: serial number M1", "Go on")
    assert all(disk.file.stat().st_blocks == 0 for disk in machine.disks)
