"""`keystone-install token revoke`: revoke a token and remove the node that joined with it."""

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
@click.option(
    "--node", "name", help="Remove the worker of this name: another Primer created its token."
)
@click.option("--yes", is_flag=True, help="Remove the node without asking.")
def verb(token_id: str | None, name: str | None, *, yes: bool) -> None:
    """Revoke a token and the identity of its worker.

    From then on the API server refuses the node's name. The node, its pods and its certificate
    requests are deleted; the command asks before.
    """
    if (token_id is None) == (name is None):
        raise UsageError(
            "give either a token's id or --node NAME",
            hint="list them: keystone-install token list, kubectl get nodes",
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
        f"removed node {name}; the API server now refuses its name. The machine still knows all "
        "that it has read: change the secrets of pods that ran there"
    )


def _require_named(name: str, *, yes: bool) -> None:
    """Raise UsageError when this is not a worker's name, RefusedError without approval."""
    if not identity.is_name(name) or name in _primers():
        raise UsageError(
            f"--node {name[:80]}: not the name of a worker", hint="list them: kubectl get nodes"
        )
    if not _confirmed(yes=yes):
        raise RefusedError(
            f"node {name}: not removed",
            hint=f"to remove it: keystone-install token revoke --node {name} --yes",
        )


def _primers() -> list[str]:
    return [node.name for node in join_config.load().site.primers]


def _confirmed(*, yes: bool) -> bool:
    question = "Delete the node and its pods, and refuse its name?"
    return yes or (sys.stdin.isatty() and click.confirm(question))


def _require_worker(name: str) -> None:
    """Raise RefusedError when the recorded name is a Primer's, or not the name of a node.

    The unprivileged join service recorded the name; root would act on it.
    """
    known = identity.is_name(name)  # an older version admitted names that this one refuses
    if not known or name in _primers():
        raise RefusedError(
            f"the token is revoked, but the machine that used it is unknown: the join service "
            f"recorded {name[:80]!r}, which is {'a Primer' if known else 'not the name of a node'}",
            hint="check `kubectl get nodes` for an unknown node; somebody may have changed "
            "/var/lib/keystone/join/claims: examine this Primer",
        )


def _require_meant(token_id: str, claim: join.Claim, *, yes: bool) -> None:
    """Show the node that would be removed. Raises RefusedError without approval."""
    since = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(claim.time))
    shown = f"node {claim.hostname} ({claim.address or 'address not known'}, joined {since})"
    log.info(f"used by {shown}")
    if _confirmed(yes=yes):
        return
    raise RefusedError(
        f"{shown}: not removed; its token is revoked",
        hint=f"to remove the node, too: keystone-install token revoke {token_id} --yes",
    )
