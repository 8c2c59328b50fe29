"""Token authentication of registries (distribution specification), with Docker's credentials."""

from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from keystone.bundle.addresses import SourceError, require_private
from keystone.errors import ConfigurationError

if TYPE_CHECKING:
    import requests  # noqa: TID251 types only

TIMEOUT = (20, 60)


def authorization(session: requests.Session, answer: requests.Response) -> str:
    """The Authorization header that a 401 asks for (distribution spec, token authentication).

    Credentials come from Docker's own file and go to the registry's token server only.
    """
    challenge = answer.headers.get("WWW-Authenticate", "")
    basic = _credentials(urlsplit(answer.url).netloc)
    if challenge.lower().startswith("basic") and basic:
        return f"Basic {basic}"
    fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    if not challenge.lower().startswith("bearer") or "realm" not in fields:
        raise SourceError(
            f"{answer.url}: the registry wants credentials", hint="docker login, then run it again"
        )
    realm = fields.pop("realm")
    require_private(realm)
    reply = session.get(
        realm,
        params=fields,
        headers={"Authorization": f"Basic {basic}"} if basic else {},
        timeout=TIMEOUT,
    )
    if not reply.ok:
        raise SourceError(f"{realm}: HTTP {reply.status_code}: no token for {answer.url}")
    document = reply.json()
    return f"Bearer {document.get('token') or document['access_token']}"


def _credentials(host: str) -> str:
    """user:password in base64, from ~/.docker/config.json; "" when there are none."""
    path = Path(os.environ.get("DOCKER_CONFIG", "~/.docker")).expanduser() / "config.json"
    if not path.exists():
        return ""
    key = "https://index.docker.io/v1/" if host == "registry-1.docker.io" else host
    try:
        auth = str(json.loads(path.read_bytes()).get("auths", {}).get(key, {}).get("auth", ""))
        base64.b64decode(auth, validate=True)
    except (ValueError, AttributeError) as error:
        raise ConfigurationError(f"{path}: not Docker's credential file: {error}") from error
    return auth
