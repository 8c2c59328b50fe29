"""Check that every host meets the site's requirements. Pure: reports all findings at once.

Each check examines one thing and yields findings that name the host, what was found and what to
do. Hosts that cannot be reached never get here: the probe raises HostError for them.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations
from typing import TYPE_CHECKING

from keystone import log
from keystone.ansible.roles import mirror
from keystone.errors import PreflightError, RefusedError
from keystone.install import kernel_checks
from keystone.install.findings import Finding, HostCheck
from keystone.storage import plan as storage
from keystone.storage import pool_members

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from keystone.bundle.model import Manifest
    from keystone.hosts.facts import DiskFacts, HostFacts
    from keystone.site.model import Site

GIB = 1 << 30

OS = ("debian", "13")
ARCHITECTURE = "x86_64"
PYTHON = (3, 11)

MEMORY = {
    "normal": {"control_plane": 4.0, "primer": 2.0},
    "emulated": {"control_plane": 2.5, "primer": 1.2},
}
"""GiB by patience profile. A control plane with etcd, kubelet and containerd uses about 0.8 GiB
idle, a Primer without one 0.4; the rest is ZFS's cache. Kernel and firmware reserve some of a
machine's memory, hence MEMORY_SLACK."""
FOLDERS_MEMORY = {"control_plane": 1.8, "primer": 0.8}
"""GiB without ZFS, for every patience: kubeadm requires 1.7 for a control plane."""
MEMORY_SLACK = 0.93

ROOT_RESERVE = 1 << 29
"""Bytes of the root file system to leave free for logs and the journal."""
DEB_EXPANSION = 4
"""Installed packages need about four times their compressed size, download included."""
BINARY_EXPANSION = 2
"""Some binaries are compressed in the bundle; each is written beside the old one it replaces."""

POOL_COPIES = 2
"""Registry and mirror are links into the store; containerd's unpacked images need as much again."""
POOL_RESERVE = 2 * GIB
"""For etcd, volumes and the tenth of a pool that ZFS needs free."""

CLOCK_SKEW = 60.0
"""Seconds between two hosts: a certificate made on one must already be valid on another."""

PORT_OWNERS = {
    2379: "etcd", 2380: "etcd", 5000: "registry", 6443: "kube-apiserver", 7443: "haproxy",
    8080: "nginx", 8443: "nginx", 8444: "nginx keystone-instal python3", 8445: "systemd",
    10250: "kubelet",
}  # fmt: skip
"""Programs of Keystone that may already listen there if a role was applied; named as ss(8) shows
them: the first 15 letters."""


def check(site: Site, facts: Mapping[str, HostFacts], manifest: Manifest) -> tuple[Finding, ...]:
    """Run all checks; return the findings host by host, in the site's order."""
    found: list[Finding] = []
    for node in site.primers:
        host = HostCheck(site, node, facts[node.name], manifest)
        for one_check in HOST_CHECKS:
            found += one_check(host)
    found += clocks(site, facts)
    found += identities(site, facts)
    return tuple(found)


def render(findings: Iterable[Finding]) -> None:
    """Show the findings as a table; show nothing if there are none."""
    rows = [(f.severity, f.host, f.text, f.hint) for f in findings]
    if rows:
        log.table(["", "host", "found", "next"], rows, title="Preflight")


def enforce(findings: Iterable[Finding]) -> None:
    """Raise RefusedError if any finding refuses, else PreflightError if any fails."""
    stopping = [f for f in findings if f.severity != "warning"]
    if not stopping:
        return
    hint = "no host was changed; correct this and run again"
    lines = [f.line() for f in stopping]
    if any(f.severity == "refused" for f in stopping):
        raise RefusedError("\n".join(["preflight refused:", *lines]), hint=hint)
    count = log.count(len(lines), "finding")
    raise PreflightError(f"preflight failed: {count}", findings=lines, hint=hint)


# One host -----------------------------------------------------------------------------------


