"""Machines for tests that need real ones: booted once per module, removed at its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from keystone.lab.carry import carry
from keystone.lab.machines import network
from keystone.lab.machines.lab import Lab

from .rig import KIND

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystone.lab.carry import Carried


@dataclass(frozen=True)
class Booted:
    """A lab whose machines p1 and w1 run, and its counters at that moment."""

    lab: Lab
    counters: dict[str, int]


@pytest.fixture(scope="module")
def booted() -> Iterator[Booted]:
    lab = Lab("test", kind=KIND)
    lab.down(purge=True)
    try:
        lab.up(["p1", "w1"])
        yield Booted(lab, network.counters(lab.settings))
    finally:
        lab.down(purge=True)


@pytest.fixture(scope="module")
def lab(booted: Booted) -> Lab:
    return booted.lab


@pytest.fixture(scope="session")
def bundle() -> Carried:
    """The demo's bundle; existing parts of it are not made again."""
    return carry(Lab("").folder)
