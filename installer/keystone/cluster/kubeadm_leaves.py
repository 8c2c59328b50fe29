"""The certificates that kubeadm made on a control plane: which are due, and their renewal.

`kubeadm certs renew all` signs them anew with the CA keys that role `trust` placed, for as long as
`certificateValidityPeriod` says. Controller manager and scheduler read theirs once, so the static
pods restart (kubernetes.io, "Certificate Management with kubeadm").
"""

from __future__ import annotations

import datetime as dt
import os
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509

from keystone import log
from keystone.cluster import kubeadm, kubeconfigs
from keystone.errors import HostError
from keystone.pki import certificates
from keystone.run import run

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

PKI = "/etc/kubernetes/pki"
CERTIFICATES: Mapping[str, str] = {
    f"{PKI}/apiserver.crt": f"{PKI}/ca.crt",
    f"{PKI}/apiserver-kubelet-client.crt": f"{PKI}/ca.crt",
    f"{PKI}/front-proxy-client.crt": f"{PKI}/front-proxy-ca.crt",
    "/etc/kubernetes/admin.conf": f"{PKI}/ca.crt",
    "/etc/kubernetes/super-admin.conf": f"{PKI}/ca.crt",
    "/etc/kubernetes/controller-manager.conf": f"{PKI}/ca.crt",
    "/etc/kubernetes/scheduler.conf": f"{PKI}/ca.crt",
}
"""The files with certificates of kubeadm, each with its CA. The second control plane and later
ones have no super-admin.conf."""
KUBELET_CERTIFICATE = Path("/var/lib/kubelet/pki/kubelet-client-current.pem")
"""kubelet renews it itself, while it is valid."""
DONE = Path(kubeadm.CONFIG, "done")
"""Written when the setup of the control plane was finished."""
BACKDATE = dt.timedelta(minutes=5)
"""What kubeadm and the controller manager sign begins so long before (CertificateBackdate)."""
API_PORT = 6443
PODS = (
    ("kube-apiserver", f"--secure-port={API_PORT}", API_PORT),
    ("kube-controller-manager", "--kubeconfig=/etc/kubernetes/controller-manager.conf", 10257),
    ("kube-scheduler", "--kubeconfig=/etc/kubernetes/scheduler.conf", 10259),
)
"""Static pods: program, an argument by which processes of pods with other clusters differ, and the
port on this host. The API server comes first: the others need it when they start."""
ALL = frozenset(name for name, *_ in PODS)
PROC = Path("/proc")


def due(
    found: Mapping[str, str],
    lifetime: dt.timedelta,
    now: dt.datetime,
    since: dt.datetime | None = None,
) -> list[str]:
    """Return the paths of certificates that must be renewed. Pure.

    found: certificates by path (PEM), as `HostFacts.certificates`. A certificate is due when the
    file has none, its CA is another one, before it is valid, or past 2/3 of its lifetime; and when
    it was issued before `since`, if that is given.
    """
    loaded = {
        path: certificates.load_certificate(pem.encode(), path)
        for path, pem in found.items()
        if pem and path in {*CERTIFICATES, *CERTIFICATES.values()}
    }
    return [
        path
        for path, authority in CERTIFICATES.items()
        if path in found
        and authority in loaded
        and _is_due(loaded.get(path), loaded[authority], lifetime, now, since)
    ]


def _is_due(
    one: x509.Certificate | None,
    authority: x509.Certificate,
    lifetime: dt.timedelta,
    now: dt.datetime,
    since: dt.datetime | None,
) -> bool:
    if one is None or not certificates.issued_by(one, authority) or now < one.not_valid_before_utc:
        return True
    if not certificates.is_since(one, since, BACKDATE):
        return True
    begin = one.not_valid_before_utc
    end = min(one.not_valid_after_utc, begin + lifetime + certificates.BACKDATE)
    return end - now < (end - begin) / 3


def renew(seconds: int) -> None:
    """Renew all certificates of kubeadm here, and restart the static pods, one after another.

    seconds: how long each pod may take to be healthy again; then HostError.
    """
    sign_again(seconds)
    restart(seconds)


def sign_again(seconds: int) -> None:
    """Sign all certificates of kubeadm here anew; nothing restarts. seconds: the limit."""
    run(["kubeadm", "certs", "renew", "all", "--config", f"{kubeadm.CONFIG}/kubeadm.yaml"],
        timeout=seconds)  # fmt: skip
    # kubeadm writes the CA that signs into kubeconfigs; during a rotation they trust two.
    for file in map(Path, kubeconfigs.FILES):
        if file.exists():
            kubeconfigs.trust(file, Path(kubeadm.AUTHORITY).read_text())


def restore_kubelet(seconds: int) -> None:
    """Make a new identity for this host's kubelet, whose own has expired: it could not renew it.

    seconds: how long each step may take.
    """
    config = f"{kubeadm.CONFIG}/kubeadm.yaml"
    Path(kubeadm.KUBELET_CONF).unlink(missing_ok=True)
    KUBELET_CERTIFICATE.unlink(missing_ok=True)
    run(["kubeadm", "init", "phase", "kubeconfig", "kubelet", "--config", config], timeout=seconds)
    run(["systemctl", "restart", "kubelet"], timeout=seconds)
    finalize = "kubelet-finalize", "enable-client-cert-rotation"
    run(["kubeadm", "init", "phase", *finalize, "--config", config], timeout=seconds)


def kubelet_expired(found: Mapping[str, str], now: dt.datetime) -> bool:
    """Return whether kubelet has no certificate that is valid now. found: as in `due`."""
    pem = found.get(str(KUBELET_CERTIFICATE), "") or found.get(kubeadm.KUBELET_CONF, "")
    if not pem:
        return False
    return certificates.load_certificate(pem.encode(), "kubelet").not_valid_after_utc <= now


def restart(seconds: int, only: Container[str] = ALL) -> None:
    """Restart the static pods here, one after another; kubelet starts each again.

    only: the names of programs.
    """
    for name, argument, port in PODS:
        if name not in only:
            continue
        before = processes(name, argument)
        for process in before:
            os.kill(process, signal.SIGTERM)
        _wait_healthy(name, argument, set(before), port, seconds)
        log.info(f"  {name} restarted", event="restarted", unit=name)


def processes(name: str, argument: str) -> list[int]:
    """Return the ids of processes by program and argument (proc_pid_cmdline(5))."""
    found = []
    for folder in PROC.glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # it ended
        if Path(words[0]).name == name and argument in words:
            found.append(int(folder.name))
    return found


def _wait_healthy(name: str, argument: str, old: set[int], port: int, seconds: int) -> None:
    """Wait until the old processes ended and a new one serves at its port on this host."""
    deadline = time.monotonic() + seconds
    while True:
        now = set(processes(name, argument))
        if now and not now & old and _serves(port):
            return
        if time.monotonic() > deadline:
            raise HostError(
                f"{name}: does not serve {seconds} s after its restart",
                hint="look at it: crictl ps -a; journalctl -u kubelet",
            )
        time.sleep(1)


def _serves(port: int) -> bool:
    if port == API_PORT:
        server = f"--server=https://127.0.0.1:{port}"
        words = ["kubectl", "--kubeconfig", kubeadm.ADMIN_CONF, server, "get", "--raw", "/readyz"]
        return run([*words, "--request-timeout=10s"], check=False, timeout=60).returncode == 0
    try:
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
    except OSError:
        return False
    return True
