"""`keystone-install status`: show the state of the site, and what is due."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import click

from keystone import log
from keystone.cli.options import json_option
from keystone.errors import HostError
from keystone.install import attention, overview, screen
from keystone.site import model as site


@click.command("status")
@click.option("--site", "file", type=click.Path(path_type=Path),
              help="The site file.  [default: that of the site installed here]")  # fmt: skip
@json_option
def verb(file: Path | None, as_json: bool) -> None:
    """Show trust, quorum, nodes, data, snapshots and maintenance, and what to do next.

    Runs on any Primer, changes nothing, and takes at most about 10 seconds, also while a Primer or
    the API does not answer. Exit code 8 if a person must do something, 0 if all is well.
    """
    seen = overview.survey(site.load(file or site.installed()))
    now = dt.datetime.now(dt.UTC)
    items = attention.items(seen, now)
    if as_json:
        log.out_json({**seen.document(), "due": items})
    else:
        for line in screen.lines(seen, items, now):
            log.out(line)
    if urgent := [item for item in items if item.urgent]:
        raise HostError(
            f"{log.count(len(urgent), 'thing needs', 'things need')} a person: {urgent[0].text}",
            hint=urgent[0].command,
        )
