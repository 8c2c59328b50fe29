"""The keys of the authorities on a Primer's disk: sealed, and opened at each start by another one.

The tests run in the order of this file and share one lab: each looks at what the one before left.
A Primer's disk is the folder of its machine, a container also before a release: everything but what
the kernel keeps in memory.
"""

from __future__ import annotations

import base64
import json
import re
import time
from typing import TYPE_CHECKING

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from keystone import run
from keystone.lab import nodes
from keystone.lab.machines.machine import becomes
from keystone.pki import host_files, seal

from . import rig as rigs
from .rig import Rig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from keystone.lab.carry import Carried

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

PRIMERS = ("p1", "p2", "p3")
SECRET = tuple(host_files.secret_files())
PEM = re.compile(rb"-----BEGIN (?:EC |RSA )?PRIVATE KEY-----.+?-----END [A-Z ]+-----", re.DOTALL)
SMALL = 4 << 20
OPENED = "/root/opened"
"""Stands for the folder of an opened backup."""


@pytest.fixture(scope="module")
def rig(bundle: Carried) -> Iterator[Rig]:
    with rigs.started("seal", bundle, PRIMERS, kind="container") as ready:
        yield ready


def test_site_is_installed_and_then_needs_nothing(rig: Rig) -> None:
    done = rig.install("--yes")
    assert done.returncode == 0, done.stderr
    again = rig.install("--plan")
    assert "Nothing to do" in again.stdout + again.stderr


def test_every_primer_is_sealed_to_the_others(rig: Rig) -> None:
    for name in PRIMERS:
        first, second = (other for other in PRIMERS if other != name)
        said = rig.sh(name, "keystone-install trust verify 2>&1")
        assert f"sealed: {first} or {second} opens them" in said
        linked = rig.sh(name, f"find {' '.join(SECRET)} -type l").split()
        assert sorted(linked) == sorted(SECRET)


def test_disk_of_a_primer_has_no_key_of_the_site(rig: Rig) -> None:
    keys = opened(rig, "p1")
    for name in PRIMERS:
        assert found_on_disk(rig, name, keys) == set()


def test_search_finds_the_keys_that_are_not_sealed(rig: Rig) -> None:
    leaf = rig.sh("p1", "cat /etc/keystone/pki/site.key").encode()
    assert "etc/keystone/pki/site.key" in found_on_disk(rig, "p1", [leaf])


def test_what_is_written_in_plain_text_is_sealed_by_the_timer(rig: Rig) -> None:
    key = f"{host_files.TREE}/site.key"
    rig.sh("p2", f"cp --remove-destination $(readlink {key}) {key}")
    assert "in plain text" in rig.sh("p2", "keystone-install trust verify 2>&1")
    rig.sh("p2", "systemctl start keystone-maintain.service")
    assert rig.sh("p2", f"readlink {key}").strip() == str(seal.PLACES.target(key))
    assert found_on_disk(rig, "p2", opened(rig, "p1")) == set()


def test_role_that_places_the_same_keys_again_keeps_them_sealed(rig: Rig) -> None:
    sealed = f"stat -c %y {seal.PLACES.sealed}"
    before = rig.sh("p3", sealed)
    rig.sh("p3", f"rm {host_files.ANCHORS_FILE}")
    done = rig.install("--yes")
    assert done.returncode == 0, done.stderr
    assert "p3: converge trust" in done.stdout + done.stderr
    assert rig.sh("p3", sealed) == before
    assert rig.sh("p3", f"find {' '.join(SECRET)} -type f") == ""


def test_primer_without_the_others_opens_nothing(rig: Rig) -> None:
    rig.sh("p1", f"mkdir -m 0700 {OPENED}; cp -rL {host_files.TREE} {OPENED}/pki")
    for name in PRIMERS:
        rig.machine(name).power_cut()
    rig.lab.up(["p1"])
    log = "journalctl --boot --unit keystone-unseal --output cat"
    assert becomes(lambda: "waits for p2" in rig.sh("p1", log, check=False), 300)
    for folder in (seal.PLACES.opened, *SECRET):
        assert rig.sh("p1", f"[ ! -e {folder} ] || find -L {folder} -type f") == ""
    state = "systemctl show --value --property ActiveState kubelet"
    assert rig.sh("p1", state).strip() == "inactive"
    refused = rig.machine("p1").host().run(["keystone-install", "trust", "verify"], check=False)
    assert refused.returncode == 8, refused.stderr
    assert "is sealed" in refused.stderr


