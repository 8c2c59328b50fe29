"""Is every host fit for what the site asks of it? Pure: all findings at once, nothing changed.

Each check looks at one thing and yields findings that name the host, what was found and what to
do. Hosts that cannot be reached never get here: probing them raises HostError.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations
from typing import TYPE_CHECKING

from keystone import log
from keystone.ansible.roles import mirror
from keystone.errors import PreflightError, RefusedError
from keystone.install import kernel_checks
from keystone.install.findings import Finding, Look
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
idle, a Primer without it 0.4; ZFS caches in what is left. The kernel and firmware keep some of a
machine's memory to themselves, hence MEMORY_SLACK."""
FOLDERS_MEMORY = {"control_plane": 1.8, "primer": 0.8}
"""GiB without ZFS, whatever the patience: kubeadm wants 1.7 for a control plane."""
MEMORY_SLACK = 0.93

ROOT_RESERVE = 1 << 29
"""Bytes of the root file system left over for logs and the journal."""
DEB_EXPANSION = 4
"""Installed packages take about four times their compressed size, download included."""
BINARY_EXPANSION = 2
"""Some binaries travel compressed; all are written beside the old ones before they replace them."""

POOL_COPIES = 2
"""The store links what it shares; containerd's unpacked images take as much again."""
POOL_RESERVE = 2 * GIB
"""For etcd, volumes and the tenth of a pool that ZFS wants free."""

CLOCK_SKEW = 60.0
"""Seconds between two hosts: certificates made on one must not lie in the future of another."""

PORT_OWNERS = {
    2379: "etcd", 2380: "etcd", 5000: "registry", 6443: "kube-apiserver", 7443: "haproxy",
    8080: "nginx", 8443: "nginx", 8444: "nginx keystone-instal python3", 10250: "kubelet",
}  # fmt: skip
"""Programs of ours that may listen there already, on a host that Keystone has begun; as ss(8)
names them, which is the first 15 letters."""


def check(site: Site, facts: Mapping[str, HostFacts], manifest: Manifest) -> tuple[Finding, ...]:
    """Everything that speaks against installing, host by host in the site's order."""
    found: list[Finding] = []
    for node in site.primers:
        look = Look(site, node, facts[node.name], manifest)
        for one_check in HOST_CHECKS:
            found += one_check(look)
    found += clocks(site, facts)
    found += identities(site, facts)
    return tuple(found)


def render(findings: Iterable[Finding]) -> None:
    """Show them as a table; nothing when there are none."""
    rows = [(f.severity, f.host, f.text, f.hint) for f in findings]
    if rows:
        log.table(["", "host", "found", "next"], rows, title="Preflight")


def enforce(findings: Iterable[Finding]) -> None:
    """Raise RefusedError if any finding refuses, else PreflightError if any fails."""
    stopping = [f for f in findings if f.severity != "warning"]
    if not stopping:
        return
    hint = "nothing was changed on any host; correct this and run again"
    lines = [f.line() for f in stopping]
    if any(f.severity == "refused" for f in stopping):
        raise RefusedError("\n".join(["preflight refused:", *lines]), hint=hint)
    count = "one finding" if len(lines) == 1 else f"{len(lines)} findings"
    raise PreflightError(f"preflight failed: {count}", findings=lines, hint=hint)


# One host -----------------------------------------------------------------------------------


def operating_system(look: Look) -> Iterator[Finding]:
    """Debian 13 on amd64, logged in as root, with a Python that can run Keystone."""
    facts = look.facts
    if (facts.os_id, facts.os_version) != OS:
        yield look.failed(f"runs {facts.os_name}", "install Debian 13 (trixie)")
    if facts.architecture != ARCHITECTURE:
        yield look.failed(f"is a {facts.architecture} machine", f"take one with {ARCHITECTURE}")
    if facts.python < PYTHON:
        yield look.failed(
            f"has Python {facts.python[0]}.{facts.python[1]}", "3.11 or newer is needed"
        )
    if not facts.root:
        yield look.failed(
            f"{look.site.ssh.user} is not root there", "set spec.ssh.user to a user with uid 0"
        )


def kernel(look: Look) -> Iterator[Finding]:
    """A kernel that the bundle carries ZFS modules for, unless ZFS is loaded already."""
    if not look.site.storage.on_pool:
        return
    kernels = sorted({
        item.labels["kernel"] for item in look.manifest.of_kind("deb") if "kernel" in item.labels
    })  # fmt: skip
    if look.facts.kernel in kernels or look.facts.zfs_module:
        return
    carried = ", ".join(kernels) or "none"
    yield look.failed(
        f"runs kernel {look.facts.kernel}; the bundle has ZFS modules for: {carried}",
        "boot one of these kernels, or have a bundle made whose definition names this one",
    )


def same_kind(look: Look) -> Iterator[Finding]:
    """What was installed for trying never becomes production, and the other way round."""
    if "time" in look.facts.roles and look.facts.trial != look.site.trial:
        was, shall = (
            ("a trial site", "production") if look.facts.trial else ("production", "a trial site")
        )
        yield look.refused(
            f"was installed for {was}, and the site file asks for {shall}",
            "put spec.trial back as it was, or install on a new system",
        )


