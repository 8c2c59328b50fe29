"""What was ever issued: JSON lines, each holding the SHA-256 of the line before it.

Nothing is issued that is not in here first, so a certificate that is seen and not listed is not
ours. A line can be neither changed nor taken out without breaking every later one; the last one may
have been cut short by a power cut, and then its certificate never got its name.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
from typing import TYPE_CHECKING

from keystone.errors import RefusedError
from keystone.files import again
from keystone.pki import certificates

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography import x509

_FIRST = "0" * 64


class IssueLog:
    """The log in one file, which need not exist yet."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def add(self, certificate: x509.Certificate) -> None:
        """Append one line and sync it. Raises RefusedError when the chain is already broken."""
        lines = self._whole_lines()
        found = _problems(self._file, lines)
        if found:
            raise RefusedError(found[0], hint="someone changed the log: compare it with a copy")
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
        descriptor = again(self._file, os.O_WRONLY | os.O_CREAT)
        with os.fdopen(descriptor, "wb") as stream:
            stream.seek(sum(map(len, lines)))
            stream.truncate()
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())

    def problems(self) -> list[str]:
        """What is wrong with the chain, as sentences."""
        return _problems(self._file, self._whole_lines())

    def _whole_lines(self) -> list[bytes]:
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
