"""The log of all issued certificates: JSON lines, each with the SHA-256 of the line before it.

A certificate is logged before it is written, so a certificate that is not in the log is not ours.
Nobody can change or remove a line without invalidating all later ones. A power cut may leave the
last line incomplete; its certificate was then never written.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
from typing import TYPE_CHECKING

from keystone.errors import RefusedError
from keystone.files import open_own
from keystone.pki import certificates

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography import x509

_FIRST = "0" * 64


class IssueLog:
    """A log in a file, which may not exist yet."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def add(self, certificate: x509.Certificate) -> None:
        """Append a line and sync it. Raises RefusedError when the chain of hashes is broken."""
        lines = self._complete_lines()
        found = _problems(self._file, lines)
        if found:
            raise RefusedError(
                found[0], hint="somebody changed the log: compare it with a backup copy"
            )
        entry = {
            "number": len(lines) + 1,
            "previous": _hash(lines[-1]) if lines else _FIRST,
            "time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "subject": certificate.subject.rfc4514_string(),
            "issuer": certificate.issuer.rfc4514_string(),
            "serial": f"{certificate.serial_number:032x}",
            "not_before": certificate.not_valid_before_utc.isoformat(),
            "not_after": certificate.not_valid_after_utc.isoformat(),
            "sha256": certificates.fingerprint(certificate),
        }
        line = json.dumps(entry, sort_keys=True).encode() + b"\n"
        descriptor = open_own(self._file, os.O_WRONLY | os.O_CREAT)
        with os.fdopen(descriptor, "wb") as stream:
            stream.seek(sum(map(len, lines)))
            stream.truncate()
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())

    def problems(self) -> list[str]:
        """Return what is wrong with the chain of hashes, one line each."""
        return _problems(self._file, self._complete_lines())

    def _complete_lines(self) -> list[bytes]:
        if not self._file.exists():
            return []
        return [
            line for line in self._file.read_bytes().splitlines(keepends=True)
            if line.endswith(b"\n")
        ]  # fmt: skip


def _problems(file: Path, lines: list[bytes]) -> list[str]:
    previous = _FIRST
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except ValueError:
            return [f"{file}:{number}: not JSON"]
        if (entry.get("number"), entry.get("previous")) != (number, previous):
            return [f"{file}:{number}: does not follow the line before it"]
        previous = _hash(line)
    return []


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
