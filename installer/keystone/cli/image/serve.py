"""`keystone-install image serve`: serve network boot files from this Primer."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log
from keystone.appliance import netboot as serving
from keystone.cli.image.release import release_option, require_makers
from keystone.cli.options import EXISTING_FILE
from keystone.errors import UsageError
from keystone.site import model as site


@click.command("serve")
@click.argument("file", type=EXISTING_FILE, required=False)
@click.option(
    "--site", "site_file", type=EXISTING_FILE, help="Site file for the machines that boot."
)
@release_option
@click.option("--stop", is_flag=True, help="Stop serving, and remove the files.")
def verb(file: Path | None, site_file: Path | None, digest: str | None, *, stop: bool) -> None:
    """Serve network boot files from this Primer.

    FILE is the output of `image build --format pxe`. The site file must have `networkBoot: true`.
    """
    if stop == (file is not None):
        raise UsageError("give either a file to serve or --stop")
    if stop and site_file:
        raise UsageError("--stop cannot be combined with --site")
    if file is None:
        serving.stop()
        log.info("Stopped serving files for network boot.")
        return
    serving.require_server()
    address = serving.address()
    if site_file:
        site.load(site_file)
    given = site_file.read_bytes() if site_file else None
    found = serving.serve(file, address, given, lambda named: require_makers(file, named, digest))
    log.info(f"Serving version {found.version}, system {found.digest}")
    log.out(serving.dhcp(address))
