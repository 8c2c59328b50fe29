"""`keystone-install bundle keys ...`: the packager's keys, and the ceremony that changes them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from keystone import log, passphrase
from keystone.cli.options import Renamed
from keystone.errors import ConfigurationError

FILE = click.Path(path_type=Path, dir_okay=False)
dir_option = click.option(
    "--dir", "--directory", "folder", cls=Renamed,
    type=click.Path(path_type=Path, file_okay=False), required=True,
    help="The folder with the release key and the roots.",
)  # fmt: skip
passphrase_option = click.option(
    "--passphrase-file", type=FILE, help="Opens the keys; its first line is the passphrase."
)
plain_option = click.option(
    "--no-passphrase", "plain", is_flag=True, help="Do not encrypt, and do not ask."
)
years_option = click.option("--years", default=5, show_default=True, help="Validity of the root.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
WARN_DAYS = 180
"""A root that lives less than half a year is to be renewed now: holders have to meet."""


@click.group("keys")
def group() -> None:
    """The packager's signing keys: root keys, release key, and the chain of roots."""


@group.command()
@dir_option
@click.option(
    "--root-key", "holders", type=FILE, multiple=True,
    help="A holder's public key, for each of them. Without, a root key is made here.",
)  # fmt: skip
@click.option("--threshold", default=1, show_default=True, help="How many holders must sign.")
@passphrase_option
@plain_option
@json_option
def init(
    folder: Path, holders: tuple[Path, ...], threshold: int, passphrase_file: Path | None,
    plain: bool, as_json: bool,
) -> None:  # fmt: skip
    """Make the keys. Tell operators the fingerprint by another way than the bundle's."""
    from keystone.packager.keys import keys  # noqa: PLC0415 slow to import

    secret = choosing(passphrase_file, plain=plain)
    if holders:
        path = keys.init_apart(folder, holders, threshold, secret)
        _propose_said(path, as_json=as_json)
        return
    fingerprint = keys.init(folder, secret)
    log.info(f"{folder}: keys made; move root.pem to a medium that stays off line")
    log.info("the fingerprint that operators type:")
    if as_json:
        log.out_json({"fingerprint": fingerprint})
    else:
        log.out(fingerprint)


@group.command()
@click.argument("path", metavar="NAME.pem", type=FILE)
@passphrase_option
@plain_option
@json_option
def new(path: Path, passphrase_file: Path | None, plain: bool, as_json: bool) -> None:
    """Make one holder's key; hand out NAME.pub, keep NAME.pem."""
    from keystone.packager.keys import keyfile  # noqa: PLC0415 slow to import

    key = keyfile.generate(path, choosing(passphrase_file, plain=plain))
    public = path.with_suffix(".pub")
    log.info(f"{path}: made; hand out {public}, key {key.keyid[:16]}")
    if as_json:
        log.out_json({"keyid": key.keyid, "public": str(public)})


@group.command()
@dir_option
@click.option("--add-root", type=FILE, multiple=True, help="A new holder's public key.")
@click.option("--add-release", type=FILE, multiple=True, help="Another release key's public half.")
@click.option("--revoke", multiple=True, help="Name or id of a key that no longer counts.")
@click.option(
    "--new-release", is_flag=True, help="Make a new release key; the old no longer counts."
)
@click.option("--threshold", type=int, help="How many holders must sign from now on.")
@years_option
@click.option("--key", "signing", type=FILE, multiple=True,
              help="A root key that is here: sign at once. <dir>/root.pem by default.")  # fmt: skip
@passphrase_option
@json_option
def rotate(
    folder: Path, signing: tuple[Path, ...], passphrase_file: Path | None, new_release: bool,
    as_json: bool, **change: Any,  # noqa: ANN401 the fields of Change
) -> None:  # fmt: skip
    """Propose the next root. Without a change it renews: a later expiry."""
    from keystone.packager.keys import ceremony, keys, roots  # noqa: PLC0415 slow to import

    with roots.turn(folder):
        if new_release:
            public, old = keys.new_release_key(folder, choosing(passphrase_file))
            change["add_release"] = (*change["add_release"], public)
            change["revoke"] = (*change["revoke"], *old)
        path = ceremony.propose(folder, ceremony.Change(**change))
        here = folder / keys.ROOT
        for key in signing or ([here] if here.exists() else []):
            ceremony.sign(path, key, opening(key, passphrase_file))
        state = ceremony.collect(folder)
    _said(state, folder, as_json=as_json)


