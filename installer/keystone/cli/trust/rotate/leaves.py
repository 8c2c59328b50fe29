"""`keystone-install trust rotate leaves`: issue every certificate again."""

from __future__ import annotations

import click

from keystone.cli.options import json_option, plan_option
from keystone.cli.trust.rotate import options
from keystone.install import rotate
from keystone.pki.rotation import LEAVES


@click.command("leaves")
@plan_option
@options.behind_option
@options.yes_option
@json_option
def verb(*, plan_only: bool, leave_behind: bool, yes: bool, as_json: bool) -> None:
    """Issue every certificate again, without waiting until it is due.

    What was issued before stays valid until its end: if a key has leaked, rotate its CA instead,
    which nobody trusts afterwards.
    """
    options.start(rotate.Options(
        LEAVES, "", "", plan_only, yes, leave_behind=leave_behind, as_json=as_json
    ))  # fmt: skip
