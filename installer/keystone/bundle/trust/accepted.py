"""What a host remembers of the bundles it accepted, and what it therefore refuses.

TUF keeps the last timestamp and snapshot for that (5.4.3, 5.5.5, 5.6.4). All roles of a bundle
have one version, its number, so number and digest say the same, and a person can read them.
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

    digest: of its targets.json, "sha256:...". created: when it was locked. seen: the newest signed
    time of all that were accepted; time does not go back behind it. keys: public keys (hex) that
    could sign then; when one of them is no longer good, what was accepted proves nothing any more.
    """

    number: int
    created: datetime
    digest: str
    seen: datetime | None = None
    keys: frozenset[str] = frozenset()

    @property
    def newest_time(self) -> datetime:
        """The newest signed time."""
        return max(self.created, self.seen or self.created)

    def survives(self, keys: frozenset[str]) -> bool:
        """Whether this still counts under a root that trusts `keys`.

        TUF 5.3.11: after a release key was withdrawn, forget what it signed. Otherwise a thief who
        signed number 2^53-1, or the year 2099, would have locked out every bundle to come.
        """
        return self.keys <= keys

    def refuse_older(self, number: int, created: datetime, digest: str) -> None:
        """Raises UntrustedBundleError (KSB-28) for a smaller number, or the same with other bytes.

        A higher number with an earlier date is new: versions count, dates do not.
        """
        ours = f"number {self.number} of {self.created.isoformat()}, which this host accepted"
        theirs = f"bundle number {number} of {created.isoformat()}"
        if number < self.number:
            raise UntrustedBundleError(
                f"{theirs} is older than {ours}",
                hint="use the newest bundle; going back is an attack or a mix-up of files",
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
    """What this host accepted; None when it never did.

    Raises UntrustedBundleError when the file cannot be read: guessing would forget a rollback.
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
            f"{path}: cannot be read ({error})",
            hint="restore it from another Primer: without it a rollback cannot be noticed",
            code="KSB-28",
        ) from error


def save(accepted: Accepted, directory: Path) -> None:
    """Durably."""
    document = {
        "number": accepted.number,
        "created": accepted.created.isoformat(),
        "digest": accepted.digest,
        "seen": accepted.newest_time.isoformat(),
        "keys": sorted(accepted.keys),
    }
    write_file(directory / FILE, (json.dumps(document, sort_keys=True) + "\n").encode())
