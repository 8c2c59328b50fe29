"""lab/Vagrantfile describes the machines of qemu.py again: compare both where possible."""

from __future__ import annotations

import re

from keystone.lab import settings
from keystone.lab.machines import qemu

VAGRANTFILE = (settings.checkout() / "lab/Vagrantfile").read_text()
RENAMED = {"pclmuldq": "pclmulqdq"}
"""Processor features with another name in libvirt than in QEMU."""


def test_vagrant_credentials_equal_those_of_lab() -> None:
    lab = settings.load()
    # Vagrant uses keys of its own, and does not check host keys.
    ours = qemu.credentials(lab, lab.machines[0], "ssh-ed25519 AAAA", "")
    wanted = set(ours) - {"tmpfiles.extra"}
    given = set(re.findall(r'credential\("([^"]+)"', VAGRANTFILE))
    assert given == wanted | {"network.network.06-host"}


def test_vagrant_processor_equals_that_of_lab() -> None:
    model = re.search(r'cpu_model = "(\w+)"', VAGRANTFILE)
    features = re.search(r"%w\[([^\]]+)\]\.each do \|feature\|", VAGRANTFILE)
    assert model
    assert features
    names = [RENAMED.get(name, name) for name in features[1].split()]
    assert ",+".join([model[1], *names]) == qemu.EMULATED_CPU


def test_vagrant_firmware_and_serial_numbers_equal_those_of_lab() -> None:
    machine = settings.load().machines[0]
    assert f'"{qemu.OVMF_CODE}"' in VAGRANTFILE
    assert f'"{qemu.OVMF_VARS}"' in VAGRANTFILE
    assert "%w[A B]" in VAGRANTFILE
    assert 'serial = "KEY#{name.upcase}#{letter}"' in VAGRANTFILE
    assert f'format("{machine.mac[:-2]}%02x", last)' in VAGRANTFILE
