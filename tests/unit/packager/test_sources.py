"""Pure functions of the sources: waits, challenges, origins, platforms of wheels."""

from __future__ import annotations

import fcntl
import re
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keystone.documents import packaged_schema
from keystone.errors import ConfigurationError, SourceError
from keystone.packager.sources import backoff, docker_credentials, registry_auth, wheels
from keystone.packager.sources.addresses import Origin, follow
from keystone.packager.sources.apt import Tree, proxies
from keystone.packager.sources.http import Client
from keystone.packager.sources.oci import next_page
from keystone.packager.sources.upstream import Sources

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("Sat, 21 Nov 2026 12:01:00 GMT", 60.0),
        ("Sat, 21 Nov 2026 11:00:00 GMT", 0.0),
        ("", None),
        ("-5", None),
        ("soon", None),
        ("1.5", None),
        ("9" * 400, 999999999.0),
    ],
)
def test_retry_after(header: str, seconds: float | None) -> None:
    assert backoff.retry_after(header, NOW) == seconds


def test_waits_double_and_are_randomized() -> None:
    assert [backoff.wait(attempt, None, 0.0) for attempt in range(1, 9)] == [
        0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0,
    ]  # fmt: skip
    assert 0.49 < backoff.wait(1, None, 0.999) < 0.5
    assert backoff.wait(1, 40.0, 0.0) == 40.0
    assert backoff.wait(6, 40.0, 0.999) < 41.0


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (
            'Bearer realm="https://a/t",service="x, y",scope=pull',
            [("bearer", {"realm": "https://a/t", "service": "x, y", "scope": "pull"})],
        ),
        (
            'Basic realm="a \\"b\\"", Bearer realm="c"',
            [("basic", {"realm": 'a "b"'}), ("bearer", {"realm": "c"})],
        ),
        ("", []),
        ("Negotiate", [("negotiate", {})]),
        ('  ,Bearer   realm = "c"  ,  scope=x ,', [("bearer", {"realm": "c", "scope": "x"})]),
        ('Basic realm="open', [("basic", {}), ("realm", {}), ("open", {})]),
        # An earlier version took cubic or quadratic time for these: hours.
        ("Bearer" + " " * 100_000 + '"', [("bearer", {})]),
        ("Bearer realm=" + " " * 100_000 + '"', [("bearer", {}), ("realm", {})]),
        ('Bearer realm="' + "\\" * 100_001, [("bearer", {}), ("realm", {})]),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_challenges_are_parsed(header: str, found: list[tuple[str, dict[str, str]]]) -> None:
    parsed = [(one.scheme, dict(one.parameters)) for one in registry_auth.challenges(header)]
    assert parsed == found


@pytest.mark.parametrize(
    ("link", "page"),
    [
        ('</a?n=1>; rel="next"', "https://r.example/a?n=1"),
        ('</z>; rel="prev", </a>; x=y; rel=next', "https://r.example/a"),
        ("", ""),
        ('</a>; rel="prev"', ""),
        # An earlier version searched to the end from each "<": hours.
        ("<" * 1_000_000, ""),
        ("<a>;" * 300_000, ""),
        ("<a>" + " " * 300_000, ""),
        ("<" * 1_000_000 + '/a>; rel="next"', "https://r.example/a"),
    ],
    ids=lambda value: value[:20],
)
def test_next_page(link: str, page: str) -> None:
    assert next_page("https://r.example/x", link) == page


def test_origins_differ_by_scheme_host_and_port() -> None:
    assert Origin.of("https://a.example/x") == Origin.of("https://a.example:443/y")
    assert Origin.of("https://a.example") != Origin.of("http://a.example")
    assert Origin.of("https://a.example") != Origin.of("https://a.example:444")
    assert Origin.of("https://[::1]:5000/").name == "[::1]:5000"
    for text in ("file:///x", "https://", "https://u:p@a.example/", "https://a:b/", "x"):
        with pytest.raises(ConfigurationError) as caught:
            Origin.of(text)
        assert "u:p" not in caught.value.message


@pytest.mark.parametrize(
    ("url", "location", "target"),
    [
        ("https://a/x/y", "z", "https://a/x/z"),
        ("https://a/x", "//b/z", "https://b/z"),
        ("http://a/x", "https://b/", "https://b/"),
        ("https://a/x", "http://b/", None),
        ("http://127.0.0.1/x", "http://b/", None),
        ("https://a/x", "https://127.0.0.1/", None),
        ("https://a/x", "https://localhost/", None),
    ],
)
def test_redirect_target_is_resolved_or_refused(
    url: str, location: str, target: str | None
) -> None:
    if target is not None:
        assert follow(url, location) == target
        return
    with pytest.raises(SourceError):
        follow(url, location)


