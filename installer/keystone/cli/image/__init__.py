"""`keystone-install image ...`: appliance images, made and used."""

from __future__ import annotations

import click

from keystone.cli.lazy import Verbs

SUMMARIES = {
    "bless": "Call the version that runs good; the machine does it by itself when it came up well.",
    "build": "Make an image of a recipe and its lock.",
    "continue": (
        "Go on from a disk's first start: the first Primer to the running site, a worker into it."
    ),
    "guided": (
        "Ask, on this terminal, what a site file would say; save it, and write this machine's disk."
    ),
    "install": (
        "Make this machine, started from a medium, the Primer or worker that a file says it is."
    ),
    "keys": "Make keys for Secure Boot in FOLDER: PK, KEK and db.",
    "lock": "Resolve a recipe's packages to digests and say what changed.",
    "serve": "Serve FILE, of `image build --format pxe`, to machines that start over the network.",
    "status": "Say which system runs on this machine, and what firmware and TPM have seen of it.",
    "upgrade": "Write the version of IMAGE, an installer ISO, to the slot that is not running.",
    "verify": "Read an installer medium whole, an ISO file or the stick it was written to.",
    "write": (
        "Write the system that runs from a medium to this machine's disk, which must be blank."
    ),
}
MODULES = {name: f"{__name__}.{name}:verb" for name in (*SUMMARIES, "converge")} | {
    "continue": f"{__name__}.continue_:verb"
}
"""`converge` is run by a build, in the tree that it makes; it is not listed."""


@click.group(cls=Verbs, summaries=SUMMARIES, modules=MODULES)
def group() -> None:
    """Appliance images out of recipes: the installer ISO, disks, network boot files."""
