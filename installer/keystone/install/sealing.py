"""The phase that seals the keys on each Primer's disk: any other Primer opens them after a start.

Each tang makes its own key, so a Primer that joins is asked for it first; then all are sealed again
for all of their peers. A Primer that leaves is dropped before its tang ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone.install.actions import Converge, World
from keystone.install.engine import Action
from keystone.pki import seal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keystone.install.state import State


@dataclass(frozen=True)
class LearnPeers(Action[World]):
    """Observe the hosts again, for the thumbprints of those whose tang has just made its key."""

    hosts: tuple[str, ...]

    def describe(self) -> str:
        """Name the hosts."""
        return f"{' '.join(self.hosts)}: look at the key with which they open for others"

    def apply(self, world: World) -> None:
        """Observe all hosts."""
        world.state = world.observe()


def plan(state: State) -> Sequence[Action[World]]:
    """Return what is needed until each Primer is sealed for today's other Primers, or plain."""
    every = state.site.primers
    if not seal.wanted(state.site):
        every = tuple(node for node in every if "seal" in state.facts[node.name].roles)
    elif new := tuple(n.name for n in every if not state.facts[n.name].seal.thumbprint):
        all_ = tuple(node.name for node in every)
        return [_converge(new), LearnPeers(new), _converge(all_)]
    hosts = tuple(node.name for node in every if not state.converged(node, "seal"))
    return [_converge(hosts)] if hosts else []


def _converge(hosts: tuple[str, ...]) -> Converge:
    return Converge("seal", hosts, ("seal",))