@group.command()
@click.argument("path", metavar="PENDING", type=FILE)
@click.option("--key", type=FILE, required=True, help="Your private root key.")
@passphrase_option
@json_option
def sign(path: Path, key: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Sign a proposed root, on a machine that needs no network. Carry the file back."""
    from keystone.packager.keys import ceremony, roots  # noqa: PLC0415 slow to import

    with roots.turn(path.parent):
        state = ceremony.sign(path, key, opening(key, passphrase_file))
    log.info(f"{path}: signed; payload {state.payload}")
    _answer(roots.as_document(state), as_json=as_json)


@group.command()
@dir_option
@click.argument("copies", metavar="[PENDING...]", type=FILE, nargs=-1)
@json_option
def collect(folder: Path, copies: tuple[Path, ...], as_json: bool) -> None:
    """Bring the signatures of copies together; with enough of them the root is valid."""
    from keystone.packager.keys import ceremony, roots  # noqa: PLC0415 slow to import

    with roots.turn(folder):
        state = ceremony.collect(folder, copies)
    _said(state, folder, as_json=as_json)


@group.command()
@click.argument("path", metavar="DIR|ROOT", type=click.Path(path_type=Path, exists=True))
@json_option
def show(path: Path, as_json: bool) -> None:
    """The chain of roots, who may sign, what is missing, and until when."""
    from keystone.packager.keys import roots  # noqa: PLC0415 slow to import

    if path.is_file():
        metadata = roots.read(path)
        one = roots.as_document(roots.state(metadata, roots.before(path, metadata.signed)))
        _answer(one, as_json=as_json)
        return
    found = roots.describe(path)
    if as_json:
        log.out_json(found)
        return
    for one in (*found["roots"], *filter(None, [found["pending"]])):
        _table(one)
    for key in found["privateKeys"]:
        log.out(f"private  {key['file']}: {'encrypted' if key['encrypted'] else 'NOT ENCRYPTED'}")
    if found["fingerprint"]:
        log.out(f"operators type  {found['fingerprint']}")
    if found["daysLeft"] is not None and found["daysLeft"] < WARN_DAYS:
        log.warn(f"the root expires in {found['daysLeft']} days: renew it (bundle keys rotate)")


def choosing(path: Path | None, *, plain: bool = False) -> str | None:
    """The passphrase of a key that is made: from its file, or asked for twice."""
    if path is not None:
        return passphrase.require(_first_line(path), str(path))
    ask = sys.stdin.isatty() and not plain
    if ask and (typed := passphrase.chosen("Passphrase for the new keys", optional=True)):
        return typed
    log.warn("keys are NOT encrypted: whoever reads them can sign (--passphrase-file encrypts)")
    return None


def opening(key: Path, path: Path | None) -> str | None:
    """The passphrase of a key that is there: from its file, or asked for when it needs one."""
    from keystone.packager.keys import keyfile  # noqa: PLC0415 slow to import

    if path is not None:
        return _first_line(path)
    if keyfile.is_encrypted(key) and sys.stdin.isatty():
        typed: str = click.prompt(f"Passphrase of {key}", hide_input=True)
        return typed
    return None


def _first_line(path: Path) -> str:
    lines = passphrase.read(path).splitlines()
    if not lines or not lines[0]:
        raise ConfigurationError(f"{path}: its first line is empty, and no passphrase")
    return lines[0]


def _propose_said(path: Path, *, as_json: bool) -> None:
    from keystone.packager.keys import roots  # noqa: PLC0415 slow to import

    log.info(f"{path}: carry a copy to each holder: keystone-install bundle keys sign")
    document = roots.as_document(roots.state(roots.read(path), None))
    _answer({**document, "pending": str(path)}, as_json=as_json)


def _said(state: Any, folder: Path, *, as_json: bool) -> None:  # noqa: ANN401 roots.State
    from keystone.packager.keys import roots  # noqa: PLC0415 slow to import

    if state.whole:
        log.info(f"{folder}: root {state.version} is signed and valid until {state.expires.date()}")
    else:
        log.info(
            f"{folder}/{state.version}.root.pending.json: still missing {state.missing_old} "
            f"signatures of the holders before and {state.missing_new} of the new ones"
        )
    _answer(roots.as_document(state), as_json=as_json)


def _answer(document: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        log.out_json(document)
    else:
        _table(document)


def _table(one: dict[str, Any]) -> None:
    missing = one["missing"]
    state = "whole" if not any(missing.values()) else (
        f"pending: {missing['before']} of the holders before and {missing['own']} of its own "
        "are missing"
    )  # fmt: skip
    log.out(f"root {one['version']}, valid until {one['expires']}, {state}")
    log.out(f"payload  {one['payload']}")
    roots = [key for key in one["keys"] if key["role"] == "root"]
    log.out(f"{one['threshold']} of {len(roots)} root keys must sign a root")
    log.table(
        ("role", "name", "key", "signed"),
        [(key["role"], key["name"], key["keyid"][:16], "yes" if key["signed"] else "-")
         for key in one["keys"]],
    )  # fmt: skip
    log.out("")
