"""The findings of preflight, and the input of each of its checks."""

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
    """One reason not to install, or with severity "warning" only something to know.

    severity: "refused" (data would be lost, or the choice is ambiguous: exit code 7), "failed" (the
    host does not meet the requirements: exit code 6), "warning". host: one name of the site, or
    several.
    """

    severity: str
    host: str
    text: str
    hint: str

    def line(self) -> str:
        """Return the finding as one line, for errors and logs."""
        return f"{self.host}: {self.text}" + (f" ({self.hint})" if self.hint else "")


@dataclass(frozen=True)
class HostCheck:
    """The input of a check: the site, one node of it, that host's facts, the bundle's manifest."""

    site: Site
    node: Node
    facts: HostFacts
    manifest: Manifest

    def failed(self, text: str, hint: str) -> Finding:
        """Return a finding: the host does not meet a requirement."""
        return Finding("failed", self.node.name, text, hint)

    def refused(self, text: str, hint: str) -> Finding:
        """Return a finding: data would be lost, or the choice is ambiguous."""
        return Finding("refused", self.node.name, text, hint)

    def warning(self, text: str, hint: str) -> Finding:
        """Return a finding that does not stop the installation."""
        return Finding("warning", self.node.name, text, hint)

    @property
    def begun(self) -> bool:
        """True if Keystone has applied a role to this host."""
        return bool(self.facts.roles)

    @property
    def profile(self) -> HostProfile:
        """What the hosts of this site can be expected to have."""
        return host_profile.of(self.site)
