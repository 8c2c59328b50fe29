"""The list of a bundle's images: those that the definition lists and those that charts need."""

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
    """List each image once: the definition's in their order, then the charts' sorted by name.

    For a reference with tag and digest the digest counts. Its tag remains its name, unless another
    reference has the same tag alone, which may point to other bytes by now.
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
            f"{need.image}: this is a SHA-512 digest, and bundles support SHA-256 only; "
            f"needed by: {discovery.why([need])}",
            hint="set another reference in the chart's values, or add it to its excludeImages",
        )
    return Reference.of(need.image)


def _order(reference: Reference) -> tuple[str, str, str]:
    return reference.name, reference.tag, reference.digest
