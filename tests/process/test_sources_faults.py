"""Upstreams that misbehave, over real connections: requests are retried or refused."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import pytest

from keystone.bundle.model import Digest
from keystone.errors import KeystoneError
from keystone.packager.sources.upstream import Sources

from .command_line import CommandLine
from .faulty import Answer, Faulty, self_signed, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

BODY = os.urandom(3 << 20)
DIGEST = Digest(hashlib.sha256(BODY).hexdigest())
TAGGED = (("ETag", '"one"'),)
SECRET = base64.b64encode(b"user:geheim").decode()


@pytest.fixture(autouse=True)
def quiet_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove proxies and credentials of the machine that runs the tests."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("XDG_RUNTIME_DIR", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def server() -> Iterator[Faulty]:
    with serving() as found:
        yield found


class Waits(list[float]):
    """Records pauses instead of sleeping."""

    def sources(self, **settings: object) -> Sources:
        return Sources(pause=self.append, **settings)  # type: ignore[arg-type] for brevity


def fetch(server: Faulty, *answers: Answer, sources: Sources | None = None) -> bytes:
    url = server.says("/thing", *answers)
    return b"".join((sources or Waits().sources()).fetch(url, DIGEST, len(BODY)))


def refusal(server: Faulty, *answers: Answer, sources: Sources | None = None) -> KeystoneError:
    with pytest.raises(KeystoneError) as caught:
        fetch(server, *answers, sources=sources)
    return caught.value


# Busy servers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_busy_server_is_retried(server: Faulty, status: int) -> None:
    waits = Waits()
    busy = Answer(status=status)
    assert fetch(server, busy, busy, Answer(BODY), sources=waits.sources()) == BODY
    assert len(server.of("/thing")) == 3
    assert 0.25 <= waits[0] <= 0.5 <= waits[1] <= 1.0


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_final_status_is_not_retried(server: Faulty, status: int) -> None:
    error = refusal(server, Answer(status=status))
    assert error.exit_code == 8
    assert len(server.of("/thing")) == 1


def test_permanently_busy_server_fails_after_six_attempts(server: Faulty) -> None:
    waits = Waits()
    error = refusal(server, Answer(status=503), sources=waits.sources())
    assert error.exit_code == 8
    assert "HTTP 503" in error.message
    assert (len(server.of("/thing")), len(waits)) == (6, 5)


def test_retry_after_in_seconds_is_respected(server: Faulty) -> None:
    waits = Waits()
    later = Answer(status=429, headers=(("Retry-After", "7"),))
    assert fetch(server, later, Answer(BODY), sources=waits.sources()) == BODY
    assert 7 <= waits[0] <= 8


def test_retry_after_as_date_is_respected(server: Faulty) -> None:
    waits = Waits()
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    later = Answer(status=503, headers=(("Retry-After", date),))
    assert fetch(server, later, Answer(BODY), sources=waits.sources()) == BODY
    assert 60 <= waits[0] <= 92


def test_retry_after_one_hour_fails_at_once(server: Faulty) -> None:
    waits = Waits()
    later = Answer(status=429, headers=(("Retry-After", "3600"),))
    error = refusal(server, later, sources=waits.sources())
    assert (error.exit_code, waits) == (8, [])
    assert "60 min" in error.message


LIMIT = "You have reached your unauthenticated pull rate limit."
ERROR_BODY = json.dumps(
    {"errors": [{"code": "TOOMANYREQUESTS", "message": f"{LIMIT}\x1b[31m"}]}
).encode()


@pytest.mark.parametrize("headers", [(), (("Retry-After", "3600"),)])
def test_rate_limit_message_of_a_registry_is_reported(
    server: Faulty, headers: tuple[tuple[str, str], ...]
) -> None:
    error = refusal(
        server, Answer(ERROR_BODY, status=429, headers=headers), sources=Waits().sources()
    )
    assert LIMIT in error.message
    assert "\x1b" not in error.message
    assert "docker login 127.0.0.1" in error.hint


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"errors": 3}', b'{"errors": [{}]}'])
def test_error_without_message_is_reported_by_its_status(server: Faulty, body: bytes) -> None:
    assert refusal(server, Answer(body, status=403)).message.endswith("HTTP 403 Forbidden")


def test_size_is_read_by_get_when_head_is_refused(server: Faulty) -> None:
    """Object stores refuse HEAD for URLs that are signed for GET."""
    url = server.says("/thing", Answer(status=403), Answer(BODY))
    assert Waits().sources().size_of(url, DIGEST) == len(BODY)
    assert [one.method for one in server.requests] == ["HEAD", "GET"]


def test_size_without_content_length_is_counted_and_verified(server: Faulty) -> None:
    """For example GitHub's archive of a tag, which is packed while it is sent."""
    url = server.says("/thing", Answer(BODY, chunked=True))
    assert Waits().sources().size_of(url, DIGEST) == len(BODY)
    with pytest.raises(KeystoneError) as caught:
        Waits().sources().size_of(url, Digest("0" * 64))
    assert caught.value.exit_code == 5
    assert "0" * 64 in caught.value.message
    assert DIGEST.hex in caught.value.message


