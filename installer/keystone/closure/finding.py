"""What a check found: who asks, for what, and what to write into the definition."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = {
    "image": "images that are asked for",
    "image-content": "parts of images",
    "platform": "images without a platform that the bundle is for",
    "kubernetes": "images of this version of Kubernetes",
    "chart": "charts that cannot be read or rendered",
    "chart-dependency": "charts that charts need",
    "package": "packages that packages need",
    "package-list": "package lists and their files",
    "tool": "tools that maintainer scripts call",
    "role-package": "packages that roles install",
    "item": "things that roles take out of the bundle",
    "file": "files that roles take out of archives",
    "program": "programs that units, roles and scripts run",
    "unit": "units that roles start",
    "kernel-module": "kernel modules",
    "wheel": "Python packages that wheels need",
    "download": "roles that would fetch from outside",
}
"""Every kind of finding with its heading, in the order in which they are shown."""


@dataclass(frozen=True, order=True)
class Finding:
    """A reference that leads out of the bundle.

    kind: a key of KINDS. missing: what is not inside, by its upstream name. asks: what refers to
    it and where. add: what to do about it, mostly a line for the bundle definition.
    """

    kind: str
    missing: str
    asks: str
    add: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no such kind of finding: {self.kind}")
