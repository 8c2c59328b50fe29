"""A bucket of an S3-compatible store, over HTTPS: put, get, list and delete objects.

Signature version 4 (docs.aws.amazon.com, "Signature Version 4 signing process"); path-style
addresses, which every compatible store understands. The body's SHA-256 is signed, so the store
refuses a body that was changed on its way.
"""

from __future__ import annotations

import configparser
import datetime as dt
import hashlib
import hmac
import html
import http.client
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from keystone.errors import ConfigurationError, HostError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from keystone.site.backup import Bucket as Settings

SECONDS = 120
"""For a connection, and for each wait for bytes."""
LARGEST = 5 << 30
"""Bytes of one PUT (docs.aws.amazon.com, "Uploading objects")."""
_EMPTY = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class Credentials:
    """An access key. The secret is in no message."""

    key: str
    secret: str = field(repr=False)


def credentials(file: Path) -> Credentials:
    """Read a credentials file as the AWS command line has it (profile default).

    Raises ConfigurationError when it is missing, invalid, or readable for all users.
    """
    parser = configparser.RawConfigParser()
    try:
        mode = file.stat().st_mode
        parser.read_string(file.read_text())
        section = parser["default"]
        found = Credentials(section["aws_access_key_id"], section["aws_secret_access_key"])
    except (OSError, ValueError, KeyError, configparser.Error) as error:
        # The error of a parser quotes the line, which may hold the secret.
        why = error.strerror if isinstance(error, OSError) else "not of the form [default] ..."
        raise ConfigurationError(
            f"{file}: cannot read the credentials of the store: {why}",
            hint="write: [default], aws_access_key_id = ..., aws_secret_access_key = ...",
        ) from None
    if mode & 0o077:
        raise ConfigurationError(
            f"{file}: other users can read the credentials", hint=f"chmod 600 {file}"
        )
    return found


def sign(
    method: str,
    host: str,
    path: str,
    query: Mapping[str, str],
    payload: str,
    *,
    region: str,
    who: Credentials,
    now: dt.datetime,
) -> dict[str, str]:
    """Return the headers of a signed request. path: encoded. payload: SHA-256 of the body, hex."""
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    headers = {"host": host, "x-amz-content-sha256": payload, "x-amz-date": stamp}
    names = ";".join(headers)
    canonical = "\n".join(
        (
            method,
            path,
            encoded(query),
            *(f"{name}:{value}" for name, value in headers.items()),
            "",
            names,
            payload,
        )
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
    secret = f"AWS4{who.secret}".encode()
    for part in (stamp[:8], region, "s3", "aws4_request"):
        secret = hmac.digest(secret, part.encode(), "sha256")
    signature = hmac.digest(secret, text.encode(), "sha256").hex()
    return {
        **headers,
        "authorization": f"AWS4-HMAC-SHA256 Credential={who.key}/{scope}, "
        f"SignedHeaders={names}, Signature={signature}",
    }


def encoded(query: Mapping[str, str]) -> str:
    """Return a query as it is sent and signed: sorted, percent-encoded (RFC 3986)."""
    pairs = sorted((quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in query.items())
    return "&".join(f"{key}={value}" for key, value in pairs)


class Bucket:
    """Implements `places.Place`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._who = credentials(Path(settings.credentials_file))
        self._url = urlsplit(settings.endpoint)

    def names(self) -> list[str]:
        """Return the names of all objects with our prefix."""
        prefix, found, after = self._settings.prefix, [], ""
        while True:
            query = {
                "list-type": "2",
                "prefix": prefix,
                **({"start-after": after} if after else {}),
            }
            with self._asked("GET", "", query=query) as answer:
                page = b"".join(self._body(answer)).decode(errors="replace")
            keys = [html.unescape(key) for key in re.findall(r"<Key>([^<]*)</Key>", page)]
            found += [key.removeprefix(prefix) for key in keys]
            if "<IsTruncated>true<" not in page or not keys or keys[-1] <= after:
                return found
            after = keys[-1]

    def put(self, file: Path, name: str, sha256: str) -> None:
        """Store a file as one object: it is there as a whole or not at all."""
        if (size := file.stat().st_size) > LARGEST:
            raise HostError(
                f"{name}: {size} bytes; a store takes at most 5 GiB in one piece",
                hint="back up to a folder or a stick",
            )
        with self._asked("PUT", name, body=file, payload=sha256):
            pass

    def read(self, name: str) -> Iterator[bytes]:
        """Yield the content of an object."""
        with self._asked("GET", name) as answer:
            yield from self._body(answer)

    def remove(self, name: str) -> None:
        """Delete an object."""
        with self._asked("DELETE", name):
            pass

    def _body(self, answer: http.client.HTTPResponse) -> Iterator[bytes]:
        try:
            while chunk := answer.read(1 << 20):
                yield chunk
        except (OSError, http.client.HTTPException) as error:
            raise self._silent(error) from error

    def _asked(
        self,
        method: str,
        name: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Path | None = None,
        payload: str = _EMPTY,
    ) -> http.client.HTTPResponse:
        """Send one request; return the answer. Raises HostError unless it is a success."""
        settings = self._settings
        key = f"/{settings.prefix}{name}" if name else ""
        path = quote(f"{self._url.path.rstrip('/')}/{settings.bucket}{key}", safe="/-_.~")
        given = query or {}
        headers = sign(
            method, self._url.netloc, path, given, payload,
            region=settings.region, who=self._who, now=dt.datetime.now(dt.UTC),
        )  # fmt: skip
        where = f"{path}?{encoded(given)}" if given else path
        link = self._connection()
        try:
            if body is None:
                link.request(method, where, headers=headers)
            else:
                size = {"content-length": str(body.stat().st_size)}
                with body.open("rb") as stream:
                    link.request(method, where, body=stream, headers={**headers, **size})
            answer = link.getresponse()
        except (OSError, http.client.HTTPException) as error:
            link.close()
            raise self._silent(error) from error
        if answer.status // 100 != 2:  # noqa: PLR2004 the class of successes
            raise self._refused(method, name, answer)
        return answer

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=SECONDS)
        try:
            context = ssl.create_default_context(cafile=self._settings.ca_file or None)
        except OSError as error:  # also ssl.SSLError: no certificate in it
            raise ConfigurationError(
                f"{self._settings.ca_file}: cannot read the store's CA certificates: "
                f"{error.strerror or error}",
                hint="correct caFile in spec.backup.to of the site file",
            ) from error
        return http.client.HTTPSConnection(host, port, timeout=SECONDS, context=context)

    def _silent(self, error: Exception) -> HostError:
        return HostError(
            f"{self._settings.endpoint}: {str(error) or type(error).__name__}",
            hint="check the address, the network and the clock; then run again",
        )

    def _refused(self, method: str, name: str, answer: http.client.HTTPResponse) -> HostError:
        with answer:
            text = answer.read(64 * 1024).decode(errors="replace")
        code = re.search(r"<Code>([A-Za-z0-9]{1,64})</Code>", text)
        why = f" ({code[1]})" if code else ""
        return HostError(
            f"{self._settings.endpoint}: {method} {self._settings.bucket}/"
            f"{self._settings.prefix}{name}: {answer.status}{why}",
            hint="check bucket, region and credentials, and that the clock is right",
        )
