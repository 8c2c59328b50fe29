"""`keystone-install bundle ...`: the one signed file that crosses the air gap."""

from __future__ import annotations

import click

from keystone.cli.lazy import Verbs

SUMMARIES = {
    "check": "check that no reference leads out of the bundle",
    "create": "create the bundle of a lock; same lock, same bytes",
    "diff": "list items added, removed or changed",
    "have": "list this host's content for a delta",
    "join": "join parts, in any order, into a bundle",
    "keys": "manage the packager's signing keys",
    "lock": "resolve a definition to digests, list the changes",
    "sbom": "print an SBOM or the provenance",
    "serve": "serve images, packages and files, to test them",
    "show": "show sizes, licences and shared content",
    "split": "split a bundle into parts that are verified alone",
    "verify": "check signatures, versions, expiry and every byte",
}
MODULES = {name: f"{__name__}.{name}:verb" for name in SUMMARIES if name != "keys"} | {
    "keys": f"{__name__}.keys:group"
}


@click.group(cls=Verbs, summaries=SUMMARIES, modules=MODULES)
def group() -> None:
    """Create, verify and inspect bundles: the one signed file that crosses the air gap."""
