"""Remember the newest bundle that a host accepted, to refuse older ones (rollback protection).

TUF keeps the last timestamp and snapshot for this purpose (5.4.3, 5.5.5, 5.6.4). All roles of a
bundle have one version, its number, so number and digest are equivalent, and people can read them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from keystone.errors import UntrustedBundleError
from keystone.files import write_file

if TYPE_CHECKING:
    from pathlib import Path

FILE = "accepted.json"


@dataclass(frozen=True)
class Accepted:
    """The newest bundle that a host accepted.

    created: time of its lock. digest: of its targets.json, "sha256:...". seen: newest signed time
    of all accepted bundles; the host's time never goes back before it. keys: public keys (hex) that
    were allowed to sign it; when one of them is withdrawn, this record no longer counts.
    """

    number: int
    created: datetime
    digest: str
    seen: datetime | None = None
    keys: frozenset[str] = frozenset()

    @property
    def newest_time(self) -> datetime:
        """The newest signed time of all accepted bundles."""
        return max(self.created, self.seen or self.created)

    def survives(self, keys: frozenset[str]) -> bool:
        """Whether this record still counts under a root that trusts `keys` (hex).

        TUF 5.3.11: forget what a withdrawn release key signed. Otherwise a thief who signed number
        2^53-1, or the year 2099, would have locked out all later bundles.
        """
        return self.keys <= keys

    def refuse_older(self, number: int, created: datetime, digest: str) -> None:
        """Raise UntrustedBundleError (KSB-28) for a smaller number, or the same with other bytes.

        A higher number with an earlier date is newer: only the number counts.
        """
        ours = f"number {self.number} of {self.created.isoformat()}, which this host accepted"
        theirs = f"bundle number {number} of {created.isoformat()}"
        if number < self.number:
            raise UntrustedBundleError(
                f"{theirs} is older than {ours}",
                hint="use the newest bundle; an older one is an attack (rollback) or a mix-up",
                code="KSB-28",
            )
        if number == self.number and digest != self.digest:
            age = "older than" if created < self.created else "other than"
            raise UntrustedBundleError(
                f"{theirs} is {age} {ours}: the same number, but {digest} is not {self.digest}",
                hint="a bundle with other content needs a higher number: "
                "raise it in the definition, lock and create again",
                code="KSB-28",
            )


def load(directory: Path) -> Accepted | None:
    """The newest bundle that this host accepted; None if it has accepted none.

    Raises UntrustedBundleError (KSB-28) when the file cannot be read, because without it a rollback
    would go unnoticed.
    """
    path = directory / FILE
    try:
        document = json.loads(path.read_bytes())
        seen = document.get("seen")
        return Accepted(
            int(document["number"]),
            datetime.fromisoformat(document["created"]),
            str(document["digest"]),
            datetime.fromisoformat(seen) if seen else None,
            frozenset(str(key) for key in document.get("keys", ())),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UntrustedBundleError(
            f"{path}: cannot read ({error})",
            hint="restore it from another Primer: without it, a rollback cannot be detected",
            code="KSB-28",
        ) from error


def save(accepted: Accepted, directory: Path) -> None:
    """Write the record durably to `directory`."""
    document = {
        "number": accepted.number,
        "created": accepted.created.isoformat(),
        "digest": accepted.digest,
        "seen": accepted.newest_time.isoformat(),
        "keys": sorted(accepted.keys),
    }
    write_file(directory / FILE, (json.dumps(document, sort_keys=True) + "\n").encode())
