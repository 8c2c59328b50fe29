"""Registries that require credentials, benign and hostile: which credentials are sent to whom."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
from typing import TYPE_CHECKING

import pytest

from keystone.errors import KeystoneError
from keystone.packager.sources.oci import Reference, resolve
from keystone.packager.sources.upstream import Sources

from .faulty import Answer, Faulty, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PLATFORMS = frozenset({"linux/amd64"})
CONFIG = json.dumps({"architecture": "amd64", "os": "linux"}).encode()
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(CONFIG),
            "size": len(CONFIG),
        },
        "layers": [],
    }
).encode()
TOKEN = Answer(json.dumps({"token": "abc"}).encode())


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("XDG_RUNTIME_DIR", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def registry() -> Iterator[Faulty]:
    with serving() as found:
        yield found


def basic(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def host(server: Faulty) -> str:
    return server.address.partition("://")[2]


def challenge(realm: str, **more: str) -> Answer:
    fields = {"realm": realm, "service": "the registry", **more}
    text = ",".join(f'{name}="{value}"' for name, value in fields.items())
    return Answer(status=401, headers=(("WWW-Authenticate", f"Bearer {text}"),))


def pull(registry: Faulty, first: Answer, **settings: object) -> None:
    """Look up an image; the first request for its manifest gets the response `first`."""
    registry.says("/v2/team/app/manifests/v1", first, Answer(MANIFEST))
    registry.says(f"/v2/team/app/blobs/{digest(CONFIG)}", Answer(CONFIG))
    sources = Sources({"registry.example": registry.address}, pause=lambda _: None, **settings)  # type: ignore[arg-type] for brevity
    resolve(sources, Reference.parse("registry.example/team/app:v1"), PLATFORMS)


def keep(path: Path, document: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def test_token_is_requested_with_pull_scope_and_used(registry: Faulty, home: Path) -> None:
    keep(home / ".docker/config.json", {"auths": {host(registry): {"auth": basic("me:pw")}}})
    realm = registry.says("/token", TOKEN)
    pull(registry, challenge(realm, scope="registry:catalog:*"))
    request = next(one for one in registry.requests if one.path.startswith("/token"))
    assert "scope=repository%3Ateam%2Fapp%3Apull" in request.path
    assert "catalog" not in request.path
    assert request.headers["Authorization"] == f"Basic {basic('me:pw')}"
    assert registry.requests[-1].headers["Authorization"] == "Bearer abc"


def test_expired_token_is_renewed(registry: Faulty) -> None:
    realm = registry.says("/token", TOKEN)
    registry.says(f"/v2/team/app/blobs/{digest(CONFIG)}", challenge(realm), Answer(CONFIG))
    registry.says("/v2/team/app/manifests/v1", challenge(realm), Answer(MANIFEST))
    sources = Sources({"registry.example": registry.address}, pause=lambda _: None)
    resolve(sources, Reference.parse("registry.example/team/app:v1"), PLATFORMS)
    assert len([one for one in registry.requests if one.path.startswith("/token")]) == 2


@pytest.mark.parametrize("status", [429, 500, 503])
def test_busy_token_server_is_retried(registry: Faulty, status: int) -> None:
    later = Answer(status=status, headers=(("Retry-After", "0"),))
    wanted = challenge(registry.says("/token", later, later, TOKEN))
    registry.says("/v2/team/app/manifests/v1", wanted, wanted, wanted, Answer(MANIFEST))
    registry.says(f"/v2/team/app/blobs/{digest(CONFIG)}", Answer(CONFIG))
    sources = Sources({"registry.example": registry.address}, pause=lambda _: None)
    resolve(sources, Reference.parse("registry.example/team/app:v1"), PLATFORMS)
    assert len([one for one in registry.requests if one.path.startswith("/token")]) == 3
    assert registry.requests[-1].headers["Authorization"] == "Bearer abc"


def test_permanently_busy_token_server_is_named_in_the_error(registry: Faulty) -> None:
    waits: list[float] = []
    body = json.dumps({"errors": [{"message": "slow down"}]}).encode()
    later = Answer(body, status=429, headers=(("Retry-After", "7"),))
    with serving(host="127.0.0.2") as other:
        registry.says("/v2/team/app/manifests/v1", challenge(other.says("/token", later)))
        sources = Sources({"registry.example": registry.address}, pause=waits.append)
        with pytest.raises(KeystoneError) as caught:
            resolve(sources, Reference.parse("registry.example/team/app:v1"), PLATFORMS)
        assert len(other.requests) == 6
        assert f"HTTP 429 Too Many Requests from its token server {other.address}: slow down" in (
            caught.value.message
        )
    assert caught.value.exit_code == 8
    assert f"docker login {host(registry)}" in caught.value.hint
    assert [7 <= seconds <= 8 for seconds in waits] == [True] * 5


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_refused_token_is_not_retried(registry: Faulty, status: int) -> None:
    realm = registry.says("/token", Answer(status=status))
    with pytest.raises(KeystoneError) as caught:
        pull(registry, challenge(realm))
    assert (caught.value.exit_code, len(registry.requests)) == (8, 2)
    assert "docker login" in caught.value.hint


def test_credentials_are_not_sent_to_another_token_server(registry: Faulty, home: Path) -> None:
    keep(home / ".docker/config.json", {"auths": {host(registry): {"auth": basic("me:pw")}}})
    with serving(host="127.0.0.2") as thief:
        realm = thief.says("/token", TOKEN)
        with pytest.raises(KeystoneError) as caught:
            pull(registry, challenge(realm))
        assert caught.value.exit_code == 7
        assert "tokenServers" in caught.value.hint
        assert thief.requests == []
        named = {host(registry): thief.address}
        pull(registry, challenge(realm), token_servers=named)
        assert thief.requests[0].headers["Authorization"] == f"Basic {basic('me:pw')}"


def test_without_credentials_any_private_token_server_is_used(registry: Faulty) -> None:
    with serving(host="127.0.0.2") as other:
        pull(registry, challenge(other.says("/token", TOKEN)))
        assert "Authorization" not in other.requests[0].headers


@pytest.mark.parametrize(
    "realm", ["http://auth.example/token", "file:///etc/passwd", "", "https://u:p@auth.example/"]
)
def test_unsafe_token_server_is_refused(registry: Faulty, realm: str) -> None:
    with pytest.raises(KeystoneError) as caught:
        pull(registry, challenge(realm))
    assert caught.value.exit_code == 8


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"[]"),
        Answer(b"not json"),
        Answer(b"[" * 100_000),
        Answer(b"{}"),
        Answer(b'{"token": "a\\r\\nX: y"}'),
        Answer(b'{"token": "' + b"a" * (2 << 20) + b'"}'),
        Answer(status=302, headers=(("Location", "/v2/"),)),
    ],
    ids=["list", "text", "deeply nested", "no token", "line break", "huge", "redirect"],
)
def test_invalid_response_of_a_token_server_is_an_error(registry: Faulty, answer: Answer) -> None:
    with pytest.raises(KeystoneError) as caught:
        pull(registry, challenge(registry.says("/token", answer)))
    assert caught.value.exit_code == 8


def helper(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{script}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize("key", ["credHelpers", "credsStore"])
def test_credentials_of_a_helper_are_used(
    registry: Faulty, home: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        'read server; printf \'{"ServerURL": "%s", "Username": "me", "Secret": "pw"}\' "$server"'
    )
    helper(home / "bin", "test", program)
    monkeypatch.setenv("PATH", f"{home}/bin:/usr/bin:/bin")
    value: object = {host(registry): "test"} if key == "credHelpers" else "test"
    keep(home / ".docker/config.json", {key: value, "auths": {host(registry): {}}})
    pull(registry, challenge(registry.says("/token", TOKEN)))
    request = next(one for one in registry.requests if one.path.startswith("/token"))
    assert request.headers["Authorization"] == f"Basic {basic('me:pw')}"


def test_identity_token_of_a_helper_is_exchanged(
    registry: Faulty, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(home / "bin", "test", 'echo \'{"Username": "<token>", "Secret": "long-lived"}\'')
    monkeypatch.setenv("PATH", f"{home}/bin:/usr/bin:/bin")
    keep(home / ".docker/config.json", {"credsStore": "test"})
    pull(registry, challenge(registry.says("/token", Answer(b'{"access_token": "abc"}'))))
    request = registry.of("/token", "POST")[0]
    assert b"refresh_token=long-lived" in request.body
    assert "Authorization" not in request.headers
    assert registry.requests[-1].headers["Authorization"] == "Bearer abc"


def test_helper_without_credentials_is_not_an_error(
    registry: Faulty, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(home / "bin", "test", "echo credentials not found in native keychain; exit 1")
    monkeypatch.setenv("PATH", f"{home}/bin:/usr/bin:/bin")
    keep(home / ".docker/config.json", {"credsStore": "test"})
    pull(registry, challenge(registry.says("/token", TOKEN)))


def test_missing_helper_is_reported_with_its_credential_file(registry: Faulty, home: Path) -> None:
    """For example Docker Desktop's, if the credential file was copied to another machine."""
    keep(home / ".docker/config.json", {"credsStore": "none.exe"})
    with pytest.raises(KeystoneError) as caught:
        pull(registry, challenge(registry.says("/token", TOKEN)))
    assert caught.value.exit_code == 3
    assert str(home / ".docker/config.json") in caught.value.message
    assert "docker-credential-none.exe: no such program" in caught.value.message
    assert "credsStore" in caught.value.hint