def test_refused_connection_fails_after_six_attempts() -> None:
    with serving() as server:
        url = server.says("/thing", Answer(BODY))
    waits = Waits()
    with pytest.raises(KeystoneError) as caught:
        b"".join(waits.sources().fetch(url, DIGEST, len(BODY)))
    assert (caught.value.exit_code, len(waits)) == (8, 5)


# Broken connections ----------------------------------------------------------------------------


def test_broken_download_is_resumed_with_if_range(server: Faulty) -> None:
    broken = Answer(BODY, headers=TAGGED, break_after=1 << 20)
    assert fetch(server, broken, broken, Answer(BODY, headers=TAGGED)) == BODY
    ranges = [one.headers.get("Range") for one in server.of("/thing")]
    assert ranges[0] is None
    assert all(text and text.startswith("bytes=") for text in ranges[1:])
    assert {one.headers.get("If-Range") for one in server.of("/thing")[1:]} == {'"one"'}


def test_partial_response_without_last_modified_is_accepted(server: Faulty) -> None:
    dated = (("Last-Modified", "Sat, 21 Nov 2026 12:00:00 GMT"),)
    broken = Answer(BODY, headers=dated, break_after=1 << 20)
    assert fetch(server, broken, Answer(BODY, headers=dated, terse=True)) == BODY
    headers = server.of("/thing")[-1].headers
    assert headers["If-Range"] == dated[0][1]
    # Without a known digest, the file is read again from the start.
    url = server.says("/unnamed", broken, Answer(BODY, headers=dated, terse=True), Answer(BODY))
    assert Waits().sources().digest_of(url) == (DIGEST, len(BODY))
    assert "Range" not in server.of("/unnamed")[-1].headers


def test_server_without_ranges_gives_no_duplicate_bytes(server: Faulty) -> None:
    broken = Answer(BODY, break_after=1 << 20, ranges=False)
    assert fetch(server, broken, Answer(BODY, ranges=False)) == BODY


def test_shorter_file_is_refused(server: Faulty) -> None:
    error = refusal(server, Answer(BODY[: 1 << 20]))
    assert error.exit_code == 5
    assert str(1 << 20) in error.message
    assert str(len(BODY)) in error.message


def test_download_without_progress_fails_after_six_attempts(server: Faulty) -> None:
    waits = Waits()
    error = refusal(server, Answer(BODY, break_after=10), sources=waits.sources())
    assert error.exit_code == 8
    assert len(waits) == 5


