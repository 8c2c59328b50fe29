"""The programs on this host that read CA files and keys only when they start.

After a rotation has placed other files, each of them restarts, behind its health. RECORD has what
each program has read: a program without an entry may have read anything, and restarts too. So an
interrupted run is finished by the next one, whatever the clock says.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import log
from keystone.cluster import etcdctl, kubeadm, kubeadm_leaves, kubeconfigs
from keystone.errors import HostError, RefusedError
from keystone.files import write_whole
from keystone.pki import rotation
from keystone.pki.host_files import SIGNER, TREE
from keystone.pki.rotation import LEAVES
from keystone.run import run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

RECORD = Path("/var/lib/keystone/trust-read.json")
PKI = kubeadm_leaves.PKI
KUBEADM = "kubeadm's certificates"
"""What `behind` calls the certificates that kubeadm made."""


@dataclass(frozen=True)
class Reader:
    """A program. sign: a file that exists where it runs. files: what it reads at its start.

    of: the names of rotations (keystone.pki.rotation) for which it restarts.
    """

    name: str
    sign: str
    files: tuple[str, ...]
    of: frozenset[str]


def _pod(name: str, files: tuple[str, ...], *of: str) -> Reader:
    return Reader(name, f"/etc/kubernetes/manifests/{name}.yaml", files, frozenset(of))


READERS = (
    Reader(
        "etcd", "/etc/systemd/system/etcd.service",
        (f"{etcdctl.PKI}/peer-ca.crt", f"{etcdctl.PKI}/client-ca.crt"),
        frozenset({"etcd-peer", "etcd-client"}),
    ),
    _pod(
        "kube-apiserver",
        (f"{PKI}/etcd/ca.crt", f"{PKI}/ca.crt", f"{PKI}/front-proxy-ca.crt", f"{PKI}/sa.pub",
         f"{PKI}/sa.key"),
        "etcd-peer", "kubernetes", "front-proxy", "sa",
    ),
    _pod(
        "kube-controller-manager",
        (f"{PKI}/ca.crt", f"{PKI}/sa.key", "/etc/kubernetes/controller-manager.conf"),
        "kubernetes", "sa", LEAVES,
    ),
    _pod("kube-scheduler", ("/etc/kubernetes/scheduler.conf",), "kubernetes", LEAVES),
    Reader(
        "kubelet", kubeadm.KUBELET_CONF,
        (kubeadm.KUBELET_CONF, f"{PKI}/ca.crt"),
        frozenset({"kubernetes"}),
    ),
    Reader("haproxy", "/etc/haproxy/haproxy.cfg", ("/etc/keystone/pki/kubernetes-ca.crt",),
           frozenset({"kubernetes"})),
)  # fmt: skip
PODS = frozenset(name for name, *_ in kubeadm_leaves.PODS)


def behind(name: str, lifetime: dt.timedelta, found: Mapping[str, str]) -> tuple[str, ...]:
    """Return what on this host does not follow the files of a rotation yet. Changes nothing.

    name: of the rotation. lifetime: of the site's certificates. found: certificates on this host by
    path (PEM), as `HostFacts.certificates`.
    """
    old = [KUBEADM] if _kubeadm_due(name, lifetime, found) else []
    configs = [str(file) for file in _configs(name) if not kubeconfigs.trusts(file, _authority())]
    return (*old, *configs, *(reader.name for reader in _stale(_for(name))))


def require_one_signer() -> None:
    """Raise RefusedError where the controller manager would refuse two certificates in ca.crt."""
    manifest = Path("/etc/kubernetes/manifests/kube-controller-manager.yaml")
    if manifest.exists() and f"--cluster-signing-cert-file={SIGNER}" not in manifest.read_text():
        raise RefusedError(
            f"{manifest}: an older installer wrote it: the controller manager would not sign with "
            "two CAs in its file",
            hint="run the installation with this version first: keystone-install --bundle FILE "
            "--site FILE",
        )


def catch_up(
    name: str, lifetime: dt.timedelta, found: Mapping[str, str], seconds: int
) -> tuple[str, ...]:
    """Bring all of `behind` into line, one program after another; return what it was.

    seconds: how long each program may take to be healthy again; then HostError.
    """
    was = behind(name, lifetime, found)
    if KUBEADM in was:
        kubeadm_leaves.sign_again(seconds)
    for file in _configs(name):  # after kubeadm, which writes only one CA into them
        kubeconfigs.trust(file, _authority())
    restart(_for(name), seconds)
    return was


def restart(readers: Iterable[Reader], seconds: int) -> None:
    """Restart those of these programs that have not read today's files."""
    for reader in _stale(readers):
        digest = _digest(reader)
        if reader.name == "etcd":
            _restart_etcd(seconds)
        elif reader.name in PODS:
            kubeadm_leaves.restart(seconds, {reader.name})
        elif reader.name == "haproxy":
            # Not a restart: open connections stay with the old process.
            run(["systemctl", "reload-or-restart", "haproxy"], timeout=seconds)
        else:
            run(["systemctl", "restart", reader.name], timeout=seconds)
        _note(reader.name, digest)
        log.info(f"  {reader.name} reads the new files", event="reread", unit=reader.name)


