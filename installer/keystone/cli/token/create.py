"""`keystone-install token create`: a machine is let in, once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from keystone import log
from keystone.cli.options import EXISTING_FOLDER
from keystone.cli.token.state import state_of
from keystone.cluster import join_config
from keystone.errors import UsageError
from keystone.files import write_whole
from keystone.join import join_yaml, script
from keystone.join import tokens as join
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


@click.command("create")
@click.option("--role", type=click.Choice(join.ROLES), default="worker", show_default=True)
@click.option("--ttl", type=_Duration(), help="At most 7d; by default 1h, with --to 1d.")
@click.option(
    "--to",
    "folder",
    type=EXISTING_FOLDER,
    help="Stick labelled KEYSTONE: join.yaml on it gets the token, for the installer medium.",
)
@click.option("--name", help="With --to: the worker's name.")
@click.option("--machine-serial", help="With --to: the machine's serial number.")
@click.option("--mac", multiple=True, help="With --to: the MAC of its network card.")
@click.option("--address", help="With --to: its IPv4 address; without, DHCP gives one.")
@click.option("--disk", help="With --to: serial number of its system disk.")
@click.option("--json", "as_json", is_flag=True)
def verb(
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
        state = state_of(known, tokens.claimed(known.id), now) if known else elsewhere
        if state != "open":
            log.info(f"  left out: {worker.name or 'a worker'}, whose token is {state}")
        return state != "open"

    known = join_yaml.load(file) if file.is_file() else begun
    text = join_yaml.grown(begun, known, dead, entry)
    tokens.add(record)  # before the file: a token that nobody knows admits nobody
    write_whole(file, text.encode(), 0o600)
    return str(file)
