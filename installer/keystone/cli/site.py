"""`keystone-install site`: write and check site files."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log, passphrase
from keystone.errors import ConfigurationError
from keystone.site import model as site
from keystone.site import template


@click.group("site")
def group() -> None:
    """Write and check site files."""


@group.command()
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--json", "as_json", is_flag=True, help="Print the site, or its mistakes, as JSON.")
def check(file: str, as_json: bool) -> None:
    """Read FILE (- for standard input) and list every mistake in it."""
    try:
        wanted = site.load(file)
    except ConfigurationError as error:
        mistakes = error.mistakes
        if as_json:
            log.out_json({"valid": False, "mistakes": [vars(mistake) for mistake in mistakes]})
        elif mistakes:
            rows = [(mistake.where, mistake.text, mistake.hint) for mistake in mistakes]
            log.table(["where", "what is wrong", "hint"], rows)
        # The table has said it all; the error line only counts.
        raise ConfigurationError(error.message, hint=error.hint) from error
    if as_json:
        log.out_json({"valid": True, "digest": site.digest(wanted), "site": site.to_json(wanted)})
    else:
        names = ", ".join(node.name for node in wanted.primers)
        log.out(f"{file}: site {wanted.name} with Primers {names}: no mistakes")


@group.command()
def schema() -> None:
    """Print the JSON Schema of site files."""
    log.out_json(site.schema())


@group.command()
@click.option("--probe/--no-probe", default=True, help="Fill in what this machine is and has.")
def init(probe: bool) -> None:
    """Print a commented site file, filled in with this machine as the first Primer."""
    log.out(template.probed() if probe else template.example())


@group.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--to", "folder", type=click.Path(file_okay=False, path_type=Path), required=True,
              help="Folder of the stick that has the site file.")  # fmt: skip
@click.option("--root-fingerprint", default="", help="SHA-256 of the trust root of the bundle.")
@click.option("--passphrase-file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="What will guard the site's root key.")  # fmt: skip
def introduce(file: str, folder: Path, root_fingerprint: str, passphrase_file: Path | None) -> None:
    """Make the keys by which the Primers of FILE know each other, for machines to be installed."""
    from keystone.site import introduction  # noqa: PLC0415 slow to import

    wanted = site.load(file)
    if passphrase_file:
        introduction.require_alone(wanted)
    secret = ""
    if passphrase_file:
        words = passphrase.read(passphrase_file).strip()
        secret = passphrase.require(words, str(passphrase_file))
    place = introduction.save(introduction.make(wanted, root_fingerprint, secret), folder)
    names = ", ".join(node.name for node in wanted.primers)
    log.out(
        f"{place}: {names} know each other.\n"
        "There are private keys in it: guard the stick, and empty it when the site runs."
    )
