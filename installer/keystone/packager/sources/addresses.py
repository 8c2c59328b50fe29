"""Addresses as values: origins, which may be asked, and where a redirect may lead."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urljoin, urlsplit

from keystone.errors import ConfigurationError, SourceError

PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Origin:
    """Scheme, host and port (RFC 6454): what credentials are bound to."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """Raises ConfigurationError for what is no http(s) address, or carries a password."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigurationError(f"{url!r}: not an address: {error}") from error
        if parts.scheme not in PORTS or not host:
            raise ConfigurationError(f"{url!r}: not an http or https address")
        if parts.username is not None or parts.password is not None:
            raise ConfigurationError(
                f"an address of {host} holds a user name",
                hint="credentials belong into Docker's credential file: docker login, podman login",
            )
        return cls(parts.scheme, host, port or PORTS[parts.scheme])

    @property
    def name(self) -> str:
        """host, or host:port when it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether it is this machine."""
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def private(self) -> bool:
        """Whether nobody on the way can read or change what is said."""
        return self.scheme == "https" or self.loopback

    def __str__(self) -> str:
        return f"{self.scheme}://{self.name}"


def require_private(address: str) -> None:
    """Refuse plain HTTP, but for loopback. Raises ConfigurationError."""
    if not Origin.of(address).private:
        raise ConfigurationError(
            f"{address}: without TLS anybody on the way could choose its bytes",
            hint="use https, or give its sha256 in the definition",
        )


def is_loopback(address: str) -> bool:
    """Whether a URL points at this machine."""
    return Origin.of(address).loopback


def follow(url: str, location: str) -> str:
    """Where a redirect leads (RFC 9110, 10.2.2).

    Raises SourceError when it would leave TLS, or leads from far away to this machine.
    """
    try:
        target = urljoin(url, location)
        before, after = Origin.of(url), Origin.of(target)
    except (ValueError, ConfigurationError) as error:
        raise SourceError(f"{url}: redirects to a bad address: {error}") from error
    if before.private and not after.private:
        raise SourceError(
            f"{url}: redirects to {after}, without TLS",
            hint="anybody on the way could choose its bytes: correct upstream or the mirror",
        )
    if after.loopback and not before.loopback:
        raise SourceError(f"{url}: redirects to this machine ({after})")
    return target
