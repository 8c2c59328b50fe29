"""The part of a site file about sealed backups: to whom, where, how often, how many."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keystone.site.checks import duration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True)
class Bucket:
    """A bucket of an S3-compatible store. endpoint: a URL. prefix: of all object names.

    credentials_file: as the AWS command line has it. ca_file: CA certificates (PEM); "" for those
    of the system.
    """

    endpoint: str
    bucket: str
    credentials_file: str
    prefix: str = ""
    region: str = "us-east-1"
    ca_file: str = ""


@dataclass(frozen=True)
class Destination:
    """Where backups go: exactly one of a folder, the stick for backups, a bucket."""

    path: str = ""
    stick: bool = False
    s3: Bucket | None = None

    def __str__(self) -> str:
        if self.s3 is not None:
            return f"{self.s3.endpoint}/{self.s3.bucket}/{self.s3.prefix}"
        return self.path or "stick"


@dataclass(frozen=True)
class Backup:
    """recipients: public keys of age. every: a backup at least so often. keep: in each place."""

    recipients: tuple[str, ...]
    to: tuple[Destination, ...]
    every: dt.timedelta = dt.timedelta(days=1)
    keep: int = 14


def from_spec(spec: Mapping[str, Any], resolved: Callable[[str], str]) -> Backup:
    """Make a Backup of a valid spec.backup. resolved: makes paths absolute."""
    return Backup(
        tuple(spec["recipients"]),
        tuple(_destination(one, resolved) for one in spec["to"]),
        duration(spec["every"]) if "every" in spec else Backup.every,
        spec.get("keep", Backup.keep),
    )


def _destination(one: Mapping[str, Any], resolved: Callable[[str], str]) -> Destination:
    if "s3" not in one:
        return Destination(resolved(one.get("path", "")), one.get("stick", False))
    given = one["s3"]
    return Destination(
        s3=Bucket(
            given["endpoint"].rstrip("/"),
            given["bucket"],
            resolved(given["credentialsFile"]),
            given.get("prefix", Bucket.prefix),
            given.get("region", Bucket.region),
            resolved(given.get("caFile", "")),
        )
    )


def resolve(spec: dict[str, Any], resolved: Callable[[str], str]) -> None:
    """Make the paths of spec.backup absolute, in place."""
    for one in spec.get("backup", {}).get("to", ()):
        for holder, key in (
            (one, "path"),
            (one.get("s3"), "credentialsFile"),
            (one.get("s3"), "caFile"),
        ):
            if holder and key in holder:
                holder[key] = resolved(holder[key])
