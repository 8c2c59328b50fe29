"""`keystone-install token`: let a machine in, once."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keystone import log
from keystone.cluster import join_config
from keystone.errors import RefusedError, UsageError
from keystone.files import write_whole
from keystone.join import cluster, identity, join_yaml, script
from keystone.join import tokens as join

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.join.join_yaml import Join, Worker

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_HOUR, _DAY = 3600, 86400
_LONGEST = 7 * _DAY
_HANDED = """{file}
The CA pin of this site begins with {pin}: the guided way shows the same.
Whoever has the stick can join with what is on it until then: guard it, and empty it afterwards."""


class _Duration(click.ParamType[int]):
    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        found = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", str(value))
        seconds = int(found[1]) * _UNITS[found[2]] if found else 0
        if not 0 < seconds <= _LONGEST:
            self.fail(f"{value!r} is no time from 1s to 7d, like 30m or 1h", param, ctx)
        return seconds


@click.group("token")
def group() -> None:
    """Create, list and revoke join tokens."""


@group.command()
@click.option("--role", type=click.Choice(join.ROLES), default="worker", show_default=True)
@click.option("--ttl", type=_Duration(), help="At most 7d; by default 1h, with --to 1d.")
@click.option(
    "--to",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Stick labelled KEYSTONE: join.yaml on it gets the token, for the installer medium.",
)
@click.option("--name", help="With --to: the worker's name.")
@click.option("--machine-serial", help="With --to: the machine's serial number.")
@click.option("--mac", multiple=True, help="With --to: the MAC of its network card.")
@click.option("--address", help="With --to: its IPv4 address; without, DHCP gives one.")
@click.option("--disk", help="With --to: serial number of its system disk.")
@click.option("--json", "as_json", is_flag=True)
def create(
    role: str,
    ttl: int | None,
    folder: Path | None,
    *,
    as_json: bool,
    **machine: Any,  # noqa: ANN401 click's own
) -> None:
    """Print the one command to run as root on the machine that joins, or write --to a stick."""
    about = _described(**machine)
    if folder is None and about:
        raise UsageError(
            "--name, --machine-serial, --mac, --address and --disk go with --to",
            hint="the printed command takes name and address of the machine on which it is run",
        )
    config = join_config.load()
    ca = script.SITE_CA.read_text()
    ttl = ttl or (_DAY if folder else _HOUR)
    tokens = join.Tokens(join.DIRECTORY)
    token, record = join.new(role, script.pin(ca), now=int(tokens.now()), ttl=ttl)
    if folder is None:
        digest = script.write(config, ca_file=script.SITE_CA)
        tokens.add(record)
        told = {
            "command": script.command(config, token, digest),
            "program": script.program(config, digest),
            "token": str(token),
        }
        said, text = f"For one {role}, within {log.duration(ttl)}; run there as root:", "{command}"
    else:
        entry = {**join_yaml.entry(token, record.expires, config), **about}
        begun = join_yaml.begun(config, ca)
        file = _hand_over(folder / join_yaml.NAME, begun, entry, tokens, record)
        told = {"file": file, "pin": begun.pin[: join_yaml.SHOWN]}
        said, text = f"A token for one {role}, within {log.duration(ttl)}:", _HANDED
    if as_json:
        log.out_json({"id": record.id, "expires": record.expires, **told})
        return
    log.info(said)
    log.out(text.format(**told))


def _described(
    name: str | None, machine_serial: str | None, mac: tuple[str, ...], address: str | None,
    disk: str | None,
) -> dict[str, Any]:  # fmt: skip
    """What the options say of a machine, as an entry of join.yaml has it."""
    known = {"serial": machine_serial, "macs": [address.lower() for address in mac]}
    machine = {key: value for key, value in known.items() if value}
    said = {"name": name, "address": address, "machine": machine, "systemDisk": disk}
    return {key: value for key, value in said.items() if value}


def _hand_over(
    file: Path, begun: Join, entry: Mapping[str, Any], tokens: join.Tokens, record: join.Record
) -> str:
    """Write join.yaml with one more token, without those that are worthless here by now."""
    now = int(tokens.now())

    def dead(worker: Worker) -> bool:
        known = tokens.find(join.Token.parse(worker.token).id)
        elsewhere = "unknown here" if worker.server == entry["server"] else "open"
        state = _state(known, tokens.claimed(known.id), now) if known else elsewhere
        if state != "open":
            log.info(f"  left out: {worker.name or 'a worker'}, whose token is {state}")
        return state != "open"

    known = join_yaml.load(file) if file.is_file() else begun
    text = join_yaml.grown(begun, known, dead, entry)
    tokens.add(record)  # before the file: a token that nobody knows admits nobody
    write_whole(file, text.encode(), 0o600)
    return str(file)


@group.command("list")
@click.option("--json", "as_json", is_flag=True)
def list_(as_json: bool) -> None:
    """Show the tokens of this Primer. Their secrets are not kept."""
    tokens = join.Tokens(join.DIRECTORY)
    rows = [(record, tokens.claimed(record.id)) for record in tokens.all()]
    now = int(tokens.now())
    if as_json:
        log.out_json([
            {
                "id": record.id,
                "role": record.role,
                "expires": record.expires,
                "state": _state(record, claim, now),
                "hostname": claim.hostname if claim else None,
            }
            for record, claim in rows
        ])  # fmt: skip
        return
    log.table(
        ["id", "role", "expires", "state", "used by"],
        [
            (
                record.id,
                record.role,
                time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(record.expires)),
                _state(record, claim, now),
                claim.hostname if claim else "",
            )
            for record, claim in rows
        ],
    )


def _state(record: join.Record, claim: join.Claim | None, now: int) -> str:
    if record.revoked:
        return "revoked"
    if now >= record.expires:
        return "expired"
    return "used" if claim else "open"


@group.command()
@click.argument("token_id", required=False)
@click.option("--node", "name", help="A worker by its name: its token was another Primer's.")
@click.option("--yes", is_flag=True, help="Take the node out without a question.")
def revoke(token_id: str | None, name: str | None, *, yes: bool) -> None:
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
