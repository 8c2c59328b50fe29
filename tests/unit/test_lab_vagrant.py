"""lab/Vagrantfile describes the machines of qemu.py a second time: what can be compared, is."""

from __future__ import annotations

import re

from keystone.lab import qemu, settings

VAGRANTFILE = (settings.checkout() / "lab/Vagrantfile").read_text()
RENAMED = {"pclmuldq": "pclmulqdq"}
"""Features of a processor that libvirt calls otherwise than QEMU."""


def test_vagrant_gives_machines_the_credentials_that_the_lab_gives() -> None:
    lab = settings.load()
    # Vagrant has keys of its own, and looks at no machine's.
    ours = qemu.credentials(lab, lab.machines[0], "ssh-ed25519 AAAA", "")
    wanted = set(ours) - {"tmpfiles.extra"}
    given = set(re.findall(r'credential\("([^"]+)"', VAGRANTFILE))
    assert given == wanted | {"network.network.06-host"}


def test_vagrant_emulates_the_processor_of_the_lab() -> None:
    model = re.search(r'cpu_model = "(\w+)"', VAGRANTFILE)
    features = re.search(r"%w\[([^\]]+)\]\.each do \|feature\|", VAGRANTFILE)
    assert model
    assert features
    names = [RENAMED.get(name, name) for name in features[1].split()]
    assert ",+".join([model[1], *names]) == qemu.EMULATED_CPU


def test_vagrant_takes_the_firmware_and_serial_numbers_of_the_lab() -> None:
    machine = settings.load().machines[0]
    assert f'"{qemu.OVMF_CODE}"' in VAGRANTFILE
    assert f'"{qemu.OVMF_VARS}"' in VAGRANTFILE
    assert "%w[A B]" in VAGRANTFILE
    assert 'serial = "KEY#{name.upcase}#{letter}"' in VAGRANTFILE
    assert f'format("{machine.mac[:-2]}%02x", last)' in VAGRANTFILE
