"""The end of a demo: its machines, commands to look around with, limits of this kind of lab."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone import log

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SHOWN_BY_VIRTUAL = (
    ("disks and ZFS", "pools on NVMe, a failed disk, a power failure"),
    ("boot and kernels", "the installer medium, firmware, modules, upgrades"),
    ("Secure Boot, watchdogs", "signed kernels, machines that restart by themselves"),
)
"""What containers lack, and which features of Keystone they therefore cannot show."""


def limits(kind: str) -> tuple[str, ...]:
    """Lines on what machines of this kind cannot show. kind: container or virtual."""
    if kind != "container":
        return ()
    wide = max(len(what) for what, _ in SHOWN_BY_VIRTUAL)
    return (
        "These machines were containers. `make demo-machines` also shows:",
        *(f"  {what:<{wide}}  {which}" for what, which in SHOWN_BY_VIRTUAL),
    )


def commands(primer: str, name: str = "") -> tuple[tuple[str, str], ...]:
    """Commands to look around with, each with its purpose.

    primer: one with an API server. name: of the lab, "" for the default.
    """
    lab, which = "keystone-install lab", f" --name {name}" if name else ""
    return (
        (f"{lab} ssh{which} {primer}", f"a shell on {primer}"),
        (f"{lab} ssh{which} {primer} -- kubectl get pods -A", "pods of the cluster"),
        (f"{lab} ssh{which} {primer} -- keystone-install etcd status", "the quorum"),
        (f"{lab} status{which}", "machines, and packets that tried to leave the network"),
        ("make demo-down", "remove all of this"),
    )


def around(addresses: Mapping[str, str], primer: str, program: str, name: str = "") -> str:
    """Text with the machines' addresses and the commands.

    program: the command line of keystone-install. name: of the lab, "" for the default.
    """
    wide = max((len(name) for name in addresses), default=0)
    typed = [
        (line.replace("keystone-install lab", f"{program} lab", 1), what)
        for line, what in commands(primer, name)
    ]
    return "\n".join((
        "Machines",
        *(f"  {name:<{wide}}  {address}" for name, address in addresses.items()),
        "",
        "Look around",
        *(f"  # {what}\n  {line}" for line, what in typed),
    ))  # fmt: skip


def show(
    cluster: Iterable[str],
    leaks: Mapping[str, int],
    times: Sequence[tuple[str, str]],
    look: str,
    kind: str,
) -> None:
    """Print the summary. cluster: tables of kubectl. look: the text of `around`."""
    for text in cluster:
        log.out(text)
    log.table(["counter", "packets"], sorted(leaks.items()), title="Packets that tried to leave",
              numbers=[1])  # fmt: skip
    log.out("")
    log.table(["part", "time"], times, title="Time", numbers=[1])
    log.out(f"\n{look}")
    if kind == "container":
        log.out("\n" + "\n".join(limits(kind)))
