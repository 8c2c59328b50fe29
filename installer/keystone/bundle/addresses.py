"""Which addresses may be asked for things that have no digest yet."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from keystone.errors import ConfigurationError, KeystoneError


class SourceError(KeystoneError):
    """An upstream does not give what the definition or the lock asks for."""

    exit_code = 1


def require_private(address: str) -> None:
    """Refuse plain HTTP, but for loopback. Raises ConfigurationError."""
    parts = urlsplit(address)
    if parts.scheme == "https" or is_loopback(address):
        return
    raise ConfigurationError(
        f"{address}: without TLS anybody on the way could choose its bytes",
        hint="use https, or give its sha256 in the definition",
    )


def is_loopback(address: str) -> bool:
    """Whether a URL points at this machine."""
    host = urlsplit(address).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