def operating_system(host: HostCheck) -> Iterator[Finding]:
    """Debian 13 on amd64, logged in as root, with a Python that can run Keystone."""
    facts = host.facts
    if (facts.os_id, facts.os_version) != OS:
        yield host.failed(f"runs {facts.os_name}", "install Debian 13 (trixie)")
    if facts.architecture != ARCHITECTURE:
        yield host.failed(
            f"is a {facts.architecture} machine", f"use a machine with {ARCHITECTURE}"
        )
    if facts.python < PYTHON:
        yield host.failed(
            f"has Python {facts.python[0]}.{facts.python[1]}", "install Python 3.11 or newer"
        )
    if not facts.root:
        yield host.failed(
            f"logs in {host.site.ssh.user}, who is not root",
            "set spec.ssh.user to a user with uid 0",
        )


def kernel(host: HostCheck) -> Iterator[Finding]:
    """The bundle has ZFS modules for the running kernel, unless ZFS is loaded already."""
    if not host.site.storage.on_pool:
        return
    kernels = sorted({
        item.labels["kernel"] for item in host.manifest.of_kind("deb") if "kernel" in item.labels
    })  # fmt: skip
    if host.facts.kernel in kernels or host.facts.zfs_module:
        return
    carried = ", ".join(kernels) or "none"
    yield host.failed(
        f"runs kernel {host.facts.kernel}; the bundle has ZFS modules for: {carried}",
        "boot one of these kernels, or use a bundle whose definition names this kernel",
    )


def same_kind(host: HostCheck) -> Iterator[Finding]:
    """A host of a trial site never becomes production, and the reverse."""
    if "time" in host.facts.roles and host.facts.trial != host.site.trial:
        was, shall = (
            ("a trial site", "production") if host.facts.trial else ("production", "a trial site")
        )
        yield host.refused(
            f"was installed for {was}, but the site file says {shall}",
            "set spec.trial back to its old value, or install on a new system",
        )


def memory(host: HostCheck) -> Iterator[Finding]:
    """The host has enough memory for its role."""
    role = "control_plane" if host.node.control_plane else "primer"
    limits = MEMORY[host.site.patience.profile] if host.site.storage.on_pool else FOLDERS_MEMORY
    wanted = limits[role] * GIB
    if host.facts.memory < wanted * MEMORY_SLACK:
        what = "a control plane" if host.node.control_plane else "a Primer"
        yield host.failed(
            f"has {log.size(host.facts.memory)} of memory; {what} needs {log.size(wanted)}",
            "add memory, or give the role to another machine",
        )


def root_disk(host: HostCheck) -> Iterator[Finding]:
    """The root file system has space for packages, binaries and the installer itself."""
    if host.begun:
        return  # most of it is installed already, and would be counted twice
    need = root_bytes(host.manifest)
    if host.facts.root_free < need:
        yield host.failed(
            f"has {log.size(host.facts.root_free)} free on /, but needs {log.size(need)}",
            "free space, or enlarge the root file system",
        )


def root_bytes(manifest: Manifest) -> int:
    """Return the bytes of the root file system that an installation of this bundle needs."""

    def total(kind: str) -> int:
        return sum(item.size for item in manifest.of_kind(kind))

    debs, binaries = total("deb") * DEB_EXPANSION, total("binary") * BINARY_EXPANSION
    return debs + binaries + total("installer") * 2 + ROOT_RESERVE


def cgroups(host: HostCheck) -> Iterator[Finding]:
    """The kubelet requires cgroup v2; on a trial site it is configured to accept version 1."""
    if host.facts.cgroup != 2 and not host.profile.containers:  # noqa: PLR2004 its name
        yield host.failed(
            "uses cgroup v1", "remove systemd.unified_cgroup_hierarchy=0 from its kernel arguments"
        )


def swap(host: HostCheck) -> Iterator[Finding]:
    """Swap is off: the kubelet refuses it and it slows etcd. A container cannot turn it off."""
    if host.facts.container and not host.profile.own_memory:
        return
    if host.facts.swaps:
        yield host.failed(
            f"has swap on: {', '.join(host.facts.swaps)}",
            "swapoff --all, and remove it from /etc/fstab",
        )


