"""The clocks of other hosts, as their web servers tell them."""

from __future__ import annotations

import datetime as dt
import email.utils
import http.client
import ssl
from typing import TYPE_CHECKING

from keystone import log

if TYPE_CHECKING:
    from pathlib import Path

NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME (X509_VERIFY_PARAM_set_flags(3)). To learn the time of a host whose
certificate has expired by our clock, which may be wrong, is the point."""
SECONDS = 10


def ahead(address: str, port: int, authority: Path) -> dt.timedelta | None:
    """Return how far the clock of a host is ahead of ours, to a second; None without an answer.

    The host's HTTPS server must have a certificate of `authority` (PEM); the time is its header
    Date (RFC 9110, 6.6.1).
    """
    link = None
    try:
        context = ssl.create_default_context(cafile=str(authority))
        context.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME)
        link = http.client.HTTPSConnection(address, port, timeout=SECONDS, context=context)
        link.request("HEAD", "/")
        said = email.utils.parsedate_to_datetime(link.getresponse().getheader("Date", ""))
        return said - dt.datetime.now(dt.UTC)
    except (OSError, http.client.HTTPException, ValueError, TypeError) as error:
        log.debug(f"{address}: does not tell its time: {error}")
        return None
    finally:
        if link is not None:
            link.close()
