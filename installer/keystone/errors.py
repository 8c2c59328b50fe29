"""One error root; each family has the exit code that docs/reference/exit-codes.md promises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class KeystoneError(Exception):
    """Something a person can act on.

    message: what happened and to what (file and key, disk serial, host).
    hint:    what to do next.
    code:    the class of what is wrong ("KSB-07"), for scripts and tickets; it never changes
             between releases, the message may. Empty where no class was given.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code


class UsageError(KeystoneError):
    """The command line does not fit together."""

    exit_code = 2


class ConfigurationError(KeystoneError):
    """A file that a person wrote is wrong. `mistakes` holds all of them, not the first."""

    exit_code = 3

    def __init__(
        self, message: str, *, mistakes: Iterable[Mistake] = (), hint: str = "", code: str = ""
    ) -> None:
        super().__init__(message, hint=hint, code=code)
        self.mistakes = tuple(mistakes)


class UntrustedBundleError(KeystoneError):
    """Signature, key, expiry, rollback: do not use this bundle, tell whoever guards the keys."""

    exit_code = 4


class DamagedBundleError(KeystoneError):
    """Incomplete or changed in transit: copy it again."""

    exit_code = 5


class PreflightError(KeystoneError):
    """A host is not fit for what the site file asks of it."""

    exit_code = 6

    def __init__(
        self, message: str, *, findings: Iterable[str] = (), hint: str = "", code: str = ""
    ) -> None:
        super().__init__(message, hint=hint, code=code)
        self.findings = tuple(findings)


class RefusedError(KeystoneError):
    """Destructive and not approved, or ambiguous."""

    exit_code = 7


class HostError(KeystoneError):
    """A host failed or cannot be reached."""

    exit_code = 8


class SourceError(HostError):
    """An upstream cannot be reached, or refuses to give what is asked for."""


class StatusError(SourceError):
    """The server's answer is final, and not what was asked for. status: of HTTP."""

    def __init__(self, message: str, status: int, hint: str = "") -> None:
        super().__init__(message, hint=hint or "check the name, the credentials and the mirrors")
        self.status = status


class WrongContentError(DamagedBundleError, SourceError):
    """An upstream answers, with other bytes than the definition or the lock names."""


class InterruptedRunError(KeystoneError):
    """Stopped half-way by a signal: run the same command again to go on."""

    exit_code = 9


@dataclass(frozen=True)
class Mistake:
    """One mistake in a file that a person wrote.

    where: "site.yaml:12 spec.primers[1].address". text: what is wrong. hint: the nearest right
    thing.
    """

    where: str
    text: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.text}" + (f" ({self.hint})" if self.hint else "")
