"""What preflight finds, and what each of its checks looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone.site import host_profile

if TYPE_CHECKING:
    from keystone.bundle.model import Manifest
    from keystone.hosts.facts import HostFacts
    from keystone.site.host_profile import HostProfile
    from keystone.site.model import Node, Site


@dataclass(frozen=True)
class Finding:
    """One thing that stops the installation, or with severity "warning" only deserves a look.

    severity: "refused" (data would be lost or it is ambiguous: exit code 7), "failed" (the host is
    not fit: exit code 6), "warning". host: its name in the site, or several.
    """

    severity: str
    host: str
    text: str
    hint: str

    def line(self) -> str:
        """The finding in one line, for errors and logs."""
        return f"{self.host}: {self.text}" + (f" ({self.hint})" if self.hint else "")


@dataclass(frozen=True)
class Look:
    """What every check may look at: the site, one node of it, that host, what the bundle has."""

    site: Site
    node: Node
    facts: HostFacts
    manifest: Manifest

    def failed(self, text: str, hint: str) -> Finding:
        """The host is not fit."""
        return Finding("failed", self.node.name, text, hint)

    def refused(self, text: str, hint: str) -> Finding:
        """Data would be lost, or it is not clear which is meant."""
        return Finding("refused", self.node.name, text, hint)

    def warning(self, text: str, hint: str) -> Finding:
        """Worth a look; stops nothing."""
        return Finding("warning", self.node.name, text, hint)

    @property
    def begun(self) -> bool:
        """Keystone has been at work on this host."""
        return bool(self.facts.roles)

    @property
    def profile(self) -> HostProfile:
        """What may be counted on at this site's hosts."""
        return host_profile.of(self.site)