def test_keys_from_a_backup_open_a_primer_whose_peers_are_gone(rig: Rig) -> None:
    rig.sh("p1", f"keystone-install trust unseal --from {OPENED}; rm -r {OPENED}")
    assert "valid" in rig.sh("p1", "keystone-install trust verify 2>&1")
    active = "systemctl is-active kubelet || true"
    assert becomes(lambda: rig.sh("p1", active).strip() == "active", 300)


def test_site_is_back_and_sealed_once_the_others_answer(rig: Rig) -> None:
    since = time.time()
    rig.lab.up(["p2", "p3"])
    nodes.wait_ready(rig.machine("p1").host(), frozenset(PRIMERS), since=since, seconds=900)
    for name in PRIMERS:
        assert "valid" in rig.sh(name, "keystone-install trust verify 2>&1")
    states = json.loads(rig.sh("p1", "keystone-install etcd status --json"))
    assert sorted(one["state"] for one in states) == ["follower", "follower", "leader"]
    rig.sh("p1", "systemctl start keystone-maintain.service")
    assert found_on_disk(rig, "p1", opened(rig, "p2")) == set()


def opened(rig: Rig, name: str) -> list[bytes]:
    """Return the secrets that a Primer has in memory; proves that there are some."""
    found = [rig.sh(name, f"cat {path}").encode() for path in SECRET]
    keys = [text for text in found if PEM.search(text)]
    assert len(keys) == 9  # five CAs and sa.key, three of them once more for kubeadm
    return found


def found_on_disk(rig: Rig, name: str, keys: list[bytes]) -> set[str]:
    """Return the files on a Primer's disk that hold one of these keys in any form."""
    folder = rig.machine(name).folder
    needles = {line for text in keys for line in text.split(b"\n") if is_key_line(line)}
    secrets = re.findall(rb"secret: (\S+)", b"\n".join(keys))
    texts = "\n".join(word.decode() for word in (*needles, *secrets))
    publics = {public(one) for text in keys for one in PEM.findall(text)}
    raw = [scalar(one) for text in keys for one in PEM.findall(text)]
    raw += [base64.b64decode(one) for one in secrets]
    disks = [folder / "upper", folder / "containerd"]
    argv = ["grep", "-rlaF", "-f", "-", *map(str, disks)]
    seen = set(run.run(argv, data=texts, check=False, timeout=900).stdout.split("\n"))
    hits = {path for path in seen if path}
    for path in (one for disk in disks for one in disk.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.stat().st_size < SMALL:
            content = path.read_bytes()
            if any(one in content for one in raw) or publics & publics_in(content):
                hits.add(str(path))
    return {relative(path, disks) for path in hits}


def is_key_line(line: bytes) -> bool:
    """Return whether a line is of a key's PEM body, long enough to be of no other key."""
    return len(line) > 40 and re.fullmatch(rb"[A-Za-z0-9+/=]+", line) is not None


def relative(path: str, disks: list[Path]) -> str:
    for disk in disks:
        path = path.removeprefix(f"{disk}/")
    return path


def publics_in(content: bytes) -> set[bytes]:
    """Return the public keys of all private keys in a file, also of PEM inside JSON."""
    found = set()
    for block in PEM.findall(content.replace(b"\\n", b"\n")):
        try:
            found.add(public(block))
        except (ValueError, TypeError, UnsupportedAlgorithm):
            continue  # damaged, encrypted, or a documentation's example
    return found


def public(block: bytes) -> bytes:
    key = serialization.load_pem_private_key(block, None).public_key()
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def scalar(block: bytes) -> bytes:
    key = serialization.load_pem_private_key(block, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key.private_numbers().private_value.to_bytes((key.key_size + 7) // 8, "big")
