"""A commented site file to begin with: `keystone-install site init`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network
from typing import TYPE_CHECKING

from keystone import log
from keystone.hosts import observe
from keystone.hosts.facts import twins
from keystone.run import Host
from keystone.site.checks import LARGEST_PREFIX, unusable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keystone.hosts.facts import DiskFacts, HostFacts


SERIAL = r"[A-Za-z0-9_.:-]{1,64}"
"""What the schema takes for a disk's serial number."""


@dataclass(frozen=True)
class Start:
    """What the template is filled in with. disks: serial number and a comment for each."""

    name: str
    address: IPv4Interface
    disks: tuple[tuple[str, str], ...]
    others: tuple[str, ...] = ()


EXAMPLE = Start(
    "p1", IPv4Interface("10.77.0.11/24"), (("SERIAL-A", "first disk"), ("SERIAL-B", "second disk"))
)


PODS = ("10.244.0.0/16", "172.20.0.0/16")
SERVICES = ("10.96.0.0/16", "172.21.0.0/16")
"""What a site has by default, and what it has where its machines are in 10.0.0.0/8."""


def example() -> str:
    """Filled in with an example."""
    return render(EXAMPLE)


def probed() -> str:
    """Filled in with this machine: its name, address and blank disks. Raises HostError."""
    return render(start(observe.probe(Host("this machine", "127.0.0.1", local=True))))


def start(seen: HostFacts) -> Start:
    """The parts of a machine that a site file names. Pure."""
    name = re.sub(r"[^a-z0-9-]+", "-", seen.hostname.partition(".")[0].lower()).strip("-")
    same = twins(seen.disks)
    blank = [disk for disk in seen.disks if _blank(disk) and disk.serial not in same]
    ours = [interface for interface in _interfaces(seen) if usable(interface)]
    return Start(
        name=name if name and not unusable(name) else EXAMPLE.name,
        address=ours[0] if ours else EXAMPLE.address,
        disks=tuple((d.serial, _about(d)) for d in blank[:2]) or EXAMPLE.disks,
        others=tuple(
            _about(d, serial=True)
            + (", not the only one of its serial" if d.serial in same else "")
            for d in seen.disks
            if d not in blank[:2]
        ),
    )


def _blank(disk: DiskFacts) -> bool:
    """Whether a pool may be made of it, and a site file can name it."""
    named = re.fullmatch(SERIAL, disk.serial) is not None
    return named and disk.blank and not (disk.read_only or disk.portable)


def _interfaces(seen: HostFacts) -> list[IPv4Interface]:
    return [IPv4Interface(text) for text in seen.networks if ":" not in text]


def usable(interface: IPv4Interface) -> bool:
    """Whether a site can be there: no address of one link alone, and room for machines."""
    return not interface.is_link_local and interface.network.prefixlen <= LARGEST_PREFIX["nodes"]


def apart(nodes: IPv4Network, choices: Sequence[str]) -> str:
    """The first of these networks that has no address in common with the machines' own."""
    return next((text for text in choices if not nodes.overlaps(IPv4Network(text))), choices[0])


def _about(disk: DiskFacts, *, serial: bool = False) -> str:
    """For a comment: one line, whatever the hardware says of itself."""
    first = f"{disk.serial or 'no serial'}: " if serial else ""
    unread = f"cannot be read: {disk.unreadable}" if disk.unreadable else ""
    state = unread or ("blank" if disk.blank else "not blank")
    model = disk.model or "no model"
    text = f"{first}{disk.path}, {log.size(disk.size)}, {model}, {state}"
    return re.sub(r"[^ -~]", "?", text)


def render(with_: Start) -> str:
    """The file's text."""
    layout = "mirror" if len(with_.disks) > 1 else "single"
    return f"""\
# What one site asks of Keystone. Check it with: keystone-install site check FILE
apiVersion: keystone/v1alpha1
kind: Site
metadata:
  name: site
spec:
  # trial: true                    # for trying and testing, never for production: machines may
  #                                # be containers, layout may be directory (folders, no disks)
  # How this machine, the first Primer, logs in to the others.
  ssh:
    user: root
    port: 22
    # keyFile: ./id_ed25519        # relative to this file; default: OpenSSH's own
  # Three ranges with no address in common. Every Primer and LAN worker is in nodes.
  networks:
    nodes: {with_.address.network}
    pods: {apart(with_.address.network, PODS)}
    services: {apart(with_.address.network, SERVICES)}
    clusterDomain: cluster.local
  # One ZFS pool on each Primer. mirror takes two disks, single one (and is lost with it).
  storage:
    pool: keystone
    layout: {layout}
    ashift: 12                     # 4096-byte sectors; cannot be changed later
  # The offline root's key is made on the first Primer; carry it away afterwards.
  trust:
    rootKeyFile: ./site-root.key
    # passphraseFile: ./passphrase # without it you are asked
  # emulated: for virtual machines without hardware help
  patience:
    profile: normal
  # Clocks inside the gap; with none the Primers' own clocks are the site's time.
  time:
    sources: []
  # 1, 3 or 5 machines; the first is the one that keystone-install runs on.
  primers:
{_primers(with_)}"""


def _primers(with_: Start) -> str:
    disks = "\n".join(
        f"        - serial: {_quoted(serial)}  # {about}" for serial, about in with_.disks
    )
    others = "".join(f"      # also there: {line}\n" for line in with_.others)
    return f"""\
    - name: {_quoted(with_.name)}
      address: {with_.address.ip}
      disks:
{disks}
{others}      controlPlane: true
      kubelet: true
{_more(with_)}"""


def _more(with_: Start) -> str:
    lines: Sequence[str] = [
        "    # - name: p2",
        f"    #   address: {with_.address.ip + 1}",
        "    #   disks: [{serial: SERIAL-C}, {serial: SERIAL-D}]",
        "    #   hostKey: ssh-ed25519 AAAA...  # its /etc/ssh/ssh_host_ed25519_key.pub; else asked",
    ]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", text) and _is_word(text) else f'"{text}"'


def _is_word(text: str) -> bool:
    return text.lower() not in ("true", "false", "null", "yes", "no", "on", "off", "y", "n")