def forget(name: str) -> None:
    """Let a program restart at the next call, whatever it has read."""
    _write({reader: digest for reader, digest in _record().items() if reader != name})


def note(names: Iterable[str]) -> None:
    """Record that these programs have read today's files: somebody has just restarted them."""
    for reader in named(*names):
        _note(reader.name, _digest(reader))


def named(*names: str) -> tuple[Reader, ...]:
    """Return readers by their names."""
    return tuple(reader for reader in READERS if reader.name in names)


def _for(name: str) -> tuple[Reader, ...]:
    return tuple(reader for reader in READERS if name in reader.of)


def _stale(readers: Iterable[Reader]) -> list[Reader]:
    record = _record()
    return [
        reader
        for reader in readers
        if Path(reader.sign).exists() and record.get(reader.name) != _digest(reader)
    ]


def _digest(reader: Reader) -> str:
    digest = hashlib.sha256()
    for name in reader.files:
        file = Path(name)
        content = file.read_bytes() if file.exists() else b""
        digest.update(f"{name} {len(content)}\0".encode() + content)
    return digest.hexdigest()


def _record() -> dict[str, str]:
    try:
        return dict(json.loads(RECORD.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return {}  # every program restarts, which is safe


def _note(name: str, digest: str) -> None:
    _write({**_record(), name: digest})


def _write(wanted: Mapping[str, str]) -> None:
    write_whole(RECORD, (json.dumps(wanted, indent=1, sort_keys=True) + "\n").encode(), 0o600)


def _kubeadm_due(name: str, lifetime: dt.timedelta, found: Mapping[str, str]) -> bool:
    if name not in ("kubernetes", "front-proxy", LEAVES) or not kubeadm_leaves.DONE.exists():
        return False
    since = rotation.read(Path(TREE)).since
    return bool(kubeadm_leaves.due(found, lifetime, dt.datetime.now(dt.UTC), since))


def _configs(name: str) -> list[Path]:
    """Return the kubeconfigs on a control plane that must trust what ca.crt has."""
    if name != "kubernetes" or not kubeadm_leaves.DONE.exists():
        return []
    return [file for file in map(Path, kubeconfigs.FILES) if file.exists()]


def _authority() -> str:
    return Path(kubeadm.AUTHORITY).read_text()


# etcd


def _restart_etcd(seconds: int) -> None:
    """Restart the member here while all others are healthy; a leader hands over first."""
    _wait_members(seconds)
    _hand_over()
    run(["systemctl", "restart", "etcd"], timeout=seconds)
    _wait_members(seconds)


def _hand_over() -> None:
    status = etcdctl.ask("endpoint", "status")[0]["Status"]
    own = status["header"]["member_id"]
    members = etcdctl.ask("member", "list")["members"]
    others = [one["ID"] for one in members if one["ID"] != own and not one.get("isLearner")]
    if others and status.get("leader") == own:
        etcdctl.tell("move-leader", f"{others[0]:x}")


def _wait_members(seconds: int) -> None:
    deadline = time.monotonic() + seconds
    words = etcdctl.words("endpoint", "health", "--cluster", timeout="10s")
    while (done := run(words, check=False, timeout=90)).returncode != 0:
        if time.monotonic() > deadline:
            raise HostError(
                f"etcd: not all members are healthy after {seconds} s: "
                f"{etcdctl.last_line(done.stderr or done.stdout)}",
                hint="look at `keystone-install etcd status`, then run the same command again",
            )
        time.sleep(1)
