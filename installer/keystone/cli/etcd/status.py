"""`keystone-install etcd status`: every member of the quorum."""

from __future__ import annotations

import json
from typing import Any

import click

from keystone import log
from keystone.cli.options import json_option
from keystone.cluster import etcd, etcdctl
from keystone.run import run


@click.command("status")
@json_option
def verb(as_json: bool) -> None:
    """Show every member: its state, whether it leads, size and quota of its database."""
    members = etcd.parse_status(*_ask())
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


def _ask() -> tuple[list[Any], list[Any]]:
    """What `member list` and `endpoint status` say. Raises HostError when no member answers."""
    listed = etcdctl.ask("member", "list")
    endpoints = [url for member in listed["members"] for url in member.get("clientURLs", ())]
    # A member that is down fails the command, and the others' answers are still printed.
    argv = etcdctl.words("endpoint", "status", endpoints=",".join(endpoints), timeout="10s")
    return listed["members"], json.loads(run(argv, check=False, timeout=60).stdout or "[]")
