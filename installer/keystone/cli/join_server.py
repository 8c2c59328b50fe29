"""`keystone-install join-server`: run by keystone-join.service on Primers, as a user of its own."""

from __future__ import annotations

import time
from pathlib import Path

import click

from keystone import join, join_cluster, join_config, join_server

KUBECONFIG = Path("/var/lib/keystone/join/kubeconfig")


@click.command("join-server", hidden=True)
@click.option("--config", type=click.Path(path_type=Path), default=join_config.PATH)
@click.option("--kubeconfig", type=click.Path(path_type=Path), default=KUBECONFIG)
@click.option("--authority", default=join_cluster.AUTHORITY)
@click.option("--socket", type=click.Path(path_type=Path), default=join_config.SOCKET)
def group(config: Path, kubeconfig: Path, authority: str, socket: Path) -> None:
    """Answer joining workers until ended."""
    tokens = join.Tokens(config.parent)
    floor = join.Floor(tokens.clock, time.time, lambda: time.clock_gettime(time.CLOCK_BOOTTIME))
    service = join_server.Service(
        join_config.load(config),
        tokens,
        join_cluster.Cluster(join_cluster.Here(), str(kubeconfig), authority),
        clock=floor.now,
    )
    join_server.serve(join_server.Server(socket, service))
