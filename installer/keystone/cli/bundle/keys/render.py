"""What the verbs about signing keys answer: a root, its keys, and whose signatures are missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keystone import log
from keystone.packager.keys import roots


def proposed(path: Path, *, as_json: bool) -> None:
    """Say where the root is that the holders are to sign."""
    log.info(f"{path}: carry a copy to each holder: keystone-install bundle keys sign")
    document = roots.as_document(roots.state(roots.read(path), None))
    answer({**document, "pending": str(path)}, as_json=as_json)


def progress(state: roots.State, folder: Path, *, as_json: bool) -> None:
    """Say of the newest root in `folder` whether it is valid, or how many signatures it lacks."""
    if state.whole:
        log.info(f"{folder}: root {state.version} is signed and valid until {state.expires.date()}")
    else:
        log.info(
            f"{folder}/{state.version}.root.pending.json: still missing {state.missing_old} "
            f"signatures of the holders before and {state.missing_new} of the new ones"
        )
    answer(roots.as_document(state), as_json=as_json)


def answer(document: dict[str, Any], *, as_json: bool) -> None:
    """Print one root, a document of `roots.as_document`: as JSON, or as a table."""
    if as_json:
        log.out_json(document)
    else:
        table(document)


def table(one: dict[str, Any]) -> None:
    """Print one root for people: its keys, and who signed it."""
    missing = one["missing"]
    state = "whole" if not any(missing.values()) else (
        f"pending: {missing['before']} of the holders before and {missing['own']} of its own "
        "are missing"
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
