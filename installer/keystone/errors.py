"""The errors of Keystone: one base class; each subclass has an exit code.

Source of the exit codes: docs/reference/exit-codes.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class KeystoneError(Exception):
    """An error that a person can act on.

    message: what failed, and where (file and key, disk serial, host).
    hint:    the next step.
    code:    the class of the error ("KSB-07"), for scripts and tickets; the code is the same in
             all releases, the message may change. Empty when the error has no class.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code


class UsageError(KeystoneError):
    """Options or arguments are missing, invalid, or contradict each other."""

    exit_code = 2


class ConfigurationError(KeystoneError):
    """A file that a person wrote is invalid. `mistakes` holds all mistakes, not only the first."""

    exit_code = 3

    def __init__(
        self, message: str, *, mistakes: Iterable[Mistake] = (), hint: str = "", code: str = ""
    ) -> None:
        super().__init__(message, hint=hint, code=code)
        self.mistakes = tuple(mistakes)


class UntrustedBundleError(KeystoneError):
    """The signature, key, expiry or number of a bundle is invalid.

    Do not use this bundle; tell the holders of the keys.
    """

    exit_code = 4


class DamagedBundleError(KeystoneError):
    """A bundle is incomplete, or was changed in transit: copy it again."""

    exit_code = 5


class PreflightError(KeystoneError):
    """A host does not meet the requirements of the site file."""

    exit_code = 6

    def __init__(
        self, message: str, *, findings: Iterable[str] = (), hint: str = "", code: str = ""
    ) -> None:
        super().__init__(message, hint=hint, code=code)
        self.findings = tuple(findings)


class RefusedError(KeystoneError):
    """The command would destroy data without approval, or is ambiguous."""

    exit_code = 7


class HostError(KeystoneError):
    """A host failed or cannot be reached."""

    exit_code = 8


class SourceError(HostError):
    """An upstream cannot be reached, or refuses a request."""


class StatusError(SourceError):
    """A server refused a request for good: a retry does not help. status: the HTTP status code."""

    def __init__(self, message: str, status: int, hint: str = "") -> None:
        super().__init__(message, hint=hint or "check the name, the credentials and the mirrors")
        self.status = status


class WrongContentError(DamagedBundleError, SourceError):
    """An upstream serves content whose digest is not the one in the definition or lock."""


class InterruptedRunError(KeystoneError):
    """A signal stopped the command: run the same command again to continue."""

    exit_code = 9


@dataclass(frozen=True)
class Mistake:
    """One mistake in a file that a person wrote.

    where: "site.yaml:12 spec.primers[1].address". text: what is wrong. hint: the closest valid
    value, or how to correct it.
    """

    where: str
    text: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.text}" + (f" ({self.hint})" if self.hint else "")
