"""`keystone-install trust`: the site's certificates."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import click

from keystone import log
from keystone.errors import RefusedError

DIRECTORY = Path("/var/lib/keystone/pki")

_directory = click.option(
    "--directory",
    type=click.Path(path_type=Path),
    default=DIRECTORY,
    show_default=True,
    help="Where the trust tree is.",
)


@click.group()
def group() -> None:
    """The site's certificates: who vouches for whom, and until when."""


@group.command()
@_directory
@click.option("--json", "as_json", is_flag=True, help="For machines; times in ISO 8601, UTC.")
def show(directory: Path, as_json: bool) -> None:
    """List every certificate of the tree, with its end and its fingerprint."""
    from keystone import pki  # noqa: PLC0415 cryptography is slow to import

    entries = pki.tree(directory)
    if as_json:
        log.out_json(
            [{**vars(entry), "not_after": entry.not_after.isoformat()} for entry in entries]
        )
        return
    now = dt.datetime.now(dt.UTC)
    log.table(
        ("certificate", "issuer", "until (UTC)", "days left", "SHA-256"),
        [
            (
                entry.path,
                entry.issuer.partition(",")[0].removeprefix("CN="),
                f"{entry.not_after:%Y-%m-%d %H:%M}",
                (entry.not_after - now).days,
                entry.fingerprint[:16],
            )
            for entry in entries
        ],
    )


@group.command()
@click.option(
    "--site", "site_file", type=click.Path(path_type=Path), required=True, help="The site file."
)
@_directory
def init(site_file: Path, directory: Path) -> None:
    """Make the trust tree, or finish one that was begun; a complete one stays as it is."""
    from keystone import pki, site  # noqa: PLC0415 cryptography is slow to import

    wanted = site.load(site_file)

    def passphrase() -> str:
        if wanted.trust.passphrase_file:
            return Path(wanted.trust.passphrase_file).read_text().strip()
        words: str = click.prompt(
            "Passphrase for the offline root's key", hide_input=True, confirmation_prompt=True
        )
        return words

    if pki.init(wanted, directory, Path(wanted.trust.root_key_file), passphrase):
        log.info(f"The trust tree is in {directory}")
        log.info(f"Carry away {wanted.trust.root_key_file}: it is the only copy of the root's key")
    else:
        log.info(f"Nothing to do: the trust tree in {directory} is complete")


@group.command()
@click.option(
    "--site",
    "site_file",
    type=click.Path(path_type=Path),
    help="The site file.  [default: of the site that is installed here]",
)
@_directory
def verify(site_file: Path | None, directory: Path) -> None:
    """Check every certificate, key, signature and the log; exit 7 when something is wrong."""
    from keystone import pki, site  # noqa: PLC0415 cryptography is slow to import

    wrong = pki.verify(site.load(site_file or site.installed()), directory)
    if wrong:
        raise RefusedError(
            "the trust tree is not sound:\n" + "\n".join(f"  {line}" for line in wrong),
            hint="trust init makes what is missing or expired; anything else needs a person",
        )
    log.info("Every certificate, key and signature fits, and the log is unbroken")
