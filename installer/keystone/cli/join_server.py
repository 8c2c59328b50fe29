"""`keystone-install join-server`: the join service of a Primer.

keystone-join.service runs it as a user of its own.
"""

from __future__ import annotations

import time
from pathlib import Path

import click

from keystone.cluster import join_config, kubeadm
from keystone.join import cluster, server
from keystone.join import tokens as join

KUBECONFIG = Path("/var/lib/keystone/join/kubeconfig")


@click.command("join-server", hidden=True)
@click.option("--config", type=click.Path(path_type=Path), default=join_config.PATH)
@click.option("--kubeconfig", type=click.Path(path_type=Path), default=KUBECONFIG)
@click.option("--authority", default=kubeadm.AUTHORITY)
@click.option("--socket", type=click.Path(path_type=Path), default=join_config.SOCKET)
def verb(config: Path, kubeconfig: Path, authority: str, socket: Path) -> None:
    """Answer joining workers until the process is stopped."""
    tokens = join.Tokens(config.parent)
    clock = join.ForwardClock(
        tokens.clock, time.time, lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
    )
    service = server.Service(
        join_config.load(config),
        tokens,
        cluster.Cluster(cluster.Here(), str(kubeconfig), authority),
        clock=clock.now,
    )
    server.serve(server.Server(socket, service))
