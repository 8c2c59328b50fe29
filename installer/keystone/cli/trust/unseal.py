"""`keystone-install trust unseal`: open the sealed keys of this Primer."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log
from keystone.pki import host_files, seal
from keystone.pki.rotation import FILE
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
    done = (
        seal.unseal()
        if folder is None
        else seal.bring_back(_from(folder / "pki"), str(DIRECTORY / FILE))
    )
    log.info(done or "Nothing to do: no key is sealed here that is not open")


def _from(tree: Path) -> dict[str, bytes]:
    """Return the sealed files of an opened backup by their paths on a Primer."""
    found = {path: tree / source for path, source in host_files.secret_files().items()}
    return {path: file.read_bytes() for path, file in found.items() if file.exists()}
