"""`keystone-install token revoke`: a token, and the node that joined with it, are worthless."""

from __future__ import annotations

import sys
import time

import click

from keystone import log
from keystone.cluster import join_config
from keystone.errors import RefusedError
from keystone.join import cluster, identity
from keystone.join import tokens as join


@click.command("revoke")
@click.argument("token_id")
@click.option("--yes", is_flag=True, help="Take the node out without a question.")
def verb(token_id: str, *, yes: bool) -> None:
    """Make a token worthless, and the identity of the machine that joined with it.

    The API server refuses the node's name from then on; node, pods and requests are deleted: that
    is asked before.
    """
    tokens = join.Tokens(join.DIRECTORY)
    record = tokens.revoke(token_id)
    log.info(f"token {record.id} is revoked")
    claim = tokens.claimed(record.id)
    if claim is None:
        return
    _require_worker(claim.hostname)
    _require_meant(record.id, claim, yes=yes)
    cluster.Cluster(cluster.Here()).revoke(claim.hostname)
    log.info(
        f"{claim.hostname} is no node any more and its name is refused; what the machine has read "
        "it knows: change the secrets of pods that ran there"
    )


def _require_worker(name: str) -> None:
    """The service wrote the name, root acts on it. Raises RefusedError for a Primer's, or none."""
    primers = [node.name for node in join_config.load().site.primers]
    known = identity.is_name(name)  # an older site admitted names that this one refuses
    if not known or name in primers:
        raise RefusedError(
            f"the token is revoked, and who used it is not known: {name[:80]!r} is what the join "
            f"service wrote down, and that is {'a Primer' if known else 'no name of a node'}",
            hint="look at `kubectl get nodes` for one that you do not know; somebody may have "
            "changed /var/lib/keystone/join/claims: look at that Primer",
        )


def _require_meant(token_id: str, claim: join.Claim, *, yes: bool) -> None:
    """Show the node that would go. Raises RefusedError where it is not to."""
    since = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(claim.time))
    shown = f"node {claim.hostname} ({claim.address or 'address not known'}, joined {since})"
    log.info(f"used by {shown}")
    if yes or (
        sys.stdin.isatty() and click.confirm("Delete it and its pods, and refuse its name?")
    ):
        return
    raise RefusedError(
        f"{shown} stays; its token admits nobody any more",
        hint=f"to take it out too: keystone-install token revoke {token_id} --yes",
    )