def memory(look: Look) -> Iterator[Finding]:
    """Enough of it for the node's role."""
    role = "control_plane" if look.node.control_plane else "primer"
    limits = MEMORY[look.site.patience.profile] if look.site.storage.on_pool else FOLDERS_MEMORY
    wanted = limits[role] * GIB
    if look.facts.memory < wanted * MEMORY_SLACK:
        what = "a control plane" if look.node.control_plane else "a Primer"
        yield look.failed(
            f"has {log.size(look.facts.memory)} of memory; {what} needs {log.size(wanted)}",
            "add memory, or give the role to another machine",
        )


def root_disk(look: Look) -> Iterator[Finding]:
    """Room on the root file system for packages, binaries and the installer itself."""
    if look.begun:
        return  # most of it is there already; what is missing now would be counted twice
    need = root_bytes(look.manifest)
    if look.facts.root_free < need:
        yield look.failed(
            f"has {log.size(look.facts.root_free)} free on /; {log.size(need)} are needed",
            "make room, or enlarge the root file system",
        )


def root_bytes(manifest: Manifest) -> int:
    """What an installation of this bundle takes of the root file system, in bytes."""

    def total(kind: str) -> int:
        return sum(item.size for item in manifest.of_kind(kind))

    debs, binaries = total("deb") * DEB_EXPANSION, total("binary") * BINARY_EXPANSION
    return debs + binaries + total("installer") * 2 + ROOT_RESERVE


def cgroups(look: Look) -> Iterator[Finding]:
    """The kubelet wants cgroup v2; on a trial site it is told to bear with version 1."""
    if look.facts.cgroup != 2 and not look.profile.containers:  # noqa: PLR2004 its name
        yield look.failed(
            "uses cgroup v1", "remove systemd.unified_cgroup_hierarchy=0 from its kernel arguments"
        )


def swap(look: Look) -> Iterator[Finding]:
    """Off: the kubelet refuses it, and etcd's latency suffers. A container cannot turn it off."""
    if look.facts.container and not look.profile.own_memory:
        return
    if look.facts.swaps:
        yield look.failed(
            f"swap is on: {', '.join(look.facts.swaps)}",
            "swapoff --all, and remove it from /etc/fstab",
        )


def address(look: Look) -> Iterator[Finding]:
    """The address of the site file is one of its own, not of a NAT in front of it."""
    if str(look.node.address) not in look.facts.addresses:
        yield look.failed(
            f"does not have {look.node.address} itself, but {', '.join(look.facts.addresses)}",
            "put the machine's own address into the site file",
        )


def name_servers(look: Look) -> Iterator[Finding]:
    """A silent one costs each start of kubelet and API server ten seconds a look-up."""
    for server in look.facts.silent_name_servers:
        yield look.warning(
            f"its name server {server} does not answer: every look-up of a name waits for it",
            "make it answer, or take it out of /etc/resolv.conf; the site needs none",
        )


def ports(look: Look) -> Iterator[Finding]:
    """Nothing of others listens where our services will."""
    for port, program in sorted(look.facts.ports.items()):
        if port == mirror.BOOT_PORT and not look.site.network_boot:
            continue
        ours = PORT_OWNERS.get(port, "").split()
        if not (look.begun and program in ours):
            yield look.failed(
                f"port {port} is taken by {program}", f"stop it: ss -ltnp 'sport = :{port}'"
            )


def foreign_cluster(look: Look) -> Iterator[Finding]:
    """No etcd data and no Kubernetes of somebody else's making."""
    if look.facts.kubernetes and not look.begun:
        yield look.refused(
            f"belongs to a cluster already: {', '.join(look.facts.kubernetes)}",
            "if that cluster is not needed: kubeadm reset there, and remove /var/lib/etcd",
        )


def disks(look: Look) -> Iterator[Finding]:
    """Each disk of the site file is there once, large enough, and blank or ours."""
    there = ", ".join(f"{d.serial or 'no serial'} ({d.name})" for d in look.facts.disks) or "none"
    for wanted in look.node.disks:
        found = look.facts.disk(wanted.serial)
        if not found:
            yield look.failed(
                f"disk {wanted.serial} not found; there: {there}",
                "correct the serial in the site file: lsblk -d -o NAME,SERIAL,SIZE",
            )
        elif len(found) > 1:
            paths = ", ".join(disk.path for disk in found)
            yield look.refused(
                f"disk {wanted.serial} is ambiguous: {paths} have this serial",
                "take disks with serial numbers of their own",
            )
        else:
            yield from _disk(look, found[0])


def single_disk(look: Look) -> Iterator[Finding]:
    """A pool without redundancy is lost with its disk."""
    if look.site.storage.layout == "single":
        yield look.warning(
            "its pool has one disk: when that fails, its data is gone", "use layout: mirror"
        )


