"""`keystone-install image ...`: build and use appliance images."""

from __future__ import annotations

import click

from keystone.cli.lazy import Verbs

SUMMARIES = {
    "bless": "Mark the running version as good.",
    "build": "Build an image from a recipe and its lock.",
    "continue": "Continue the installation after the first start from disk.",
    "guided": "Install this machine by answering questions here.",
    "install": "Install this machine as the Primer or worker in a file.",
    "keys": "Make keys for Secure Boot in FOLDER: PK, KEK and db.",
    "lock": "Resolve a recipe's packages to digests and list what changed.",
    "serve": "Serve network boot files from this Primer.",
    "status": "Show which system runs on this machine.",
    "upgrade": "Write another version to the slot that is not running.",
    "verify": "Check every byte of an installer medium.",
    "write": "Write the system of a medium to a blank disk.",
}
MODULES = {name: f"{__name__}.{name}:verb" for name in (*SUMMARIES, "converge")} | {
    "continue": f"{__name__}.continue_:verb"
}
"""`image build` runs `converge` in the tree that it makes: --help omits it."""


@click.group(cls=Verbs, summaries=SUMMARIES, modules=MODULES)
def group() -> None:
    """Build, write, upgrade and inspect appliance images: ISO, disk, network boot."""