def address(host: HostCheck) -> Iterator[Finding]:
    """The host itself has the address of the site file; it is not that of a NAT in front of it."""
    if str(host.node.address) not in host.facts.addresses:
        yield host.failed(
            f"has {', '.join(host.facts.addresses)}, not {host.node.address} of the site file",
            "put the machine's own address into the site file",
        )


def name_servers(host: HostCheck) -> Iterator[Finding]:
    """Each name server answers: else kubelet and API server start 10 s later for each query."""
    for server in host.facts.silent_name_servers:
        yield host.warning(
            f"has a name server ({server}) that does not answer and delays every query",
            "repair it, or remove it from /etc/resolv.conf; the site needs no name server",
        )


def ports(host: HostCheck) -> Iterator[Finding]:
    """No foreign program listens on a port of Keystone's services."""
    for port, program in sorted(host.facts.ports.items()):
        if port == mirror.BOOT_PORT and not host.site.network_boot:
            continue
        ours = PORT_OWNERS.get(port, "").split()
        if not (host.begun and program in ours):
            yield host.failed(
                f"runs {program} on port {port}", f"stop it: ss -ltnp 'sport = :{port}'"
            )


def foreign_cluster(host: HostCheck) -> Iterator[Finding]:
    """The host has no etcd data and no Kubernetes that Keystone did not install."""
    if host.facts.kubernetes and not host.begun:
        yield host.refused(
            f"already belongs to a cluster: {', '.join(host.facts.kubernetes)}",
            "if that cluster is not needed, run kubeadm reset there and remove /var/lib/etcd",
        )


def disks(host: HostCheck) -> Iterator[Finding]:
    """Each disk of the site file exists once, is large enough, and is blank or Keystone's own."""
    there = ", ".join(f"{d.serial or 'no serial'} ({d.name})" for d in host.facts.disks) or "none"
    for wanted in host.node.disks:
        found = host.facts.disk(wanted.serial)
        if not found:
            yield host.failed(
                f"has no disk {wanted.serial}; it has: {there}",
                "correct the serial in the site file; to list: lsblk -d -o NAME,SERIAL,SIZE",
            )
        elif len(found) > 1:
            paths = ", ".join(disk.path for disk in found)
            yield host.refused(
                f"has more than one disk {wanted.serial}: {paths} have this serial",
                "use disks with unique serial numbers",
            )
        else:
            yield from _disk(host, found[0])


def single_disk(host: HostCheck) -> Iterator[Finding]:
    """A pool without redundancy is lost with its disk."""
    if host.site.storage.layout == "single":
        yield host.warning(
            "has a pool of one disk: if the disk fails, the data is lost", "use layout: mirror"
        )


def folders(host: HostCheck) -> Iterator[Finding]:
    """Warn that data is on plain folders, which is for trials only; require space for it."""
    if host.site.storage.on_pool:
        return
    yield host.warning(
        "keeps its data on plain folders, without ZFS's checksums, mirror and quotas",
        "use this for trials and tests only, never for production",
    )
    need = pool_bytes(host.manifest)
    if not host.begun and host.facts.var_free < need:
        yield host.failed(
            f"has {log.size(host.facts.var_free)} free on /var, but needs {log.size(need)}",
            "free space, or give /var a larger file system",
        )


def _disk(host: HostCheck, disk: DiskFacts) -> Iterator[Finding]:
    name = f"disk {disk.serial} ({disk.path}, {log.size(disk.size)})"
    need = pool_bytes(host.manifest)
    if disk.size < need:
        yield host.failed(f"{name} is too small", f"use a disk of {log.size(need)} or more")
    if disk.read_only:
        yield host.failed(f"{name} is read-only", "remove its write protection")
    if disk.portable:
        yield host.failed(f"{name} is removable", "choose a built-in disk")
    if disk.unreadable:
        yield host.failed(f"{name} cannot be read: {disk.unreadable}",
                          "replace it" if host.facts.root else "log in as root")  # fmt: skip
        return
    if host.facts.pool(host.site.storage.pool) is None:  # an existing pool keeps its ashift
        yield from _sectors(host, disk, name)
    if not disk.by_id:
        yield host.failed(
            f"{name} has no link in /dev/disk/by-id", "see why: udevadm info " + disk.path
        )
    content = storage.found_on(disk)
    if content and not _ours(host, disk):
        yield host.refused(
            f"{name} is not blank: {content}",
            f"choose another disk, or if nothing on it is needed: {storage.emptied(disk)}",
        )