def folders(look: Look) -> Iterator[Finding]:
    """Data on plain folders is for trying; there must be room for it."""
    if look.site.storage.on_pool:
        return
    yield look.warning(
        "its data lies on plain folders, without ZFS's checksums, mirror and quotas",
        "for trying and testing, never for production",
    )
    need = pool_bytes(look.manifest)
    if not look.begun and look.facts.var_free < need:
        yield look.failed(
            f"has {log.size(look.facts.var_free)} free on /var; {log.size(need)} are needed",
            "make room, or give /var a larger file system",
        )


def _disk(look: Look, disk: DiskFacts) -> Iterator[Finding]:
    name = f"disk {disk.serial} ({disk.path}, {log.size(disk.size)})"
    need = pool_bytes(look.manifest)
    if disk.size < need:
        yield look.failed(f"{name} is too small", f"{log.size(need)} are needed")
    if disk.read_only:
        yield look.failed(f"{name} is read-only", "remove its write protection")
    if disk.portable:
        yield look.failed(f"{name} is removable", "name a built-in disk")
    if disk.unreadable:
        yield look.failed(f"{name} cannot be read: {disk.unreadable}",
                          "replace it" if look.facts.root else "log in as root")  # fmt: skip
        return
    if look.facts.pool(look.site.storage.pool) is None:  # of one that is there nothing can change
        yield from _sectors(look, disk, name)
    if not disk.by_id:
        yield look.failed(
            f"{name} has no link in /dev/disk/by-id", "look: udevadm info " + disk.path
        )
    content = storage.found_on(disk)
    if content and not _ours(look, disk):
        yield look.refused(
            f"{name} is not blank: {content}",
            f"name another disk, or if nothing on it is needed: {storage.emptied(disk)}",
        )


def _sectors(look: Look, disk: DiskFacts, name: str) -> Iterator[Finding]:
    """What the disk reads and writes at once fits in a sector of the pool."""
    ashift = look.site.storage.ashift
    if storage.too_small(ashift, disk):
        yield look.failed(
            f"{name} has sectors of {disk.logical_sector} bytes, ashift {ashift} smaller ones",
            f"set spec.storage.ashift to {storage.fitting_ashift(disk.logical_sector)}",
        )
    elif 1 << ashift < disk.physical_sector:
        yield look.warning(
            f"{name} writes {disk.physical_sector} bytes at once; with ashift {ashift} each write "
            "of fewer is a read and a write",
            f"set spec.storage.ashift to {storage.fitting_ashift(disk.physical_sector)}; it cannot "
            "be changed later",
        )


def pool_bytes(manifest: Manifest) -> int:
    """What a pool needs for the bundle and everything unpacked from it, in bytes."""
    return sum(item.size for item in manifest.items) * POOL_COPIES + POOL_RESERVE


def _ours(look: Look, disk: DiskFacts) -> bool:
    """Its content is the site file's pool, made on exactly these disks, or being made by us."""
    name, serials = look.site.storage.pool, {wanted.serial for wanted in look.node.disks}
    pool = look.facts.pool(name)
    if pool is not None:
        return set(pool_members.members(pool, look.facts.disks, serials)) == serials
    foreign = [s for s in disk.signatures if not s.endswith(": zfs_member")]
    if foreign or disk.mounted or disk.holders or disk.unreadable or not look.begun:
        return False
    intent = look.facts.intent
    if intent is not None and intent.pool == name and set(intent.serials) == serials:
        return disk.zpool_label is None or disk.zpool_label.pool == name
    labels = {found.zpool_label for serial in serials for found in look.facts.disk(serial)}
    return len(labels) == 1 and disk.zpool_label is not None and disk.zpool_label.pool == name


HOST_CHECKS: tuple[Callable[[Look], Iterator[Finding]], ...] = (
    operating_system, same_kind, kernel_checks.kind, kernel, kernel_checks.parts,
    kernel_checks.settings,
    memory, root_disk, cgroups, swap, address, name_servers, ports, foreign_cluster, disks,
    single_disk, folders,
)  # fmt: skip


# Between hosts ------------------------------------------------------------------------------


def clocks(site: Site, facts: Mapping[str, HostFacts]) -> Iterator[Finding]:
    """No two hosts' clocks are further apart than certificates bear.

    Each offset was measured against the middle of its round trip, so what the network and a slow
    start of Python may have added is allowed for.
    """
    for one, other in combinations([node.name for node in site.primers], 2):
        first, second = facts[one], facts[other]
        skew = abs(first.clock_offset - second.clock_offset)
        if skew > CLOCK_SKEW + first.clock_error + second.clock_error:
            yield Finding(
                "failed",
                f"{one}, {other}",
                f"their clocks are {_span(skew)} apart",
                "set them: date --set, then hwclock --systohc",
            )


def identities(site: Site, facts: Mapping[str, HostFacts]) -> Iterator[Finding]:
    """No two names of the site are the same machine, or clones of one image."""
    for what, hint in (
        ("machine_id", "make a new one: rm /etc/machine-id && systemd-machine-id-setup"),
        ("hostname", "give each its own: hostnamectl hostname NAME"),
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