def test_progress_between_retries_resets_the_attempts(server: Faulty) -> None:
    """The connection breaks 7 times, more than the 6 attempts, each time after 1.5 MiB."""
    body = os.urandom(12 << 20)
    broken = Answer(body, break_after=(3 << 20) // 2)
    url = server.says("/long", *([broken] * 7), Answer(body))
    digest = Digest(hashlib.sha256(body).hexdigest())
    assert b"".join(Waits().sources().fetch(url, digest, len(body))) == body


def test_file_that_changed_during_the_download_is_refused(server: Faulty) -> None:
    other = Answer(bytes(len(BODY)), headers=(("ETag", '"two"'),))
    error = refusal(server, Answer(BODY, headers=TAGGED, break_after=1 << 20), other)
    assert error.exit_code == 8
    assert "changed during the download" in error.message


def test_changed_file_of_unknown_digest_is_read_again(server: Faulty) -> None:
    other = os.urandom(2 << 20)
    url = server.says(
        "/thing",
        Answer(BODY, headers=TAGGED, break_after=1 << 20),
        Answer(other, headers=(("ETag", '"two"'),)),
    )
    named = Waits().sources().digest_of(url)
    assert named == (Digest(hashlib.sha256(other).hexdigest()), len(other))


def test_file_of_unknown_digest_is_not_resumed_without_validator(server: Faulty) -> None:
    url = server.says("/thing", Answer(bytes(len(BODY)), break_after=1 << 20), Answer(BODY))
    assert Waits().sources().digest_of(url) == (DIGEST, len(BODY))


def test_wrong_content_range_is_refused(server: Faulty) -> None:
    lying = Answer(BODY, status=206, headers=(("Content-Range", f"bytes 5-9/{len(BODY)}"),))
    assert refusal(server, Answer(BODY, break_after=1 << 20), lying).exit_code == 8


# Wrong content ---------------------------------------------------------------------------------


def test_wrong_digest_is_refused_with_both_digests(server: Faulty) -> None:
    other = BODY[:-1] + bytes([BODY[-1] ^ 1])
    error = refusal(server, Answer(other))
    assert error.exit_code == 5
    assert hashlib.sha256(other).hexdigest() in error.message
    assert DIGEST.hex in error.message
    assert len(server.of("/thing")) == 1


@pytest.mark.parametrize("more", [-1, 1, 1 << 40])
def test_wrong_content_length_is_refused(server: Faulty, more: int) -> None:
    error = refusal(server, Answer(BODY, length=len(BODY) + more))
    assert error.exit_code == 5
    assert str(len(BODY) + more) in error.message
    assert str(len(BODY)) in error.message


def test_read_beyond_its_limit_is_refused(server: Faulty) -> None:
    url = server.says("/thing", Answer(BODY))
    with pytest.raises(KeystoneError, match="larger than 1000 bytes") as caught:
        Waits().sources().read(url, limit=1000)
    assert caught.value.exit_code == 5


# Redirects and credentials ---------------------------------------------------------------------


def login(folder: Path, *servers: str) -> None:
    auths = {name.partition("://")[2]: {"auth": SECRET} for name in servers}
    (folder / ".docker").mkdir(exist_ok=True)
    (folder / ".docker/config.json").write_text(json.dumps({"auths": auths}))


@pytest.fixture
def elsewhere() -> Iterator[Faulty]:
    with serving(host="127.0.0.2") as found:
        yield found


BASIC = Answer(status=401, headers=(("WWW-Authenticate", 'Basic realm="files"'),))


def test_credentials_stay_with_their_origin(
    server: Faulty, elsewhere: Faulty, tmp_path: Path
) -> None:
    login(tmp_path, server.address, elsewhere.address)
    target = elsewhere.says("/moved", Answer(BODY))
    moved = Answer(status=307, headers=(("Location", target),))
    assert fetch(server, BASIC, moved) == BODY
    assert server.of("/thing")[1].headers["Authorization"] == f"Basic {SECRET}"
    assert "Authorization" not in elsewhere.of("/moved")[0].headers
    assert "Cookie" not in elsewhere.of("/moved")[0].headers


def test_redirect_target_gets_no_credentials_for_its_challenge(
    server: Faulty, elsewhere: Faulty, tmp_path: Path
) -> None:
    login(tmp_path, server.address, elsewhere.address)
    target = elsewhere.says("/moved", BASIC)
    error = refusal(server, Answer(status=302, headers=(("Location", target),)))
    assert error.exit_code == 8
    assert [one for one in elsewhere.requests if "Authorization" in one.headers] == []


def test_another_port_is_another_origin(server: Faulty, tmp_path: Path) -> None:
    with serving() as other:
        login(tmp_path, server.address)
        target = other.says("/moved", BASIC)
        refusal(server, Answer(status=302, headers=(("Location", target),)))
        refusal(other, BASIC)
        assert [one for one in other.requests if "Authorization" in one.headers] == []


def test_wrong_credentials_are_sent_once(server: Faulty, tmp_path: Path) -> None:
    login(tmp_path, server.address)
    assert refusal(server, BASIC).exit_code == 8
    assert len(server.of("/thing")) == 2


def test_redirect_loop_is_refused(server: Faulty) -> None:
    circle = Answer(status=302, headers=(("Location", "/thing"),))
    assert refusal(server, circle).exit_code == 8
    assert len(server.of("/thing")) == 10


@pytest.mark.parametrize(
    "location", ["file:///etc/shadow", "http://user:secret@127.0.0.1/x", "ftp://x/", "http://[x"]
)
def test_redirect_to_an_invalid_url_is_refused(server: Faulty, location: str) -> None:
    assert refusal(server, Answer(status=302, headers=(("Location", location),))).exit_code == 8


# TLS and proxies -------------------------------------------------------------------------------


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[Faulty, Path]]:
    both, alone = self_signed(tmp_path, "127.0.0.1", "files.example")
    with serving(tls=both) as found:
        yield found, alone


