"""What hosts of a site can be asked to do: one profile for machines, one for trial sites.

A container has its host's kernel: what it cannot load, set or lower stands here and nowhere else.
Inventory functions and preflight read it; roles are told by variables and know no kinds of machine.
A trial site on virtual machines has the trial profile too, so nothing in it may need a container.
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
    """What may be counted on.

    containers: a machine may be one, and its cgroups may be version 1. own_kernel: modules can be
    loaded and every setting is the machine's own; without it a module that cannot be loaded stops
    nothing, and only settings of the network namespace (net.*) are made. sets_clock: the clock is
    the machine's own. own_memory: swap is the machine's to turn off, and oom scores its to lower.
    """

    containers: bool = False
    own_kernel: bool = True
    sets_clock: bool = True
    own_memory: bool = True
    kubelet: Mapping[str, object] = field(default_factory=_nothing)
    """Keys of KubeletConfiguration, over the usual ones."""
    proxy: Mapping[str, object] = field(default_factory=_nothing)
    """Keys of KubeProxyConfiguration."""
    ignored_preflight: tuple[str, ...] = ()
    """Names of kubeadm's preflight checks whose errors are ignored (nodeRegistration)."""
    shown_settings: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Kernel settings by name that kubelet is shown where /proc/sys is read-only."""

    housekeeping: int = 0
    """Seconds between two looks of kubelet at what each container uses; 0 is kubelet's own ten."""
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """For Go's runtime, of the static pods and of etcd, containerd and kubelet."""

    sink: str = "type dummy"
    """Words of ip-link(8) for a network device that leads nowhere."""

    def settings(self, wanted: Mapping[str, int]) -> dict[str, int]:
        """Those of some kernel settings (sysctl names) that are made on such a host."""
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
        # In a user namespace: what kubelet cannot set there is no error. Elsewhere it says nothing.
        "featureGates": {"KubeletInUserNamespace": True},
        # The disk is the host's, with much that is not ours on it. Above 85 % kubelet would remove
        # every image that no pod uses just then, and a registry that runs as a pod with them.
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
    # One check of kubeadm's for kernel and cgroups: it wants cgroup v2 since kubelet 1.35, whatever
    # failCgroupV1 says, and the kernel's configuration in a file, which a container has not.
    ignored_preflight=("SystemVerification",),
    # kubelet ends when one of these is another and cannot be set (cm/container_manager_linux.go);
    # KubeletInUserNamespace forgives it in a user namespace only.
    shown_settings=MappingProxyType({
        "vm.overcommit_memory": 1,
        "vm.panic_on_oom": 0,
        "kernel.panic": 10,
        "kernel.panic_on_oops": 1,
        "kernel.keys.root_maxkeys": 1_000_000,
        "kernel.keys.root_maxbytes": 25_000_000,
    }),
    # All machines of a trial site share one host's processors. With these two an idle site of four
    # took a third less of them (measured).
    housekeeping=60,
    environment=MappingProxyType({"GOMAXPROCS": "1"}),
    # Not every host's kernel has dummy devices; a bridge is there wherever pods are. Without ports
    # it leads nowhere, without ARP it does not ask for an address first.
    sink="arp off type bridge",
)  # fmt: skip


def of(site: Site) -> HostProfile:
    """The profile of a site's hosts, its workers among them."""
    return TRIAL if site.trial else MACHINE
