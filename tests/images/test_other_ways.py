"""Disk images with credentials, network boot, and Secure Boot."""

from __future__ import annotations

import base64
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.netns import nginx
from tests.netns.conftest import render

from keystone.ansible.roles import mirror
from keystone.appliance import netboot
from keystone.bundle.model import Manifest
from keystone.cluster.context import Context
from keystone.lab.machines import qemu
from keystone.run import run, spawned
from keystone.site import model as site

from .bench import KEYSTONE, ROOT, free_port, written

if TYPE_CHECKING:
    from collections.abc import Callable

    from .bench import Bench
    from .machine import Machine

pytestmark = [pytest.mark.images, pytest.mark.timeout(3600)]
WITHOUT_SIGNATURE = """
import lzma, pathlib, sys
content = pathlib.Path(sys.argv[1]).read_bytes()
content = lzma.decompress(content) if sys.argv[1].endswith(".xz") else content
end = b"~Module signature appended~\\n"
assert content.endswith(end)
size = int.from_bytes(content[-len(end) - 4 : -len(end)], "big")
pathlib.Path(sys.argv[2]).write_bytes(content[: -len(end) - 12 - size])
"""
"""struct module_signature of the kernel's include/linux/module_signature.h: 12 bytes, size last."""
NETWORK = "[Match]\nType=ether\n\n[Network]\nAddress=10.77.0.11/24\n"


def credentials(**values: str) -> tuple[str, ...]:
    words: list[str] = []
    for name, text in values.items():
        value = base64.b64encode(text.encode()).decode()
        credential = f"io.systemd.credential.binary:{name}={value}"
        words += ["-smbios", f"type=11,value={credential}"]
    return tuple(words)


def test_disk_image_gets_identity_from_credentials_and_fills_disk(
    bench: Bench, build: Callable[..., Path]
) -> None:
    ids = set()
    image = build("raw")
    for number in (1, 2):
        disk = bench.disk(f"RAW{number}")
        shutil.copyfile(image, disk.file)
        with disk.file.open("r+b") as file:
            file.truncate(12 << 30)
        port = free_port()
        machine = bench.machine(f"raw{number}", port=port, disks=[disk])
        machine.extra = credentials(
            **{
                "system.hostname": f"n{number}",
                "network.network.05-own": NETWORK,
                "ssh.authorized_keys.root": bench.public + "\n",
            }
        )
        with machine:
            print(f"raw: {machine.hear(f'n{number} login:'):.0f} s to the login")
            host = bench.login(port)
            ids.add(
                host.run(["cat", "/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub"]).stdout
            )
            ids.add(host.run(["hostid"]).stdout)
            size = host.run(["df", "--output=size", "-BG", "/var"]).stdout.split()[-1]
            assert int(size.rstrip("G")) >= 6
            assert host.run(["passwd", "--status", "root"]).stdout.split()[1] == "L"
    assert len(ids) == 4