def test_self_signed_server_is_refused_without_retry(secure: tuple[Faulty, Path]) -> None:
    waits = Waits()
    error = refusal(secure[0], Answer(BODY), sources=waits.sources())
    assert (error.exit_code, waits) == (8, [])
    assert "--ca-file" in error.hint
    assert secure[0].requests == []


def test_server_is_trusted_with_its_ca_file(secure: tuple[Faulty, Path]) -> None:
    assert fetch(secure[0], Answer(BODY), sources=Waits().sources(ca_file=secure[1])) == BODY


def test_server_is_refused_with_another_ca_file(
    secure: tuple[Faulty, Path], tmp_path: Path
) -> None:
    _, other = self_signed(tmp_path, "other.example")
    error = refusal(secure[0], Answer(BODY), sources=Waits().sources(ca_file=other))
    assert error.exit_code == 8


def test_ca_file_without_certificates_is_a_configuration_error(
    secure: tuple[Faulty, Path], tmp_path: Path
) -> None:
    (tmp_path / "empty.pem").write_text("nothing\n")
    sources = Waits().sources(ca_file=tmp_path / "empty.pem")
    assert refusal(secure[0], Answer(BODY), sources=sources).exit_code == 3


def test_redirect_from_tls_to_plain_http_is_refused(secure: tuple[Faulty, Path]) -> None:
    """The name of the target is not even resolved."""
    away = Answer(status=301, headers=(("Location", "http://files.example/thing"),))
    error = refusal(secure[0], away, sources=Waits().sources(ca_file=secure[1]))
    assert error.exit_code == 8
    assert "without TLS" in error.message


