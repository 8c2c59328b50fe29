"""Variables of the role `kernel`: modules and settings of every node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone.site import host_profile

if TYPE_CHECKING:
    from keystone.cluster.context import Context

MODULES = ("overlay", "br_netfilter", "nf_conntrack", "vxlan")
SYSCTLS = {
    "net.ipv4.ip_forward": 1,
    "net.bridge.bridge-nf-call-iptables": 1,
    "net.bridge.bridge-nf-call-ip6tables": 1,
    "vm.overcommit_memory": 1,
    "kernel.panic": 10,
    "kernel.panic_on_oops": 1,
    "fs.inotify.max_user_instances": 1024,
}


def variables(context: Context) -> dict[str, object]:
    """Return the role's variables, without `kernel_inputs`; images/*/image.yaml must agree."""
    settings = host_profile.of(context.site).settings(SYSCTLS)
    return {"kernel_modules": list(MODULES), "kernel_sysctls": settings}
