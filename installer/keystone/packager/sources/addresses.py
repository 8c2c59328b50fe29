"""URLs: their origins, which ones need TLS, and which redirects are allowed."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urljoin, urlsplit

from keystone.errors import ConfigurationError, SourceError

PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Origin:
    """Scheme, host and port (RFC 6454). Credentials are bound to an origin."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """Parse a URL. Raises ConfigurationError unless it is http(s) and has no credentials."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigurationError(f"{url!r}: not a URL: {error}") from error
        if parts.scheme not in PORTS or not host:
            raise ConfigurationError(f"{url!r}: not an http or https URL")
        if parts.username is not None or parts.password is not None:
            raise ConfigurationError(
                f"a URL of {host} contains a user name",
                hint="put credentials into Docker's credential file: docker login, podman login",
            )
        return cls(parts.scheme, host, port or PORTS[parts.scheme])

    @property
    def name(self) -> str:
        """host, or host:port when the port is not the scheme's default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether the host is this machine."""
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def private(self) -> bool:
        """Whether nobody on the network can read or change the traffic: TLS or loopback."""
        return self.scheme == "https" or self.loopback

    def __str__(self) -> str:
        return f"{self.scheme}://{self.name}"


def require_private(address: str) -> None:
    """Refuse plain HTTP, except for loopback. Raises ConfigurationError."""
    if not Origin.of(address).private:
        raise ConfigurationError(
            f"{address}: without TLS, anybody on the network path can replace the content",
            hint="use https, or set its sha256 in the definition",
        )


def is_loopback(address: str) -> bool:
    """Whether a URL points at this machine."""
    return Origin.of(address).loopback


def follow(url: str, location: str) -> str:
    """Return the target of a redirect (RFC 9110, 10.2.2).

    Raises SourceError for a redirect from TLS to plain HTTP, or from another host to this machine.
    """
    try:
        target = urljoin(url, location)
        before, after = Origin.of(url), Origin.of(target)
    except (ValueError, ConfigurationError) as error:
        raise SourceError(f"{url}: redirects to an invalid URL: {error}") from error
    if before.private and not after.private:
        raise SourceError(
            f"{url}: redirects to {after}, without TLS",
            hint="anybody on the network path can replace the content: correct upstream or mirror",
        )
    if after.loopback and not before.loopback:
        raise SourceError(f"{url}: redirects to this machine ({after})")
    return target