def _sectors(host: HostCheck, disk: DiskFacts, name: str) -> Iterator[Finding]:
    """A sector of the pool (2 to the power of ashift) is not smaller than one of the disk."""
    ashift = host.site.storage.ashift
    if storage.too_small(ashift, disk):
        yield host.failed(
            f"{name} has sectors of {disk.logical_sector} bytes, more than ashift {ashift}",
            f"set spec.storage.ashift to {storage.fitting_ashift(disk.logical_sector)}",
        )
    elif 1 << ashift < disk.physical_sector:
        yield host.warning(
            f"{name} writes {disk.physical_sector} bytes at once; with ashift {ashift} each "
            "smaller write costs a read and a write",
            f"set spec.storage.ashift to {storage.fitting_ashift(disk.physical_sector)}; it cannot "
            "be changed later",
        )


def pool_bytes(manifest: Manifest) -> int:
    """Return the bytes that a pool needs for the bundle and everything unpacked from it."""
    return sum(item.size for item in manifest.items) * POOL_COPIES + POOL_RESERVE


def _ours(host: HostCheck, disk: DiskFacts) -> bool:
    """True if the disk holds the site file's pool on exactly these disks, or one we began."""
    name, serials = host.site.storage.pool, {wanted.serial for wanted in host.node.disks}
    pool = host.facts.pool(name)
    if pool is not None:
        return set(pool_members.members(pool, host.facts.disks, serials)) == serials
    foreign = [s for s in disk.signatures if not s.endswith(": zfs_member")]
    if foreign or disk.mounted or disk.holders or disk.unreadable or not host.begun:
        return False
    intent = host.facts.intent
    if intent is not None and intent.pool == name and set(intent.serials) == serials:
        return disk.zpool_label is None or disk.zpool_label.pool == name
    labels = {found.zpool_label for serial in serials for found in host.facts.disk(serial)}
    return len(labels) == 1 and disk.zpool_label is not None and disk.zpool_label.pool == name


HOST_CHECKS: tuple[Callable[[HostCheck], Iterator[Finding]], ...] = (
    operating_system, same_kind, kernel_checks.kind, kernel, kernel_checks.parts,
    kernel_checks.settings,
    memory, root_disk, cgroups, swap, address, name_servers, ports, foreign_cluster, disks,
    single_disk, folders,
)  # fmt: skip


# Between hosts ------------------------------------------------------------------------------


def clocks(site: Site, facts: Mapping[str, HostFacts]) -> Iterator[Finding]:
    """No two hosts' clocks differ by more than CLOCK_SKEW.

    Each offset was measured against the middle of its round trip; its possible error (network,
    slow start of Python) is added to the limit.
    """
    for one, other in combinations([node.name for node in site.primers], 2):
        first, second = facts[one], facts[other]
        skew = abs(first.clock_offset - second.clock_offset)
        if skew > CLOCK_SKEW + first.clock_error + second.clock_error:
            yield Finding(
                "failed",
                f"{one}, {other}",
                f"have clocks that differ by {_span(skew)}",
                "set both clocks: date --set, then hwclock --systohc",
            )


def identities(site: Site, facts: Mapping[str, HostFacts]) -> Iterator[Finding]:
    """No two names of the site mean the same machine, or clones of one image."""
    for what, hint in (
        ("machine_id", "make a new one: rm /etc/machine-id && systemd-machine-id-setup"),
        ("hostname", "give each host its own: hostnamectl hostname NAME"),
    ):
        owners: dict[str, list[str]] = defaultdict(list)
        for node in site.primers:
            owners[getattr(facts[node.name], what)].append(node.name)
        for value, names in owners.items():
            if value and len(names) > 1:
                text = f"have the same {what.replace('_', '-')} {value}"
                yield Finding("failed", ", ".join(names), text, hint)


def _span(seconds: float) -> str:
    day = 86400
    return f"{seconds / day:.0f} days" if seconds > 2 * day else log.duration(seconds)
