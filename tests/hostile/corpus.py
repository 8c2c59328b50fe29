"""All of the hostile corpus: the families of input, their classes, and who reads them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import delta_variants
import have_variants
import parts_variants
import variants
from variants import Variant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Maker = Callable[[random.Random], Variant]


@dataclass(frozen=True)
class Family:
    """One kind of input. codes: the codes that a class may meet: its own, and those of what a
    reader sees before. readers: who is given it; see reader_process.py."""

    name: str
    classes: Mapping[str, Maker]
    codes: Mapping[str, frozenset[str]]
    honest: Maker
    readers: tuple[str, ...]

    def class_of(self, number: int) -> str:
        """The classes take turns."""
        names = tuple(self.classes)
        return names[number % len(names)]

    def variant(self, seed: int, number: int, *, honest: bool = False) -> tuple[str, Variant]:
        """The variant with this number: all but its class comes from the seed."""
        # As the first family had it before there were others: its variants keep their numbers.
        prefix = "" if self.name == "bundle" else f"{self.name} "
        if honest:
            return "honest", self.honest(random.Random(f"{prefix}honest {seed} {number}"))
        name = self.class_of(number)
        return name, self.classes[name](random.Random(f"{prefix}{seed} {number}"))


FAMILIES = {
    name: Family(name, found.CLASSES, found.CODES, found.honest, readers)
    for name, found, readers in (
        ("bundle", variants, ("verify", "ingest")),
        ("delta", delta_variants, ("verify", "ingest")),
        ("have", have_variants, ("have",)),
        ("parts", parts_variants, ("parts", "join")),
    )
}
