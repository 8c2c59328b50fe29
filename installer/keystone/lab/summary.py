"""The end of a demo: where the machines are, how to look around, what this lab cannot show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone import log

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SHOWN_BY_VIRTUAL = (
    ("disks and ZFS", "pools on NVMe, a failed disk, a power cut"),
    ("boot and kernels", "the installer medium, firmware, modules, upgrades"),
    ("Secure Boot, watchdogs", "signed kernels, machines that start again by themselves"),
)
"""What a container has none of, and what of Keystone it cannot show therefore."""


def limits(kind: str) -> tuple[str, ...]:
    """What machines of this kind do not show, and how to see it. kind: container or virtual."""
    if kind != "container":
        return ()
    wide = max(len(what) for what, _ in SHOWN_BY_VIRTUAL)
    return (
        "These machines were containers. What they cannot show, `make demo-machines` does:",
        *(f"  {what:<{wide}}  {which}" for what, which in SHOWN_BY_VIRTUAL),
    )


def commands(primer: str, name: str = "") -> tuple[tuple[str, str], ...]:
    """Commands to look around with, each with what it is for.

    primer: one with an API server. name: of the lab, where it is not the usual one.
    """
    lab, which = "keystone-install lab", f" --name {name}" if name else ""
    return (
        (f"{lab} ssh{which} {primer}", f"a shell on {primer}"),
        (f"{lab} ssh{which} {primer} -- kubectl get pods -A", "what runs in the cluster"),
        (f"{lab} ssh{which} {primer} -- keystone-install etcd status", "the quorum"),
        (f"{lab} status{which}", "machines, and packets that tried to get out"),
        ("make demo-down", "removes it all"),
    )


def around(addresses: Mapping[str, str], primer: str, program: str, name: str = "") -> str:
    """Text: the machines' addresses and what to type.

    program: how keystone-install is called. name: of the lab, where it is not the usual one.
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
    """Print it all. cluster: tables as kubectl prints them. look: what `around` says."""
    for text in cluster:
        log.out(text)
    log.table(["counter", "packets"], sorted(leaks.items()), title="Packets that tried to get out",
              numbers=[1])  # fmt: skip
    log.out("")
    log.table(["part", "time"], times, title="Time", numbers=[1])
    log.out(f"\n{look}")
    if kind == "container":
        log.out("\n" + "\n".join(limits(kind)))
