"""The images of a bundle in one list: what its definition names and what its charts ask for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from keystone.errors import SourceError
from keystone.packager.charts import discovery
from keystone.packager.definition import Image
from keystone.packager.sources.oci import Reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keystone.packager.charts.discovery import Need

LISTED = "the definition lists it"


def wanted(images: Sequence[Image], needs: Sequence[tuple[Need, str]]) -> tuple[Image, ...]:
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
        if reference not in listed:
            found.append(Image(here, groups[reference], why=reasons))
        elif reasons:
            found.append(replace(listed[reference], reference=here, why=f"{LISTED}; {reasons}"))
        else:
            found.append(replace(listed[reference], reference=here))
    return tuple(found)


def _reference(need: Need) -> Reference:
    if need.image.digest.startswith("sha512:"):
        raise SourceError(
            f"{need.image}: named by a SHA-512 digest, and bundles carry SHA-256 only; "
            f"asked for by: {discovery.why([need])}",
            hint="give the chart another name of it under values, or excludeImages and a reason",
        )
    return Reference.of(need.image)


def _order(reference: Reference) -> tuple[str, str, str]:
    return reference.name, reference.tag, reference.digest
