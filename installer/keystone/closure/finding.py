"""The result of a check: a missing thing, its referrer, and how to fix the definition."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = {
    "image": "images that other content needs",
    "image-content": "parts of images",
    "platform": "platforms that images lack",
    "kubernetes": "images of this version of Kubernetes",
    "chart": "charts that cannot be read or rendered",
    "chart-dependency": "charts that charts need",
    "package": "packages that packages need",
    "package-list": "entries and files of package lists",
    "tool": "tools that maintainer scripts call",
    "role-package": "packages that roles install",
    "item": "items that roles need",
    "file": "files that roles extract from archives",
    "program": "programs that units, roles and scripts run",
    "unit": "units that roles start",
    "kernel-module": "kernel modules",
    "wheel": "Python packages that wheels need",
    "download": "downloads by roles",
}
"""All kinds of findings with their headings, in display order."""


@dataclass(frozen=True, order=True)
class Finding:
    """A reference to something that is not in the bundle.

    kind: a key of KINDS. missing: the missing thing, by its upstream name. asks: the referrer, and
    the place of the reference. add: how to fix it, mostly a line for the bundle definition.
    """

    kind: str
    missing: str
    asks: str
    add: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of finding: {self.kind}")
