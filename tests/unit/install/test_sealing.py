"""When the Primers are sealed for each other: at first, for one more, for one less, never."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from keystone.hosts.facts import RoleFacts, SealFacts
from keystone.install import phases, sealing
from keystone.site.model import Trust

from .test_phases import state

if TYPE_CHECKING:
    from keystone.install.state import State


def sealed(*names: str) -> State:
    """Return the site with the role seal applied to these Primers, for today's peers."""
    there = state()
    facts = {
        name: replace(seen, seal=SealFacts(f"key-{name}" if name in names else ""))
        for name, seen in there.facts.items()
    }
    there = replace(there, facts=facts)
    for node in there.site.primers:
        if node.name in names:
            inputs = str(there.variables(node, "seal")["seal_inputs"])
            seen = replace(facts[node.name], roles={"seal": RoleFacts(inputs)})
            facts = {**facts, node.name: seen}
    return replace(there, facts=facts)


def described(there: State) -> list[str]:
    return [action.describe() for action in sealing.plan(there)]


def test_new_site_learns_the_keys_before_it_seals() -> None:
    assert described(sealed()) == [
        "p1 p2 p3: converge seal",
        "p1 p2 p3: look at the key with which they open for others",
        "p1 p2 p3: converge seal",
    ]


def test_sealed_site_needs_nothing() -> None:
    assert described(sealed("p1", "p2", "p3")) == []


def test_primer_that_joins_is_asked_and_then_all_are_sealed_for_it() -> None:
    assert described(sealed("p1", "p2")) == [
        "p3: converge seal",
        "p3: look at the key with which they open for others",
        "p1 p2 p3: converge seal",
    ]


def test_machine_with_another_key_is_sealed_for_by_the_others() -> None:
    there = sealed("p1", "p2", "p3")
    other = replace(there.facts["p3"], seal=SealFacts("another"))
    assert described(replace(there, facts={**there.facts, "p3": other})) == ["p1 p2: converge seal"]


def test_primer_that_leaves_is_no_peer_before_it_stops() -> None:
    there = sealed("p1", "p2", "p3")
    two = replace(there, site=replace(there.site, primers=there.site.primers[:2]))
    assert described(two) == ["p1 p2: converge seal"]
    names = [phase.name for phase in phases.PHASES]
    assert names.index("control plane") < names.index("seal") < names.index("removal")


def test_last_primer_and_a_site_that_wants_none_get_plain_keys_again() -> None:
    there = sealed("p1", "p2", "p3")
    alone = replace(there, site=replace(there.site, primers=there.site.primers[:1]))
    assert described(alone) == ["p1: converge seal"]
    none = replace(there, site=replace(there.site, trust=Trust(seal="none")))
    assert described(none) == ["p1 p2 p3: converge seal"]
    assert json.loads(str(none.variables(none.site.primers[0], "seal")["seal_peers"])) == []


def test_site_that_never_sealed_and_does_not_want_to_needs_nothing() -> None:
    there = state()
    none = replace(there, site=replace(there.site, trust=Trust(seal="none")))
    assert described(none) == []
    assert described(replace(there, site=replace(there.site, primers=there.site.primers[:1]))) == []