@pytest.mark.parametrize("script", ["echo geheim; exit 3", "echo geheim", "echo '{}'"])
def test_error_of_a_failed_helper_does_not_contain_its_output(
    registry: Faulty, home: Path, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(home / "bin", "test", script)
    monkeypatch.setenv("PATH", f"{home}/bin:/usr/bin:/bin")
    keep(home / ".docker/config.json", {"credsStore": "test"})
    with pytest.raises(KeystoneError) as caught:
        pull(registry, challenge(registry.says("/token", TOKEN)))
    assert caught.value.exit_code == 3
    assert "geheim" not in caught.value.message


@pytest.mark.parametrize("name", ["../../bin/sh", "a/b", "", "x;y"])
def test_invalid_helper_name_is_refused(registry: Faulty, home: Path, name: str) -> None:
    keep(home / ".docker/config.json", {"credHelpers": {host(registry): name}})
    with pytest.raises(KeystoneError) as caught:
        pull(registry, challenge(registry.says("/token", TOKEN)))
    assert caught.value.exit_code == 3


def test_credential_files_are_searched_in_order(
    registry: Faulty, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """podman's file before Docker's; REGISTRY_AUTH_FILE replaces both; a namespace entry wins."""
    realm = registry.says("/token", TOKEN)
    name = host(registry)
    keep(home / ".docker/config.json", {"auths": {name: {"auth": basic("docker:x")}}})
    expected = ["docker:x"]
    pull(registry, challenge(realm))
    podman = {name: {"auth": basic("wide:x")}, f"{name}/team": {"auth": basic("team:x")}}
    keep(home / ".config/containers/auth.json", {"auths": podman})
    expected.append("team:x")
    pull(registry, challenge(realm))
    keep(home / "given.json", {"auths": {f"https://{name}/v1/": {"auth": basic("given:x")}}})
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(home / "given.json"))
    expected.append("given:x")
    pull(registry, challenge(realm))
    used = [one.headers["Authorization"] for one in registry.requests if "/token" in one.path]
    assert used == [f"Basic {basic(text)}" for text in expected]


@pytest.mark.parametrize(
    "text",
    ["[]", "{", '{"auths": {"%s": {"auth": "?"}}}', '{"auths": 3}', "[" * 100_000],
    ids=["list", "incomplete", "invalid auth", "number", "deeply nested"],
)
def test_invalid_credential_file_is_named_in_the_error(
    registry: Faulty, home: Path, text: str
) -> None:
    path = home / ".docker/config.json"
    path.parent.mkdir()
    path.write_text(text.replace("%s", host(registry)))
    with pytest.raises(KeystoneError) as caught:
        pull(registry, challenge(registry.says("/token", TOKEN)))
    assert caught.value.exit_code == 3
    assert str(path) in caught.value.message
