"""The images of a bundle in one list: what its definition names and what its charts ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone.bundle import discovery
from keystone.bundle.source_oci import Reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keystone.bundle.definition import Image
    from keystone.bundle.discovery import Need

LISTED = "the definition lists it"


@dataclass(frozen=True)
class Wanted:
    """An image to look up. why: "" when the definition lists it and nothing else asks for it."""

    reference: Reference
    group: str
    why: str


def wanted(images: Sequence[Image], needs: Sequence[tuple[Need, str]]) -> tuple[Wanted, ...]:
    """Each image once: the definition's in their order, then the charts' by name.

    A tag with a digest is that digest; the tag is kept as its name unless another asks for the
    plain tag, which may mean other bytes by now.
    """
    listed = {image.reference: image for image in images}
    asked: dict[Reference, list[Need]] = {}
    groups: dict[Reference, str] = {}
    for need, group in needs:
        reference = _reference(need)
        asked.setdefault(reference, []).append(need)
        groups.setdefault(reference, group)
    every = [*listed, *sorted(asked.keys() - listed.keys(), key=_order)]
    taken: set[tuple[str, str]] = {(r.name, r.tag) for r in every if not r.digest}
    found = []
    for reference in every:
        here = reference
        if reference.digest:
            tag = reference.tag
            if not tag or (reference.name, tag) in taken:
                tag = reference.digest
            here = Reference(reference.host, reference.repository, tag, reference.digest)
            taken.add((here.name, here.tag))
        reasons = discovery.why(asked.get(reference, ()))
        if reference in listed and reasons:
            reasons = f"{LISTED}; {reasons}"
        group = listed[reference].group if reference in listed else groups[reference]
        found.append(Wanted(here, group, reasons))
    return tuple(dict.fromkeys(found))


def _reference(need: Need) -> Reference:
    image = need.image
    if image.digest and not image.tag:
        return Reference(image.host, image.repository, image.digest)
    return Reference(image.host, image.repository, image.tag, image.digest)


def _order(reference: Reference) -> tuple[str, str, str]:
    return reference.name, reference.tag, reference.digest
