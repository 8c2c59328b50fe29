"""A commented site file to start from: `keystone-install site init`."""

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
"""Serial numbers of disks that the schema accepts."""


@dataclass(frozen=True)
class Start:
    """Values for the template. disks: serial number and comment of each. others: comments."""

    name: str
    address: IPv4Interface
    disks: tuple[tuple[str, str], ...]
    others: tuple[str, ...] = ()


EXAMPLE = Start(
    "p1", IPv4Interface("10.77.0.11/24"), (("SERIAL-A", "first disk"), ("SERIAL-B", "second disk"))
)


PODS = ("10.244.0.0/16", "172.20.0.0/16")
SERVICES = ("10.96.0.0/16", "172.21.0.0/16")
"""Default networks, and those for a site whose machines' network overlaps the default ones."""


def example() -> str:
    """Return the template with example values."""
    return render(EXAMPLE)


def probed() -> str:
    """Return the template with this machine's name, address and blank disks. Raises HostError."""
    return render(start(observe.probe(Host("this machine", "127.0.0.1", local=True))))


def start(seen: HostFacts) -> Start:
    """Choose the values of a machine for a site file. Pure."""
    name = re.sub(r"[^a-z0-9-]+", "-", seen.hostname.partition(".")[0].lower()).strip("-")
    same = twins(seen.disks)
    blank = [disk for disk in seen.disks if _blank(disk) and disk.serial not in same]
    ours = [interface for interface in _interfaces(seen) if usable(interface)]
    return Start(
        name=name if name and not unusable(name) else EXAMPLE.name,
        address=ours[0] if ours else EXAMPLE.address,
        disks=tuple((d.serial, _about(d)) for d in blank[:2]) or EXAMPLE.disks,
        others=tuple(
            _about(d, serial=True) + (", serial number not unique" if d.serial in same else "")
            for d in seen.disks
            if d not in blank[:2]
        ),
    )


def _blank(disk: DiskFacts) -> bool:
    """Return whether a pool may use a disk, and a site file can name it."""
    named = re.fullmatch(SERIAL, disk.serial) is not None
    return named and disk.blank and not (disk.read_only or disk.portable)


def _interfaces(seen: HostFacts) -> list[IPv4Interface]:
    return [IPv4Interface(text) for text in seen.networks if ":" not in text]


def usable(interface: IPv4Interface) -> bool:
    """Return whether a site can use an interface: not link-local, and room for machines."""
    return not interface.is_link_local and interface.network.prefixlen <= LARGEST_PREFIX["nodes"]


def apart(nodes: IPv4Network, choices: Sequence[str]) -> str:
    """Return the first of `choices` that does not overlap the machines' network."""
    return next((text for text in choices if not nodes.overlaps(IPv4Network(text))), choices[0])


def _about(disk: DiskFacts, *, serial: bool = False) -> str:
    """Describe a disk in a one-line comment, whatever the hardware reports."""
    first = f"{disk.serial or 'no serial'}: " if serial else ""
    unread = f"cannot be read: {disk.unreadable}" if disk.unreadable else ""
    state = unread or ("blank" if disk.blank else "not blank")
    model = disk.model or "no model"
    text = f"{first}{disk.path}, {log.size(disk.size)}, {model}, {state}"
    return re.sub(r"[^ -~]", "?", text)


def render(with_: Start) -> str:
    """Return the text of the site file."""
    layout = "mirror" if len(with_.disks) > 1 else "single"
    return f"""\
# The site file of one site. Check it with: keystone-install site check FILE
apiVersion: keystone/v1alpha1
kind: Site
metadata:
  name: site
spec:
  # trial: true                    # for tests, never for production: machines may be
  #                                # containers, layout may be directory (folders, no disks)
  # How this machine, the first Primer, logs in to the others.
  ssh:
    user: root
    port: 22
    # keyFile: ./id_ed25519        # relative to this file; default: OpenSSH's keys
  # Three ranges that do not overlap. All Primers and LAN workers are in nodes.
  networks:
    nodes: {with_.address.network}
    pods: {apart(with_.address.network, PODS)}
    services: {apart(with_.address.network, SERVICES)}
    clusterDomain: cluster.local
  # One ZFS pool on each Primer. mirror needs two disks; single needs one, without redundancy.
  storage:
    pool: keystone
    layout: {layout}
    ashift: 12                     # 4096-byte sectors; cannot be changed later
  # The first Primer makes the offline root's key; carry it away afterwards.
  trust:
    rootKeyFile: ./site-root.key
    # passphraseFile: ./passphrase # default: keystone-install asks
  # emulated: for virtual machines without hardware acceleration
  patience:
    profile: normal
  # Time servers inside the air gap; with none, the Primers' clocks are the site's time.
  time:
    sources: []
  # 1, 3 or 5 machines; keystone-install runs on the first one.
  primers:
{_primers(with_)}"""


def _primers(with_: Start) -> str:
    disks = "\n".join(
        f"        - serial: {_quoted(serial)}  # {about}" for serial, about in with_.disks
    )
    others = "".join(f"      # other disk: {line}\n" for line in with_.others)
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
