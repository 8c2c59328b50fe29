"""Check that Helm can safely open a chart's archive: regular files in one folder, within limits.

The limits are Helm's own where it has some (CVE-2025-32386: 100 MiB in total, 5 MiB per file).
All links are refused (CVE-2025-53547: a linked Chart.lock).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone.bundle.formats import compressed, foreign_tar
from keystone.bundle.formats.strict_json import brief
from keystone.errors import DamagedBundleError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from keystone.bundle.model import Digest, Item
    from keystone.bundle.read.blobs import Blobs

LIMITS = foreign_tar.Limits(total=100 << 20, member=5 << 20, count=10_000)
LAYER = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
"""The media type of a chart's archive in a registry (Helm, OCI support)."""
GZIP = b"\x1f\x8b"


def check(item: Item, digest: Digest, blobs: Blobs) -> None:
    """Check the chart archive with this digest. item: for messages.

    Raises DamagedBundleError (KSB-26).
    """
    size = blobs.size(digest) or 0
    try:
        if blobs.read(digest, 0, len(GZIP)) != GZIP:
            raise ValueError("not a gzip stream")
        parts = foreign_tar.plain(lambda at, count: blobs.read(digest, at, count), size)
        _require_plain(foreign_tar.entries(compressed.gunzip(parts), LIMITS))
    except (ValueError, EOFError) as error:
        raise DamagedBundleError(
            f"chart {item.name} {item.version}: {brief(error)}",
            hint="inspect the chart before you use it; `helm package` does not make such archives",
            code="KSB-26",
        ) from error


def _require_plain(entries: Iterable[foreign_tar.Entry]) -> None:
    seen: set[str] = set()
    for entry in entries:
        name = entry.name.rstrip("/") if entry.kind == "directory" else entry.name
        if entry.kind not in {"file", "directory"}:
            raise ValueError(f"{name!r:.90} is a {entry.kind}")
        parts = name.split("/")
        if not name.isprintable() or "\\" in name or {"", ".", ".."} & {*parts}:
            raise ValueError(f"{name!r:.90} is not a plain relative path")
        if name in seen and entry.kind == "file":
            raise ValueError(f"{name!r:.90} appears twice")
        seen.add(name)
    tops = {name.partition("/")[0] for name in seen}
    if len(tops) != 1 or f"{min(tops)}/Chart.yaml" not in seen:
        raise ValueError("must contain exactly one folder, with a Chart.yaml")
