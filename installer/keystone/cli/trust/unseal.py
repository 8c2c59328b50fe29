"""`keystone-install trust unseal`: open the sealed keys of this Primer."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log
from keystone.errors import RefusedError
from keystone.pki import host_files, root_key, seal
from keystone.pki.tree import DIRECTORY


@click.command("unseal")
@click.option(
    "--from", "folder", type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="An opened backup (backup open --into DIR), if all other Primers are gone for good.",
)  # fmt: skip
def verb(folder: Path | None) -> None:
    """Open this Primer's sealed keys with the help of another Primer.

    The unit keystone-unseal does it at each start, until one answers.
    """
    done = seal.unseal() if folder is None else seal.bring_back(_from(folder / "pki"))
    log.info(done or "Nothing to do: no key is sealed here that is not open")


def _from(tree: Path) -> dict[str, bytes]:
    """Return the sealed files of an opened backup by their paths on a Primer."""
    theirs, ours = tree / root_key.CERTIFICATE, DIRECTORY / root_key.CERTIFICATE
    if not theirs.exists() or theirs.read_bytes() != ours.read_bytes():
        raise RefusedError(
            f"{theirs}: not the root of the trust tree on this Primer, {ours}",
            hint="open the newest backup of this site; if the root was replaced since, this Primer "
            "cannot be opened: install it anew from the backup",
        )
    found = {path: tree / source for path, source in host_files.secret_files().items()}
    return {path: file.read_bytes() for path, file in found.items() if file.exists()}
