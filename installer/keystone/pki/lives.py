"""How long certificates live, and which of them are due. Pure."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NEVER = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True)
class Life:
    """One certificate on a host. authority: it is a CA. A file that is none has ended in 1970."""

    path: str
    authority: bool
    not_before: dt.datetime
    not_after: dt.datetime

    def short(self, now: dt.datetime) -> bool:
        """Return whether less than a third of its life is left.

        Renewal is due at that moment too: the hundredth is its time to act before anyone is told.
        """
        life = self.not_after - self.not_before
        return self.not_after - now < life / 3 - life / 100


def of(texts: Mapping[str, str]) -> tuple[Life, ...]:
    """Return the certificates in PEM texts, by path; each certificate of a chain is one."""
    return tuple(life for path, text in sorted(texts.items()) for life in _lives(path, text))


def _lives(path: str, text: str) -> Iterable[Life]:
    try:
        for one in x509.load_pem_x509_certificates(text.encode()):
            yield Life(path, _authority(one), one.not_valid_before_utc, one.not_valid_after_utc)
    except ValueError:
        yield Life(path, authority=False, not_before=NEVER, not_after=NEVER)


def _authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def first(lives: Iterable[Life], *, authority: bool) -> Life | None:
    """Return the one that ends first of all authorities, or of all others."""
    return min(
        (life for life in lives if life.authority is authority),
        key=lambda life: life.not_after,
        default=None,
    )
