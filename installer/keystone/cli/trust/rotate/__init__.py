"""`keystone-install trust rotate ...`: replace what signs."""

from __future__ import annotations

import click

from keystone.cli.lazy import Verbs

SUMMARIES = {
    "ca": "Replace one of the issuing CAs.",
    "leaves": "Issue every certificate again, without waiting until it is due.",
    "root": "Replace the offline root; the CAs stay.",
    "sa-key": "Replace the key that signs the tokens of service accounts.",
}
MODULES = {name: f"{__name__}.{name.replace('-', '_')}:verb" for name in SUMMARIES}


@click.group("rotate", cls=Verbs, summaries=SUMMARIES, modules=MODULES)
def group() -> None:
    """Replace a CA, the root, or the key of service accounts."""