def test_https_uses_the_proxy_unless_no_proxy(
    secure: tuple[Faulty, Path], server: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = secure[0].address.rpartition(":")[2]
    server.says("CONNECT", Answer(f"127.0.0.1:{port}".encode()))
    secure[0].says("/thing", Answer(BODY))
    monkeypatch.setenv("HTTPS_PROXY", server.address)
    sources = Waits().sources(ca_file=secure[1])
    url = "https://files.example/thing"
    assert b"".join(sources.fetch(url, DIGEST, len(BODY))) == BODY
    assert [one.path for one in server.requests] == ["files.example:443"]
    monkeypatch.setenv("NO_PROXY", ".example")
    with pytest.raises(KeystoneError):
        b"".join(sources.fetch(url, DIGEST, len(BODY)))
    assert len(server.requests) == 1


def test_loopback_uses_no_proxy(
    server: Faulty, elsewhere: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", elsewhere.address)
    assert fetch(server, Answer(BODY)) == BODY
    assert elsewhere.requests == []


# As commands -----------------------------------------------------------------------------------

HEAD = "apiVersion: keystone/v1alpha1\nmetadata: {name: small}\n"


class Packager(CommandLine):
    """The command line, in a folder with one definition."""

    def __init__(self, folder: Path, url: str, more: str = "") -> None:
        super().__init__(folder)
        (folder / "small.yaml").write_text(
            f"{HEAD}kind: BundleDefinition\nspec:\n  number: 1\n  architectures: [amd64]\n"
            f"  installer: false\n  binaries: [{{name: tool, version: '1', url: '{url}'}}]\n{more}"
        )
        self.run(0, "bundle", "keys", "init", "--dir", "keys")

    def lock(self, code: int = 0, *words: str) -> str:
        return self.said(code, "bundle", "lock", "small.yaml", *words)

    def create(self, code: int = 0, *words: str) -> str:
        words = ("bundle", "create", "small.yaml", "-o", "a.tar", "--keys", "keys", *words)
        output = self.said(code, *words)
        assert (self.folder / "a.tar").exists() == (code == 0)
        return output


def test_lock_and_create_retry_and_resume(server: Faulty, tmp_path: Path) -> None:
    later = Answer(status=429, headers=(("Retry-After", "1"),))
    checksum = Answer(f"{DIGEST.hex}  tool\n".encode())
    server.says("/tool.sha256", Answer(status=503), later, checksum)
    url = server.says("/tool", Answer(BODY))
    packager = Packager(tmp_path, url)
    packager.lock()
    requests = server.of("/tool.sha256")
    assert requests[2].when - requests[1].when >= 1
    server.says(
        "/tool", Answer(BODY, headers=TAGGED, break_after=1 << 20), Answer(BODY, headers=TAGGED)
    )
    output = packager.create()
    assert "100 %" in output
    assert server.of("/tool")[-1].headers["If-Range"] == '"one"'


@pytest.mark.parametrize(
    ("answer", "code", "named"),
    [
        (Answer(BODY[::-1]), 5, hashlib.sha256(BODY[::-1]).hexdigest()),
        (Answer(BODY, length=17), 5, "17 bytes"),
        (Answer(status=404), 8, "HTTP 404"),
        (Answer(status=429, headers=(("Retry-After", "86400"),)), 8, "asks to retry in"),
        (Answer(status=302, headers=(("Location", "gopher://x/"),)), 8, "gopher"),
    ],
    ids=["wrong digest", "wrong length", "not found", "retry tomorrow", "invalid redirect"],
)
def test_create_exits_with_the_code_of_the_fault(
    server: Faulty, tmp_path: Path, answer: Answer, code: int, named: str
) -> None:
    server.says("/tool.sha256", Answer(DIGEST.hex.encode()))
    packager = Packager(tmp_path, server.says("/tool", Answer(BODY)))
    packager.lock()
    server.says("/tool", answer)
    assert named in packager.create(code)


@pytest.mark.parametrize("known", ["definition", "published", "nowhere"])
def test_size_of_binary_unknown_upstream(server: Faulty, tmp_path: Path, known: str) -> None:
    url = server.says("/v1.tar.gz", Answer(BODY, chunked=True))
    if known == "published":
        server.says("/v1.tar.gz.sha256", Answer(DIGEST.hex.encode()))
    packager = Packager(tmp_path, url)
    if known == "definition":
        path = tmp_path / "small.yaml"
        path.write_text(path.read_text().replace(f"'{url}'", f"'{url}', sha256: {DIGEST.hex}"))
    packager.lock()
    (item,) = packager.items("binary")
    assert (item["digest"], item["size"]) == (str(DIGEST), len(BODY))
    packager.create()


def test_ca_file_by_option_and_in_the_definition(
    secure: tuple[Faulty, Path], tmp_path: Path
) -> None:
    server, authority = secure
    url = server.says("/tool", Answer(BODY))
    packager = Packager(tmp_path, url)
    assert "--ca-file" in packager.lock(8)
    packager.lock(0, "--ca-file", str(authority))
    assert "certificate is not trusted" in packager.create(8)
    folder = tmp_path / "second"
    folder.mkdir()
    second = Packager(folder, url, f"  caFile: ../{authority.name}\n")
    second.lock()
    second.create()
