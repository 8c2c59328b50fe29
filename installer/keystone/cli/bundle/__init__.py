"""`keystone-install bundle ...`: the one signed file that crosses the gap."""

from __future__ import annotations

import click

from keystone.cli.lazy import Verbs

SUMMARIES = {
    "check": "whether all that anything inside asks for is inside",
    "create": "write the bundle of a lock; same lock, same bytes",
    "diff": "what came, went or changed between two bundles",
    "have": "what this host has: a packager makes a delta from it",
    "join": "make the bundle of its parts, in any order",
    "keys": "the packager's signing keys",
    "lock": "resolve a definition to digests, say what changed",
    "sbom": "print an SBOM or the provenance",
    "serve": "serve images, packages and files, to try them",
    "show": "what is inside: sizes, licences, what is shared",
    "split": "cut a bundle into parts that are verified alone",
    "verify": "check signatures, versions, expiry and every byte",
}
MODULES = {name: f"{__name__}.{name}:verb" for name in SUMMARIES if name != "keys"} | {
    "keys": f"{__name__}.keys:group"
}


@click.group(cls=Verbs, summaries=SUMMARIES, modules=MODULES)
def group() -> None:
    """Make, check and look at bundles: the one signed file that crosses the gap."""
