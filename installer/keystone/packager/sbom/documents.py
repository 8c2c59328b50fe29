"""The documents as they come out of a bundle: found, and checked against their schemas."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

from keystone.errors import DamagedBundleError, UsageError

if TYPE_CHECKING:
    from keystone.bundle.report.preview import Looked

MOST = 20


def of(looked: Looked, name: str) -> bytes:
    """The document's bytes. Raises UsageError when the bundle was made without."""
    data = looked.document(name)
    if data is None:
        raise UsageError(
            f"{looked.bundle.path}: no {name} inside",
            hint="it was locked with --no-sbom or by an old Keystone, or it is cut",
        )
    return data


def validate(name: str, data: bytes) -> None:
    """Raises DamagedBundleError with the first mistakes of a document that breaks its schema."""
    try:
        mistakes = _mistakes(name, data)
    except ImportError as error:
        raise UsageError(
            f"to validate, Python packages are needed that are not here: {error.name}",
            hint="install keystone[packager]",
        ) from error
    if mistakes:
        listed = "\n  ".join(mistake.partition("\n")[0][:200] for mistake in mistakes[:MOST])
        raise DamagedBundleError(f"{name}: {len(mistakes)} mistakes:\n  {listed}")


def _mistakes(name: str, data: bytes) -> list[str]:
    from keystone.packager.sbom import (  # noqa: PLC0415 the packager's machine has them
        cyclonedx,
        provenance,
        spdx,
    )

    if name == "sbom.cdx.json":
        return cyclonedx.validate(data.decode())
    if name == "provenance.json":
        return provenance.validate(data)
    with tempfile.NamedTemporaryFile(suffix=".spdx.json") as file:
        file.write(data)
        file.flush()
        return spdx.validate(file.name)