def test_network_boot_installs_primer_on_blank_machine(
    bench: Bench, build: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """QEMU's DHCP sends the URL of the script to its iPXE; nginx serves it as on a Primer.

    The kernel command line names the site file, as after `image serve --site`.
    """
    served, port = bench.folder / "boot", free_port()
    served.mkdir()
    with build("pxe").open("rb") as source:
        netboot.unpack(source, "pxe", served)
    site_file = bench.folder / "site.yaml"
    site_file.write_text(bench.site() + "  networkBoot: true\n")
    wanted = site.load(site_file)
    netboot.add_site(site_file.read_bytes(), served)
    rendered = render("mirror", "keystone.conf.j2", {
        **mirror.variables(Context(wanted, wanted.primers[0], Manifest("none", 1, ()))),
        "mirror_boot_port": f"127.0.0.1:{port}", "mirror_boot_dir": str(served),
    })  # fmt: skip
    plain = rendered[rendered.rindex("server {") :]  # the other server needs a certificate
    machine = bench.machine(firmware="bios", disks=bench.disks(), memory=2048)
    program = nginx.program(lambda: tmp_path_factory.mktemp("nginx"))
    with spawned(nginx.command(program, bench.folder, plain)):
        script = f"http://10.77.0.2:{port}/boot/boot.ipxe"
        machine.network = (
            "-nic",
            f"user,net=10.77.0.0/24,model=virtio-net-pci,mac={{mac}},bootfile={script}",
        )
        machine.extra = ("-boot", "n", "-no-reboot")
        with machine:
            print(
                f"pxe: {machine.hear(r'fetching .*site.yaml'):.0f} s to the system's first message"
            )
            took = machine.hear(r"Done: p1 starts from disk SYS1")
            print(f"pxe: {took:.0f} s to the end of the writing")
            machine.ended()


def test_pcr_of_tpm_equals_value_computed_by_build(
    bench: Bench, build: Callable[..., Path]
) -> None:
    """The same kernel image is measured when started from the medium and from the disk."""
    iso, port = build(), free_port()
    expected = json.loads(iso.with_suffix(".json").read_text())["pcr11"]
    machine = bench.machine(port=port, disks=bench.disks(), cd=iso)
    machine.tpm = True
    with machine:
        machine.wait("PCR 11 " + expected[:12], "Continue")
    machine.usb = (bench.stick({"site.yaml": bench.site()}),)
    written(machine)
    with machine:
        machine.hear(r"p1 login:")
        status = bench.login(port).run(["keystone-install", "image", "status"]).stdout
        assert expected in status
        assert bench.login(port).run(["systemctl", "--failed", "--no-legend"]).stdout == ""


@pytest.fixture
def keys(bench: Bench) -> Path:
    folder = bench.folder / "keys"
    run([*KEYSTONE, "image", "keys", folder, "--name", "Plant"], cwd=ROOT)
    return folder


@pytest.fixture
def enrolled(bench: Bench, keys: Path) -> Path:
    """UEFI variables in which the keys are enrolled."""
    made = bench.folder / "enrolled.fd"
    owner = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
    run([
        Path(sys.executable).with_name("virt-fw-vars"),
        "--input", qemu.OVMF_VARS, "--output", made,
        "--set-pk", owner, keys / "PK.pem", "--add-kek", owner, keys / "KEK.pem",
        "--add-db", owner, keys / "db.pem", "--secure-boot",
    ])  # fmt: skip
    return made


def test_secure_boot_starts_signed_system_and_refuses_unsigned_module(
    bench: Bench, build: Callable[..., Path], keys: Path, enrolled: Path
) -> None:
    iso = build("iso", keys)
    port = free_port()
    machine = bench.machine(port=port, firmware="secure", variables=enrolled, disks=bench.disks())
    machine.cd, machine.usb = iso, (bench.stick({"site.yaml": bench.site()}),)
    written(machine)
    with machine:
        machine.hear(r"p1 login:")
        host = bench.login(port)
        state = host.run(["bootctl", "status", "--no-pager"]).stdout
        assert "Secure Boot: enabled" in state
        (module,) = host.run(["modinfo", "-n", "spl"]).stdout.split()
        host.run(["python3", "-c", WITHOUT_SIGNATURE, module, "/tmp/spl.ko"])
        refused = host.run(["insmod", "/tmp/spl.ko"], check=False)
        assert "rejected" in refused.stderr or "not permitted" in refused.stderr
        host.run(["modprobe", "spl"])


def test_secure_boot_refuses_unsigned_and_changed_media(
    bench: Bench, build: Callable[..., Path], keys: Path, enrolled: Path
) -> None:
    """One medium has no signature, one a changed command line. No disk could start instead."""
    iso = build("iso", keys)
    unsigned = bench.machine("unsigned", firmware="secure", variables=enrolled, cd=build())
    with unsigned:
        is_refused(unsigned)
    altered = bench.folder / "altered.iso"
    shutil.copyfile(iso, altered)
    other_command_line(altered)
    changed = bench.machine("changed", firmware="secure", variables=enrolled, cd=altered)
    with changed:
        is_refused(changed)


def is_refused(machine: Machine) -> None:
    """Assert that firmware refuses the medium, and that no kernel of ours prints anything."""
    machine.hear(r"Access Denied|Security Violation")
    with pytest.raises(pytest.fail.Exception, match=r"no keystone|the machine ended"):
        machine.hear(r"keystone|Keystone|Linux version", within=60)


def other_command_line(iso: Path) -> None:
    """Change one letter of the command line everywhere in the ISO, also in the signed image."""
    content, line = iso.read_bytes(), b"boot=keystone keystone.root="
    assert content.count(line) > 1
    iso.write_bytes(content.replace(line, line.replace(b"keystone ", b"keystona ")))