def test_plain_http_never_gets_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "auth.json").write_text('{"auths": {"a.example": {"auth": "bWU6cHc="}}}')
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    assert docker_credentials.find(Origin.of("http://a.example"), "x") is None
    assert docker_credentials.find(Origin.of("https://a.example:444"), "x") is None
    assert docker_credentials.find(Origin.of("https://b.a.example"), "x") is None
    found = docker_credentials.find(Origin.of("https://a.example"), "x")
    assert found is not None
    assert (found.user, found.password) == ("me", "pw")
    assert "pw" not in repr(found)


def test_docker_hub_credentials_are_found_under_its_other_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auths = '{"auths": {"https://index.docker.io/v1/": {"auth": "bWU6cHc="}}}'
    (tmp_path / "config.json").write_text(auths)
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert docker_credentials.find(Origin.of("https://registry-1.docker.io"), "library/a")
    registry_auth.check_realm(
        Origin.of("https://registry-1.docker.io"), "https://auth.docker.io/token",
        credentials=True, token_servers={},
    )  # fmt: skip


def test_mirror_of_a_namespace_wins_and_maps_back_to_upstream() -> None:
    sources = Sources(
        {
            "quay.io": "https://proxy.example/quay",
            "quay.io/team": "https://own.example",
            "https://files.example": "https://proxy.example/files/",
        }
    )
    assert sources.registry("quay.io", "team/app") == "https://own.example/v2/app"
    assert sources.registry("quay.io", "teams/app") == "https://proxy.example/v2/quay/teams/app"
    assert sources.upstream("https://proxy.example/files/a/b") == "https://files.example/a/b"
    assert sources.upstream("https://proxy.example/other") == "https://proxy.example/other"


def test_wheel_platforms_are_those_up_to_the_targets_glibc() -> None:
    found = wheels.platforms("arm64", "2.31")
    assert found[0] == "manylinux_2_31_aarch64"
    assert "manylinux_2_34_aarch64" not in found
    assert found[-2:] == ("manylinux2014_aarch64", "linux_aarch64")


def test_apt_gets_proxy_variables_in_lower_case() -> None:
    given = {"HTTPS_PROXY": "http://p:1", "no_proxy": "x", "NO_PROXY": "y", "http_proxy": ""}
    assert proxies(given) == {"https_proxy": "http://p:1", "no_proxy": "x"}


def keys(schema: dict[str, object]) -> set[str]:
    """All property names in a JSON Schema, at any depth."""
    found: set[str] = set()
    for name, value in schema.items():
        if name == "properties" and isinstance(value, dict):
            found |= set(value)
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict):
                found |= keys(inner)
    return found


def test_reference_page_documents_every_key_of_the_definition() -> None:
    page = (Path(__file__).parents[3] / "docs/reference/bundle-definition.md").read_text()
    spec = packaged_schema("bundle")["properties"]["spec"]
    assert sorted(key for key in keys(spec) if not re.search(rf"\b{key}\b", page)) == []


def test_apt_tree_is_locked_while_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Concurrent runs with the same sources write the same lists and cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(Tree, "_update", lambda _: None)
    monkeypatch.setattr(Tree, "_configuration", lambda _: "")
    with Tree.ready((), "amd64", Sources()) as tree:
        (lock,) = tree.root.parent.glob("*.lock")
        with lock.open("rb") as held, pytest.raises(BlockingIOError):
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with lock.open("rb") as free:
        fcntl.flock(free, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize(
    ("number", "message", "attempts"),
    [
        (socket.EAI_NONAME, "its name does not resolve: no such name", 0),
        (socket.EAI_AGAIN, "no such name; failed 6 times", 5),
    ],
)
def test_name_that_does_not_resolve_gives_a_short_message(
    monkeypatch: pytest.MonkeyPatch, number: int, message: str, attempts: int
) -> None:
    def no_such_name(*_: object, **__: object) -> None:
        raise socket.gaierror(number, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    monkeypatch.setenv("NO_PROXY", "*")
    pauses: list[float] = []
    with pytest.raises(SourceError) as error:
        Client(pause=pauses.append).request("GET", "https://registry.example/v2/", {})
    assert error.value.message.startswith("https://registry.example")
    assert error.value.message.endswith(message)
    assert "HTTPSConnection" not in error.value.message
    assert len(pauses) == attempts
