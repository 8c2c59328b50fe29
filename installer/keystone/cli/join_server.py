"""`keystone-install join-server`: run by keystone-join.service on Primers."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from keystone import join, join_config, join_script, join_server
from keystone.inventory.endpoint import KUBERNETES_CA

PKI = Path("/etc/keystone/pki")


@click.command("join-server", hidden=True)
@click.option("--config", type=click.Path(path_type=Path), default=join_config.PATH)
@click.option("--pki", type=click.Path(path_type=Path), default=PKI)
@click.option("--listen", default="0.0.0.0", help="IPv4 address")  # noqa: S104 every worker asks
@click.option("--port", type=int, default=join_script.JOIN_PORT)
def group(config: Path, pki: Path, listen: str, port: int) -> None:
    """Answer joining workers until ended."""
    known = join_config.load(config)
    folder = config.parent
    join_script.write(known, ca_file=pki / "site-ca.crt", path=folder / join_script.SCRIPT.name)
    # On slow machines a join outlasts kubeadm's usual quarter of an hour.
    ttl = "2h" if known.site.patience.profile == "emulated" else "15m"
    service = join_server.Service(
        known,
        join.Tokens(folder / "tokens"),
        partial(join.mint, ttl=ttl),
        (pki / Path(KUBERNETES_CA).name).read_text(),
    )
    tls = join_server.tls_context(pki / "site.crt", pki / "site.key")
    join_server.serve(join_server.Server((listen, port), service, tls))
