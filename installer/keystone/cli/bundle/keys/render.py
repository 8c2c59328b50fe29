"""Print the results of `bundle keys`: a root, its keys, and the missing signatures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keystone import log
from keystone.packager.keys import roots


def proposed(path: Path, *, as_json: bool) -> None:
    """Tell the packager which file the holders must sign, and print that root."""
    log.info(
        f"{path}: carry a copy to each holder, who signs it: keystone-install bundle keys sign"
    )
    document = roots.as_document(roots.state(roots.read(path), None))
    answer({**document, "pending": str(path)}, as_json=as_json)


def progress(state: roots.State, folder: Path, *, as_json: bool) -> None:
    """Log whether the newest root in `folder` is valid, or how many signatures it lacks."""
    if state.whole:
        log.info(f"{folder}: root {state.version} is signed and valid until {state.expires.date()}")
    else:
        log.info(
            f"{folder}/{state.version}.root.pending.json: needs "
            f"{log.count(state.missing_old, 'more signature')} of the old root's holders and "
            f"{state.missing_new} of the new root's holders"
        )
    answer(roots.as_document(state), as_json=as_json)


def answer(document: dict[str, Any], *, as_json: bool) -> None:
    """Print a root as JSON or as a table. document: from `roots.as_document`."""
    if as_json:
        log.out_json(document)
    else:
        table(document)


def table(one: dict[str, Any]) -> None:
    """Print a root for people: its keys, and which of them signed it."""
    missing = one["missing"]
    state = "complete" if not any(missing.values()) else (
        f"pending: needs {log.count(missing['before'], 'more signature')} of the old root's "
        f"holders and {missing['own']} of its own"
    )  # fmt: skip
    log.out(f"root {one['version']}, valid until {one['expires']}, {state}")
    log.out(f"payload  {one['payload']}")
    holders = [key for key in one["keys"] if key["role"] == "root"]
    log.out(f"{one['threshold']} of {len(holders)} root keys must sign a root")
    log.table(
        ("role", "name", "key", "signed"),
        [(key["role"], key["name"], key["keyid"][:16], "yes" if key["signed"] else "-")
         for key in one["keys"]],
    )  # fmt: skip
    log.out("")
