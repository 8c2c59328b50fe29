"""The lab's network: one bridge in a network namespace without other connections.

No packet can leave, since the namespace has only the bridge and the machines' devices, and does not
forward. Every machine nevertheless has a default route to the namespace: a packet for the internet
is sent, arrives at the bridge, and is counted and dropped there, instead of failing unseen inside
the machine. The counters are the evidence of the air gap.

How the filter classifies packets (nft(8), family bridge, hook prerouting, so each frame once):
declared   IPv4 between addresses of the lab's network, VXLAN and the like included
gateway    answers to the namespace's own address: ssh from the host side, echo (0), unreachable (3)
local      ARP inside the network, IPv6 neighbour discovery, multicast and DHCP: never routed
leak_dns   port 53 to any address: names must be resolved in the pod network, not on this one
leak       everything else
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from keystone.run import run

if TYPE_CHECKING:
    from keystone.lab.settings import LabSettings, MachineSettings

BRIDGE = "br-keystone"
LEAKS = ("leak", "leak_dns")


def ruleset(lab: LabSettings) -> str:
    """The nftables rules of the namespace."""
    net, gateway = lab.network, lab.gateway
    return f"""\
table bridge keystone
delete table bridge keystone
table bridge keystone {{
  counter declared {{ }}
  counter gateway {{ }}
  counter local {{ }}
  counter leak_dns {{ }}
  counter leak {{ }}
  set leaked {{
    type ipv4_addr . ipv4_addr
    flags dynamic
    size 4096
  }}
  chain ingress {{
    type filter hook prerouting priority -300; policy accept
    udp dport 53 update @leaked {{ ip saddr . ip daddr }} counter name leak_dns drop
    tcp dport 53 update @leaked {{ ip saddr . ip daddr }} counter name leak_dns drop
    ether type arp arp daddr ip {net} counter name local accept
    ip daddr {gateway} icmp type {{ 0, 3 }} counter name gateway accept
    ip daddr {gateway} tcp flags & (syn | ack) != syn counter name gateway accept
    ip daddr {{ {net.network_address}, {gateway} }} goto leaking
    ip daddr {net} counter name declared accept
    ip daddr {{ 224.0.0.0/4, 255.255.255.255 }} counter name local drop
    ip6 daddr {{ fe80::/10, ff00::/8 }} counter name local drop
    goto leaking
  }}
  chain leaking {{
    ether type ip update @leaked {{ ip saddr . ip daddr }}
    counter name leak drop
  }}
}}
"""


def up(lab: LabSettings) -> None:
    """Make the namespace, its bridge and its counters, unless they exist.

    An incomplete one is made again; the counters are made last.
    """
    if counters(lab):
        return
    down(lab)
    run(["ip", "netns", "add", lab.namespace])
    inside = prefix(lab)
    for argv in (
        ["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv4.ip_forward=0"],
        ["ip", "link", "set", "lo", "up"],
        ["ip", "link", "add", BRIDGE, "type", "bridge", "stp_state", "0", "forward_delay", "0"],
        ["ip", "address", "add", f"{lab.gateway}/{lab.network.prefixlen}", "dev", BRIDGE],
        ["ip", "link", "set", BRIDGE, "up"],
    ):
        run([*inside, *argv])
    run([*inside, "nft", "-f", "-"], data=ruleset(lab))


def device(machine: MachineSettings) -> str:
    """Name of the machine's network device in the lab's namespace."""
    return f"tap-{machine.name}"


def plug(lab: LabSettings, tap: str) -> None:
    """Make a virtual machine's tap on the bridge, unless it exists."""
    inside = prefix(lab)
    if run([*inside, "ip", "link", "show", tap], check=False).returncode != 0:
        run([*inside, "ip", "tuntap", "add", tap, "mode", "tap"])
    run([*inside, "ip", "link", "set", tap, "master", BRIDGE, "up"])


def pair(lab: LabSettings, machine: MachineSettings, pid: int) -> None:
    """Make a container machine's link (veth(4)): one end on the bridge, "lan" at the process `pid`.

    The kernel removes both with the machine's namespace, a moment after its last process.
    """
    inside, name = prefix(lab), device(machine)
    run([*inside, "ip", "link", "delete", name], check=False)
    run([
        *inside, "ip", "link", "add", name, "type", "veth",
        "peer", "name", "lan", "address", machine.mac, "netns", str(pid),
    ])  # fmt: skip
    run([*inside, "ip", "link", "set", name, "master", BRIDGE, "up"])


def plugged(lab: LabSettings, machine: MachineSettings) -> bool:
    """Whether the machine's device exists, on the bridge or not."""
    argv = [*prefix(lab), "ip", "link", "show", device(machine)]
    return run(argv, check=False).returncode == 0


def joined(lab: LabSettings, machine: MachineSettings) -> bool:
    """Whether the machine's device is on the bridge."""
    argv = [*prefix(lab), "ip", "-json", "link", "show", device(machine)]
    shown = run(argv, check=False).stdout
    return bool(shown) and json.loads(shown)[0].get("master") == BRIDGE


def join(lab: LabSettings, name: str, *, joined: bool) -> None:
    """Put a machine's device on the bridge, or remove it from the bridge."""
    where = ["master", BRIDGE] if joined else ["nomaster"]
    run([*prefix(lab), "ip", "link", "set", name, *where])


def down(lab: LabSettings) -> None:
    """Remove the namespace, and with it its devices."""
    if lab.namespace in names():
        run(["ip", "netns", "delete", lab.namespace])


def names() -> set[str]:
    """The names of the named network namespaces of this host."""
    listed = json.loads(run(["ip", "-json", "netns", "list"]).stdout or "[]")
    return {entry["name"] for entry in listed}


def prefix(lab: LabSettings) -> tuple[str, ...]:
    """The words that run a command inside the lab's network."""
    return ("ip", "netns", "exec", lab.namespace)


def counters(lab: LabSettings) -> dict[str, int]:
    """Packets by counter since the network was made; empty without a network."""
    if lab.namespace not in names():
        return {}
    text = run([*prefix(lab), "nft", "-j", "list", "counters"]).stdout
    entries = (entry.get("counter") for entry in json.loads(text)["nftables"])
    return {entry["name"]: int(entry["packets"]) for entry in entries if entry}


def leaked(lab: LabSettings) -> list[str]:
    """Source and target of leaked packets: "10.77.0.11 > 8.8.8.8"."""
    if lab.namespace not in names():
        return []
    argv = [*prefix(lab), "nft", "-j", "list", "set", "bridge", "keystone", "leaked"]
    return pairs(run(argv).stdout)


def pairs(listing: str) -> list[str]:
    """The pairs of addresses in `nft -j list set` of a concatenated set."""
    found = []
    for entry in json.loads(listing)["nftables"]:
        for element in entry.get("set", {}).get("elem", []):
            value = element["elem"]["val"] if "elem" in element else element
            source, target = value["concat"]
            found.append(f"{source} > {target}")
    return sorted(found)
