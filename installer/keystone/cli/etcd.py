"""`keystone-install etcd`: the quorum, seen from a Primer with the certificates here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from keystone import log
from keystone.cluster import etcd
from keystone.errors import HostError
from keystone.run import run

PKI = Path("/etc/etcd/pki")


@click.group()
def group() -> None:
    """The etcd quorum."""


@group.command()
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def status(as_json: bool) -> None:
    """Show every member: who leads, how large its database is, whether it serves."""
    members = etcd.parse_status(*_ask())
    if as_json:
        log.out_json([vars(member) for member in members])
        return
    log.table(
        ("member", "address", "state", "version", "database", "raft index", "errors"),
        [
            (
                member.name,
                member.endpoint,
                member.state,
                member.version,
                log.size(member.database_bytes) if member.version else "",
                member.raft_index or "",
                "; ".join(member.errors),
            )
            for member in members
        ],
    )


def _ask() -> tuple[list[Any], list[Any]]:
    """What `member list` and `endpoint status` say. Raises HostError when no member answers."""
    if not (PKI / "client.crt").exists():
        raise HostError(
            f"{PKI}/client.crt: not here", hint="run this on a Primer, as root, after the install"
        )
    listed = json.loads(_etcdctl("member", "list"))
    endpoints = [url for member in listed["members"] for url in member.get("clientURLs", ())]
    # A member that is down fails the command, and the others' answers are still printed.
    told = _etcdctl("endpoint", "status", "--endpoints", ",".join(endpoints), check=False)
    return listed["members"], json.loads(told or "[]")


def _etcdctl(*words: str, check: bool = True) -> str:
    argv = [
        "etcdctl", *words, "-w", "json", "--command-timeout", "10s",
        "--cacert", f"{PKI}/peer-ca.crt",
        "--cert", f"{PKI}/client.crt",
        "--key", f"{PKI}/client.key",
    ]  # fmt: skip
    if "--endpoints" not in words:
        argv += ["--endpoints", f"https://127.0.0.1:{etcd.CLIENT_PORT}"]
    done = run(argv, check=False, timeout=60)
    if check and done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise HostError(
            f"etcd on this host does not answer: {' '.join(last)}",
            hint="look at it: systemctl status etcd; journalctl -u etcd",
        )
    return done.stdout
