"""`keystone-install etcd status`: every member of the quorum."""

from __future__ import annotations

import click

from keystone import log
from keystone.cli.options import json_option
from keystone.cluster import etcdctl


@click.command("status")
@json_option
def verb(as_json: bool) -> None:
    """Show every member: its state, whether it leads, size and quota of its database.

    A majority is not needed.
    """
    members = etcdctl.members()
    if as_json:
        log.out_json([vars(member) for member in members])
        return
    log.table(
        (
            "member",
            "address",
            "state",
            "version",
            "database",
            "in use",
            "quota",
            "raft index",
            "errors",
        ),
        [
            (
                member.name,
                member.endpoint,
                member.state,
                member.version,
                log.size(member.database_bytes) if member.version else "",
                log.size(member.used_bytes) if member.version else "",
                log.size(member.quota_bytes) if member.quota_bytes else "",
                member.raft_index or "",
                "; ".join(member.errors),
            )
            for member in members
        ],
    )
