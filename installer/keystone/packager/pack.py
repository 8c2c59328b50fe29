"""Pack a bundle, from its lock to a file: the table of contents.

members.py makes the members, writer.py writes their bytes; this module sets their order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone.packager import issued_numbers, members, writer
from keystone.packager.sbom import describe
from keystone.packager.supply import Supply

if TYPE_CHECKING:
    from pathlib import Path

    from keystone.packager.delta import Receiver
    from keystone.packager.lock import Lock
    from keystone.packager.members import Part, Signing
    from keystone.packager.sources.upstream import Sources
    from keystone.packager.writer import Created


def create(
    lock: Lock, folder: Path, output: Path, signing: Signing, sources: Sources,
    receiver: Receiver | None = None,
) -> Created:  # fmt: skip
    """Write the bundle of a lock, or the delta for a receiver; each bundle number is used once.

    folder: of the lock file, for local sources. Raises ConfigurationError for a number that was
    used before, SourceError when an upstream serves other bytes than the lock names.
    """
    issued_numbers.claim(signing.folder, lock)
    describe.restore(lock, folder, sources)
    make = receiver.create if receiver else bundle
    return make(lock, folder, output, signing, sources)


def bundle(lock: Lock, folder: Path, output: Path, signing: Signing, sources: Sources) -> Created:
    """Write the full bundle, without the check of its number."""
    supply = Supply(folder, sources)
    parts = plan(lock, signing, supply)
    return writer.write(parts, lock, output, supply)


def plan(lock: Lock, signing: Signing, supply: Supply) -> list[Part]:
    """Return every member in order: signed head, contents, installer, layout, then blobs."""
    blobs = members.blobs(lock, supply)
    parts = [
        members.contents(lock),
        *members.installer(blobs),
        *members.layout(lock, blobs),
        *members.content(blobs),
    ]
    return [*members.signed_head(parts, lock, signing), *parts]
