"""`keystone-install token`: let a machine in, once."""

from __future__ import annotations

import re
import time

import click

from keystone import join, join_config, join_script, log

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST = 7 * 86400


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
@click.option("--ttl", type=_Duration(), default="1h", show_default=True)
@click.option("--json", "as_json", is_flag=True)
def create(role: str, ttl: int, as_json: bool) -> None:
    """Print the one command to run as root on the machine that joins."""
    config = join_config.load()
    digest = join_script.write(config)
    pin = join_script.pin(join_script.SITE_CA.read_text())
    token, record = join.new(role, pin, now=int(time.time()), ttl=ttl)
    join.Tokens(join.DIRECTORY / "tokens").add(record)
    command = join_script.command(config, token, digest)
    if as_json:
        log.out_json({"id": record.id, "expires": record.expires, "command": command})
        return
    log.info(f"For one {role}, within {log.duration(ttl)}; run there as root:")
    log.out(command)


@group.command("list")
@click.option("--json", "as_json", is_flag=True)
def list_(as_json: bool) -> None:
    """Show the tokens of this Primer. Their secrets are not kept."""
    tokens = join.Tokens(join.DIRECTORY / "tokens")
    rows = [(record, tokens.claimed(record.id)) for record in tokens.all()]
    now = int(time.time())
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
@click.argument("token_id")
def revoke(token_id: str) -> None:
    """Make a token worthless. A machine that has joined stays a node."""
    record = join.Tokens(join.DIRECTORY / "tokens").revoke(token_id)
    log.info(f"token {record.id} is revoked")
