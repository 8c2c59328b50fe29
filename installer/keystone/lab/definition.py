"""Change versions or digests in the production bundle definition.

Bundles of the lab have the content of `bundles/platform.yaml`. Only versions (an older release, to
upgrade from) and `sha256` (from the real upstreams' checksum files) are changed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keystone.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.lab.mirror.catalogue import Catalogue

Document = dict[str, Any]


def of_release(document: Mapping[str, Any], catalogue: Catalogue, release: str) -> Document:
    """The definition with the images and binaries of an older release instead of its own.

    An image replaces the one with the same repository, a file replaces the binary that it names.
    Raises UsageError for a release that is not in the catalogue.
    """
    if release not in catalogue.releases:
        known = ", ".join(catalogue.releases)
        raise UsageError(
            f"{release}: no such release in the catalogue", hint=f"use one of: {known}"
        )
    files = {file.binary: file for file in catalogue.files if file.release == release}
    refs = {image.repository: image.ref for image in catalogue.images if image.release == release}
    spec = dict(document["spec"])
    spec["images"] = [
        {**entry, "ref": refs.get(entry["ref"].rpartition(":")[0], entry["ref"])}
        for entry in spec["images"]
    ]
    spec["binaries"] = [
        {**entry, "url": files[entry["name"]].url, "version": _version(catalogue, entry["name"],
                                                                        release)}
        if entry["name"] in files else entry
        for entry in spec["binaries"]
    ]  # fmt: skip
    return {**document, "spec": spec}


def _version(catalogue: Catalogue, binary: str, release: str) -> str:
    part = catalogue.only([release])
    file = next(file for file in part.files if file.binary == binary)
    return part.programs[file.name].version


def with_checksums(document: Mapping[str, Any], digests: Mapping[str, str]) -> Document:
    """The definition with `sha256` at each binary with a digest. digests: URL -> 64 hex digits."""
    spec = dict(document["spec"])
    spec["binaries"] = [
        {**entry, "sha256": digests[entry["url"]]} if entry["url"] in digests else entry
        for entry in spec["binaries"]
    ]
    return {**document, "spec": spec}
