"""`keystone-install site check`: list all mistakes of a site file."""

from __future__ import annotations

import click

from keystone import log
from keystone.errors import ConfigurationError
from keystone.site import model as site


@click.command("check")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--json", "as_json", is_flag=True, help="Print the site, or its mistakes, as JSON.")
def verb(file: str, as_json: bool) -> None:
    """Check a site file and list all mistakes. FILE may be - for standard input."""
    try:
        wanted = site.load(file)
    except ConfigurationError as error:
        mistakes = error.mistakes
        if as_json:
            log.out_json({"valid": False, "mistakes": [vars(mistake) for mistake in mistakes]})
        elif mistakes:
            rows = [(mistake.where, mistake.text, mistake.hint) for mistake in mistakes]
            log.table(["where", "mistake", "hint"], rows)
        # The table has the mistakes already; this error only counts them.
        raise ConfigurationError(error.message, hint=error.hint) from error
    if as_json:
        log.out_json({"valid": True, "digest": site.digest(wanted), "site": site.to_json(wanted)})
    else:
        names = ", ".join(node.name for node in wanted.primers)
        log.out(f"{file}: site {wanted.name} with Primers {names}: no mistakes")
