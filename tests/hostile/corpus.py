"""The hostile corpus: the families of input, their classes and their readers."""

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
    """One kind of input.

    codes: the allowed error codes of each class: its own, and those of earlier checks. readers: see
    reader_process.py.
    """

    name: str
    classes: Mapping[str, Maker]
    codes: Mapping[str, frozenset[str]]
    valid: Maker
    readers: tuple[str, ...]

    def class_of(self, number: int) -> str:
        """The class of a variant: classes alternate by number."""
        names = tuple(self.classes)
        return names[number % len(names)]

    def variant(self, seed: int, number: int, *, valid: bool = False) -> tuple[str, Variant]:
        """Name of the class, and the variant; all except the class depends on the seed."""
        # Without a prefix for the first family, so its variants keep their numbers.
        prefix = "" if self.name == "bundle" else f"{self.name} "
        if valid:
            return "valid", self.valid(random.Random(f"{prefix}honest {seed} {number}"))
        name = self.class_of(number)
        return name, self.classes[name](random.Random(f"{prefix}{seed} {number}"))


FAMILIES = {
    name: Family(name, found.CLASSES, found.CODES, found.valid, readers)
    for name, found, readers in (
        ("bundle", variants, ("verify", "ingest")),
        ("delta", delta_variants, ("verify", "ingest")),
        ("have", have_variants, ("have",)),
        ("parts", parts_variants, ("parts", "join")),
    )
}
