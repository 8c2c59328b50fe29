"""Profiles of what Keystone may configure on hosts: one for machines, one for trial sites.

A container uses its host's kernel. Only this module lists what a container cannot load, set or
lower. Inventory functions and preflight read the profile; roles get variables and do not know kinds
of machines. A trial site of virtual machines has the trial profile, too, so the profile must not
require containers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.site.model import Site


def _nothing() -> Mapping[str, object]:
    return MappingProxyType({})


@dataclass(frozen=True)
class HostProfile:
    """Settings that Keystone may change on a host.

    containers: the host may be a container, and may have cgroups of version 1. own_kernel: modules
    can be loaded and all settings belong to the host; if False, a module that cannot be loaded is
    no error, and only settings of the network namespace (net.*) are set. sets_clock: the host may
    set its clock. own_memory: the host may turn swap off and lower oom scores.
    """

    containers: bool = False
    own_kernel: bool = True
    sets_clock: bool = True
    own_memory: bool = True
    kubelet: Mapping[str, object] = field(default_factory=_nothing)
    """Keys of KubeletConfiguration that override the usual ones."""
    proxy: Mapping[str, object] = field(default_factory=_nothing)
    """Keys of KubeProxyConfiguration."""
    ignored_preflight: tuple[str, ...] = ()
    """Names of kubeadm's preflight checks whose errors are ignored (nodeRegistration)."""
    shown_settings: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Values of kernel settings that kubelet sees where /proc/sys is read-only."""

    housekeeping: int = 0
    """Seconds between two measurements of each container by kubelet; 0: kubelet's default, 10."""
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Variables of Go's runtime for the static pods, etcd, containerd and kubelet."""

    sink: str = "type dummy"
    """Arguments of ip-link(8) for a network device that drops all packets."""

    def settings(self, wanted: Mapping[str, int]) -> dict[str, int]:
        """Return the kernel settings (by sysctl name) of `wanted` that such a host can set."""
        own = self.own_kernel
        return {name: value for name, value in wanted.items() if own or name.startswith("net.")}


MACHINE = HostProfile()
TRIAL = HostProfile(
    containers=True,
    own_kernel=False,
    sets_clock=False,
    own_memory=False,
    kubelet=MappingProxyType({
        "failCgroupV1": False,
        "failSwapOn": False,
        # In a user namespace kubelet then ignores settings that it cannot set; else no effect.
        "featureGates": {"KubeletInUserNamespace": True},
        # The disk is the host's, full of other data. Above 85 % kubelet would remove every image
        # that no pod uses at that time, also that of a registry that runs as a pod.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        # 0 % turns a threshold off; a quantity of 0 is refused (eviction/helpers.go).
        "evictionHard": {
            "imagefs.available": "0%",
            "imagefs.inodesFree": "0%",
            "memory.available": "0%",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
        },
    }),
    # 0: leave nf_conntrack_max and its hash table as they are; they are the host's.
    proxy=MappingProxyType({"conntrack": {"maxPerCore": 0, "min": 0}}),
    # kubeadm's check of kernel and cgroups: since kubelet 1.35 it requires cgroup v2 despite
    # failCgroupV1, and a file with the kernel's configuration, which containers do not have.
    ignored_preflight=("SystemVerification",),
    # kubelet exits when one of these differs and cannot be set (cm/container_manager_linux.go);
    # KubeletInUserNamespace ignores that in a user namespace only.
    shown_settings=MappingProxyType({
        "vm.overcommit_memory": 1,
        "vm.panic_on_oom": 0,
        "kernel.panic": 10,
        "kernel.panic_on_oops": 1,
        "kernel.keys.root_maxkeys": 1_000_000,
        "kernel.keys.root_maxbytes": 25_000_000,
    }),
    # All machines of a trial site share one host's processors. These two lowered the load of an
    # idle site of four machines by a third (measured).
    housekeeping=60,
    environment=MappingProxyType({"GOMAXPROCS": "1"}),
    # Some hosts' kernels have no dummy devices, but all that run pods have bridges. A bridge
    # without ports drops all packets; without ARP it sends no requests first.
    sink="arp off type bridge",
)  # fmt: skip


def of(site: Site) -> HostProfile:
    """Return the profile of a site's hosts, workers included."""
    return TRIAL if site.trial else MACHINE
