"""`keystone-install token create`: create a token with which one machine can join."""

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
_WRITTEN = """{file}
The CA pin of this site starts with {pin}: the guided installation shows the same.
Until then anyone who has the stick can join: keep it safe, and erase it afterwards."""


class _Duration(click.ParamType[int]):
    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        found = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", str(value))
        seconds = int(found[1]) * _UNITS[found[2]] if found else 0
        if not 0 < seconds <= _LONGEST:
            self.fail(f"{value!r}: write a time from 1s to 7d, such as 30m or 1h", param, ctx)
        return seconds


@click.command("create")
@click.option(
    "--role", type=click.Choice(join.ROLES), default="worker", show_default=True,
    help="Role of the machine that joins.",
)  # fmt: skip
@click.option("--ttl", type=_Duration(), help="Validity, at most 7d; by default 1h, with --to 1d.")
@click.option(
    "--to",
    "folder",
    type=EXISTING_FOLDER,
    help="Folder of a stick labelled KEYSTONE: write the token to its join.yaml, for the "
    "installer medium.",
)
@click.option("--name", help="With --to: name of the worker.")
@click.option("--machine-serial", help="With --to: serial number of the machine.")
@click.option("--mac", multiple=True, help="With --to: MAC address of its network card.")
@click.option("--address", help="With --to: its IPv4 address; without it, DHCP assigns one.")
@click.option("--disk", help="With --to: serial number of its system disk.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verb(
    role: str,
    ttl: int | None,
    folder: Path | None,
    *,
    as_json: bool,
    **machine: Any,  # noqa: ANN401 click's own
) -> None:
    """Create a token with which one machine can join.

    Prints the command to run as root on the new worker, or writes the token --to a stick.
    """
    about = _described(**machine)
    if folder is None and about:
        raise UsageError(
            "--name, --machine-serial, --mac, --address and --disk need --to",
            hint="the printed command uses the name and address of the machine where it is run",
        )
    config = join_config.load()
    ca = script.SITE_CA.read_text()
    ttl = ttl or (_DAY if folder else _HOUR)
    tokens = join.Tokens(join.DIRECTORY)
    token, record = join.new(role, script.pin(ca), now=int(tokens.now()), ttl=ttl)
    if folder is None:
        digest = script.write(config, ca_file=script.SITE_CA)
        tokens.add(record)
        result = {
            "command": script.command(config, token, digest),
            "program": script.program(config, digest),
            "token": str(token),
        }
        headline = f"Within {log.duration(ttl)}, run this as root on the machine that joins:"
        text = "{command}"
    else:
        entry = {**join_yaml.entry(token, record.expires, config), **about}
        empty = join_yaml.begun(config, ca)
        file = _add_to_file(folder / join_yaml.NAME, empty, entry, tokens, record)
        result = {"file": file, "pin": empty.pin[: join_yaml.SHOWN]}
        headline, text = f"A token for one {role}, valid for {log.duration(ttl)}:", _WRITTEN
    if as_json:
        log.out_json({"id": record.id, "expires": record.expires, **result})
        return
    log.info(headline)
    log.out(text.format(**result))


def _described(
    name: str | None, machine_serial: str | None, mac: tuple[str, ...], address: str | None,
    disk: str | None,
) -> dict[str, Any]:  # fmt: skip
    """Return the options that describe a machine as an entry of join.yaml."""
    known = {"serial": machine_serial, "macs": [address.lower() for address in mac]}
    machine = {key: value for key, value in known.items() if value}
    entry = {"name": name, "address": address, "machine": machine, "systemDisk": disk}
    return {key: value for key, value in entry.items() if value}


def _add_to_file(
    file: Path, empty: Join, entry: Mapping[str, Any], tokens: join.Tokens, record: join.Record
) -> str:
    """Add a token to join.yaml and remove the tokens that are no longer valid here.

    empty: the document to start from when the file does not exist. Returns the path.
    """
    now = int(tokens.now())

    def no_longer_valid(worker: Worker) -> bool:
        known = tokens.find(join.Token.parse(worker.token).id)
        elsewhere = "unknown here" if worker.server == entry["server"] else "open"
        state = state_of(known, tokens.claimed(known.id), now) if known else elsewhere
        if state != "open":
            log.info(f"  removed the token of {worker.name or 'a worker'}: it is {state}")
        return state != "open"

    known = join_yaml.load(file) if file.is_file() else empty
    text = join_yaml.grown(empty, known, no_longer_valid, entry)
    tokens.add(record)  # before the file is written: a token that is not recorded is invalid
    write_whole(file, text.encode(), 0o600)
    return str(file)
