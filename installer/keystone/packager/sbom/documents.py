"""Read the SBOM and provenance documents in a bundle, and validate them against their schemas."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

from keystone import log
from keystone.errors import DamagedBundleError, UsageError

if TYPE_CHECKING:
    from keystone.bundle.report.preview import Preview

MOST = 20


def of(preview: Preview, name: str) -> bytes:
    """Return a document's bytes. Raises UsageError when the bundle does not contain it."""
    data = preview.document(name)
    if data is None:
        raise UsageError(
            f"{preview.bundle.path}: contains no {name}",
            hint="it was locked with --no-sbom or by an old Keystone, or the file is incomplete",
        )
    return data


def validate(name: str, data: bytes) -> None:
    """Validate a document. Raises DamagedBundleError with the first MOST mistakes."""
    try:
        mistakes = _mistakes(name, data)
    except ImportError as error:
        raise UsageError(
            f"validation needs a Python package that is not installed: {error.name}",
            hint="install keystone[packager]",
        ) from error
    if mistakes:
        listed = "\n  ".join(mistake.partition("\n")[0][:200] for mistake in mistakes[:MOST])
        count = log.count(len(mistakes), "mistake")
        raise DamagedBundleError(f"{name}: {count}:\n  {listed}")


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
