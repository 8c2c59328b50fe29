"""`keystone-install token revoke`: a token, and the node that joined with it, are worthless."""

from __future__ import annotations

import sys
import time

import click

from keystone import log
from keystone.cluster import join_config
from keystone.errors import RefusedError, UsageError
from keystone.join import cluster, identity
from keystone.join import tokens as join


@click.command("revoke")
@click.argument("token_id", required=False)
@click.option("--node", "name", help="A worker by its name: its token was another Primer's.")
@click.option("--yes", is_flag=True, help="Take the node out without a question.")
def verb(token_id: str | None, name: str | None, *, yes: bool) -> None:
    """Make a token worthless, and the identity of the machine that joined with it.

    The API server refuses the node's name from then on; node, pods and requests are deleted: that
    is asked before.
    """
    if (token_id is None) == (name is None):
        raise UsageError(
            "a token's id, or --node NAME", hint="keystone-install token list, kubectl get nodes"
        )
    if name is not None:
        _require_named(name, yes=yes)
        _take_out(name)
        return
    tokens = join.Tokens(join.DIRECTORY)
    record = tokens.revoke(token_id or "")
    log.info(f"token {record.id} is revoked")
    claim = tokens.claimed(record.id)
    if claim is None:
        return
    _require_worker(claim.hostname)
    _require_meant(record.id, claim, yes=yes)
    _take_out(claim.hostname)


def _take_out(name: str) -> None:
    cluster.Cluster(cluster.Here()).revoke(name)
    log.info(
        f"{name} is no node any more and its name is refused; what the machine has read "
        "it knows: change the secrets of pods that ran there"
    )


def _require_named(name: str, *, yes: bool) -> None:
    """Raises UsageError for what is no worker's name, RefusedError where the node is to stay."""
    if not identity.is_name(name) or name in _primers():
        raise UsageError(f"--node {name[:80]}: no worker's name", hint="kubectl get nodes")
    if not _confirmed(yes=yes):
        raise RefusedError(
            f"node {name} stays",
            hint=f"to take it out: keystone-install token revoke --node {name} --yes",
        )


def _primers() -> list[str]:
    return [node.name for node in join_config.load().site.primers]


def _confirmed(*, yes: bool) -> bool:
    question = "Delete it and its pods, and refuse its name?"
    return yes or (sys.stdin.isatty() and click.confirm(question))


def _require_worker(name: str) -> None:
    """The service wrote the name, root acts on it. Raises RefusedError for a Primer's, or none."""
    known = identity.is_name(name)  # an older site admitted names that this one refuses
    if not known or name in _primers():
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
    if _confirmed(yes=yes):
        return
    raise RefusedError(
        f"{shown} stays; its token admits nobody any more",
        hint=f"to take it out too: keystone-install token revoke {token_id} --yes",
    )
