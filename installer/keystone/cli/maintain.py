"""`keystone-install maintain`: what the timer on every Primer runs."""

from __future__ import annotations

from dataclasses import asdict

import click

from keystone import log
from keystone.cli.options import json_option
from keystone.install import backups, maintain


@click.command("maintain")
@json_option
def verb(as_json: bool) -> None:
    """Do the regular work of this Primer: renew certificates, take snapshots, keep etcd well.

    The timer keystone-maintain runs this every five minutes. Exit 8 where something failed: it is
    tried again at the next run.
    """
    try:
        maintain.run()
    finally:
        if as_json:
            log.out_json({name: asdict(one) for name, one in maintain.read().items()})
        for line in backups.report():
            log.info(line)
