"""Upstreams that misbehave: the right retry or the right refusal, over real connections."""

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
    """No proxies and no credentials of the machine that the tests run on."""
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
    """Pauses, noted instead of slept."""

    def sources(self, **settings: object) -> Sources:
        return Sources(pause=self.append, **settings)  # type: ignore[arg-type] for brevity


def fetch(server: Faulty, *answers: Answer, sources: Sources | None = None) -> bytes:
    url = server.says("/thing", *answers)
    return b"".join((sources or Waits().sources()).fetch(url, DIGEST, len(BODY)))


def refusal(server: Faulty, *answers: Answer, sources: Sources | None = None) -> KeystoneError:
    with pytest.raises(KeystoneError) as caught:
        fetch(server, *answers, sources=sources)
    return caught.value


# Busy and broken -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(server: Faulty, status: int) -> None:
    waits = Waits()
    busy = Answer(status=status)
    assert fetch(server, busy, busy, Answer(BODY), sources=waits.sources()) == BODY
    assert len(server.of("/thing")) == 3
    assert 0.25 <= waits[0] <= 0.5 <= waits[1] <= 1.0


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_a_final_answer_is_not_asked_for_twice(server: Faulty, status: int) -> None:
    error = refusal(server, Answer(status=status))
    assert error.exit_code == 8
    assert len(server.of("/thing")) == 1


def test_a_server_that_stays_busy_is_given_up(server: Faulty) -> None:
    waits = Waits()
    error = refusal(server, Answer(status=503), sources=waits.sources())
    assert error.exit_code == 8
    assert "HTTP 503" in error.message
    assert (len(server.of("/thing")), len(waits)) == (6, 5)


def test_retry_after_in_seconds_is_obeyed(server: Faulty) -> None:
    waits = Waits()
    later = Answer(status=429, headers=(("Retry-After", "7"),))
    assert fetch(server, later, Answer(BODY), sources=waits.sources()) == BODY
    assert 7 <= waits[0] <= 8


def test_retry_after_as_a_date_is_obeyed(server: Faulty) -> None:
    waits = Waits()
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    later = Answer(status=503, headers=(("Retry-After", date),))
    assert fetch(server, later, Answer(BODY), sources=waits.sources()) == BODY
    assert 60 <= waits[0] <= 92


def test_a_server_that_asks_for_an_hour_is_not_waited_for(server: Faulty) -> None:
    waits = Waits()
    later = Answer(status=429, headers=(("Retry-After", "3600"),))
    error = refusal(server, later, sources=waits.sources())
    assert (error.exit_code, waits) == (8, [])
    assert "60 min" in error.message


LIMIT = "You have reached your unauthenticated pull rate limit."
SAID = json.dumps({"errors": [{"code": "TOOMANYREQUESTS", "message": f"{LIMIT}\x1b[31m"}]}).encode()


@pytest.mark.parametrize("headers", [(), (("Retry-After", "3600"),)])
def test_what_a_registry_says_of_a_limit_reaches_the_reader(
    server: Faulty, headers: tuple[tuple[str, str], ...]
) -> None:
    error = refusal(server, Answer(SAID, status=429, headers=headers), sources=Waits().sources())
    assert LIMIT in error.message
    assert "\x1b" not in error.message
    assert "docker login 127.0.0.1" in error.hint


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"errors": 3}', b'{"errors": [{}]}'])
def test_an_error_without_words_is_its_status(server: Faulty, body: bytes) -> None:
    assert refusal(server, Answer(body, status=403)).message.endswith("HTTP 403 Forbidden")


def test_an_address_that_is_signed_for_get_alone_tells_its_size(server: Faulty) -> None:
    """Object stores refuse HEAD for such addresses."""
    url = server.says("/thing", Answer(status=403), Answer(BODY))
    assert Waits().sources().size_of(url, DIGEST) == len(BODY)
    assert [one.method for one in server.asked] == ["HEAD", "GET"]


def test_a_server_that_tells_no_size_is_read_to_the_end(server: Faulty) -> None:
    """An archive that is packed while it is sent, as of a tag at GitHub."""
    url = server.says("/thing", Answer(BODY, chunked=True))
    assert Waits().sources().size_of(url, DIGEST) == len(BODY)
    with pytest.raises(KeystoneError) as caught:
        Waits().sources().size_of(url, Digest("0" * 64))
    assert caught.value.exit_code == 5
    assert "0" * 64 in caught.value.message
    assert DIGEST.hex in caught.value.message


def test_nobody_there_is_a_host_that_cannot_be_reached() -> None:
    with serving() as server:
        url = server.says("/thing", Answer(BODY))
    waits = Waits()
    with pytest.raises(KeystoneError) as caught:
        b"".join(waits.sources().fetch(url, DIGEST, len(BODY)))
    assert (caught.value.exit_code, len(waits)) == (8, 5)


# Cut connections -------------------------------------------------------------------------------


def test_a_cut_connection_is_taken_up_where_it_broke(server: Faulty) -> None:
    cut = Answer(BODY, headers=TAGGED, cut=1 << 20)
    assert fetch(server, cut, cut, Answer(BODY, headers=TAGGED)) == BODY
    ranges = [one.headers.get("Range") for one in server.of("/thing")]
    assert ranges[0] is None
    assert all(text and text.startswith("bytes=") for text in ranges[1:])
    assert {one.headers.get("If-Range") for one in server.of("/thing")[1:]} == {'"one"'}


def test_a_range_need_not_repeat_the_date_that_it_was_asked_for_with(server: Faulty) -> None:
    dated = (("Last-Modified", "Sat, 21 Nov 2026 12:00:00 GMT"),)
    cut = Answer(BODY, headers=dated, cut=1 << 20)
    assert fetch(server, cut, Answer(BODY, headers=dated, terse=True)) == BODY
    asked = server.of("/thing")[-1].headers
    assert asked["If-Range"] == dated[0][1]
    # Where no digest will judge the whole, it is read anew.
    url = server.says("/unnamed", cut, Answer(BODY, headers=dated, terse=True), Answer(BODY))
    assert Waits().sources().digest_of(url) == (DIGEST, len(BODY))
    assert "Range" not in server.of("/unnamed")[-1].headers


def test_a_server_without_ranges_sends_all_again_and_nothing_is_doubled(server: Faulty) -> None:
    cut = Answer(BODY, cut=1 << 20, ranges=False)
    assert fetch(server, cut, Answer(BODY, ranges=False)) == BODY


def test_a_shorter_thing_is_another_thing(server: Faulty) -> None:
    error = refusal(server, Answer(BODY[: 1 << 20]))
    assert error.exit_code == 5
    assert str(1 << 20) in error.message
    assert str(len(BODY)) in error.message


def test_no_progress_is_given_up(server: Faulty) -> None:
    waits = Waits()
    error = refusal(server, Answer(BODY, cut=10), sources=waits.sources())
    assert error.exit_code == 8
    assert len(waits) == 5


def test_slow_progress_is_not_given_up(server: Faulty) -> None:
    """Eight cuts, more than the attempts there are; between them more than a MiB came."""
    body = os.urandom(12 << 20)
    cut = Answer(body, cut=(3 << 20) // 2)
    url = server.says("/long", *([cut] * 7), Answer(body))
    digest = Digest(hashlib.sha256(body).hexdigest())
    assert b"".join(Waits().sources().fetch(url, digest, len(body))) == body


def test_a_thing_that_changed_meanwhile_is_not_stitched_together(server: Faulty) -> None:
    other = Answer(bytes(len(BODY)), headers=(("ETag", '"two"'),))
    error = refusal(server, Answer(BODY, headers=TAGGED, cut=1 << 20), other)
    assert error.exit_code == 8
    assert "changed while it was read" in error.message


def test_a_thing_to_be_named_that_changed_is_read_anew(server: Faulty) -> None:
    other = os.urandom(2 << 20)
    url = server.says(
        "/thing",
        Answer(BODY, headers=TAGGED, cut=1 << 20),
        Answer(other, headers=(("ETag", '"two"'),)),
    )
    named = Waits().sources().digest_of(url)
    assert named == (Digest(hashlib.sha256(other).hexdigest()), len(other))


def test_without_validator_nothing_unnamed_is_resumed(server: Faulty) -> None:
    url = server.says("/thing", Answer(bytes(len(BODY)), cut=1 << 20), Answer(BODY))
    assert Waits().sources().digest_of(url) == (DIGEST, len(BODY))


def test_a_range_nobody_asked_for_is_refused(server: Faulty) -> None:
    lying = Answer(BODY, status=206, headers=(("Content-Range", f"bytes 5-9/{len(BODY)}"),))
    assert refusal(server, Answer(BODY, cut=1 << 20), lying).exit_code == 8


# Wrong content ---------------------------------------------------------------------------------


def test_wrong_digest_is_refused_and_both_are_named(server: Faulty) -> None:
    other = BODY[:-1] + bytes([BODY[-1] ^ 1])
    error = refusal(server, Answer(other))
    assert error.exit_code == 5
    assert hashlib.sha256(other).hexdigest() in error.message
    assert DIGEST.hex in error.message
    assert len(server.of("/thing")) == 1


@pytest.mark.parametrize("more", [-1, 1, 1 << 40])
def test_wrong_length_is_refused_before_it_is_read(server: Faulty, more: int) -> None:
    error = refusal(server, Answer(BODY, length=len(BODY) + more))
    assert error.exit_code == 5
    assert str(len(BODY) + more) in error.message
    assert str(len(BODY)) in error.message


def test_too_much_for_memory_is_refused(server: Faulty) -> None:
    url = server.says("/thing", Answer(BODY))
    with pytest.raises(KeystoneError, match="more than 1000 bytes") as caught:
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


def test_who_is_redirected_to_does_not_get_credentials_by_asking(
    server: Faulty, elsewhere: Faulty, tmp_path: Path
) -> None:
    login(tmp_path, server.address, elsewhere.address)
    target = elsewhere.says("/moved", BASIC)
    error = refusal(server, Answer(status=302, headers=(("Location", target),)))
    assert error.exit_code == 8
    assert [one for one in elsewhere.asked if "Authorization" in one.headers] == []


def test_another_port_is_another_origin(server: Faulty, tmp_path: Path) -> None:
    with serving() as other:
        login(tmp_path, server.address)
        target = other.says("/moved", BASIC)
        refusal(server, Answer(status=302, headers=(("Location", target),)))
        refusal(other, BASIC)
        assert [one for one in other.asked if "Authorization" in one.headers] == []


def test_wrong_credentials_are_not_tried_twice(server: Faulty, tmp_path: Path) -> None:
    login(tmp_path, server.address)
    assert refusal(server, BASIC).exit_code == 8
    assert len(server.of("/thing")) == 2


def test_redirects_in_a_circle_end(server: Faulty) -> None:
    circle = Answer(status=302, headers=(("Location", "/thing"),))
    assert refusal(server, circle).exit_code == 8
    assert len(server.of("/thing")) == 10


@pytest.mark.parametrize(
    "location", ["file:///etc/shadow", "http://user:secret@127.0.0.1/x", "ftp://x/", "http://[x"]
)
def test_redirects_lead_to_plain_web_addresses_only(server: Faulty, location: str) -> None:
    assert refusal(server, Answer(status=302, headers=(("Location", location),))).exit_code == 8


# TLS and proxies -------------------------------------------------------------------------------


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[Faulty, Path]]:
    both, alone = self_signed(tmp_path, "127.0.0.1", "files.example")
    with serving(tls=both) as found:
        yield found, alone


def test_a_server_that_vouches_for_itself_is_refused_at_once(secure: tuple[Faulty, Path]) -> None:
    waits = Waits()
    error = refusal(secure[0], Answer(BODY), sources=waits.sources())
    assert (error.exit_code, waits) == (8, [])
    assert "--ca-file" in error.hint
    assert secure[0].asked == []


def test_with_its_authority_it_is_trusted(secure: tuple[Faulty, Path]) -> None:
    assert fetch(secure[0], Answer(BODY), sources=Waits().sources(ca_file=secure[1])) == BODY


def test_another_authority_does_not_help(secure: tuple[Faulty, Path], tmp_path: Path) -> None:
    _, other = self_signed(tmp_path, "other.example")
    error = refusal(secure[0], Answer(BODY), sources=Waits().sources(ca_file=other))
    assert error.exit_code == 8


def test_no_certificate_in_the_file_is_a_configuration_mistake(
    secure: tuple[Faulty, Path], tmp_path: Path
) -> None:
    (tmp_path / "empty.pem").write_text("nothing\n")
    sources = Waits().sources(ca_file=tmp_path / "empty.pem")
    assert refusal(secure[0], Answer(BODY), sources=sources).exit_code == 3


def test_tls_is_never_left(secure: tuple[Faulty, Path]) -> None:
    """To a machine on the network, that is: the name is not even looked up."""
    away = Answer(status=301, headers=(("Location", "http://files.example/thing"),))
    error = refusal(secure[0], away, sources=Waits().sources(ca_file=secure[1]))
    assert error.exit_code == 8
    assert "without TLS" in error.message


def test_https_goes_through_the_proxy(
    secure: tuple[Faulty, Path], server: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = secure[0].address.rpartition(":")[2]
    server.says("CONNECT", Answer(f"127.0.0.1:{port}".encode()))
    secure[0].says("/thing", Answer(BODY))
    monkeypatch.setenv("HTTPS_PROXY", server.address)
    sources = Waits().sources(ca_file=secure[1])
    url = "https://files.example/thing"
    assert b"".join(sources.fetch(url, DIGEST, len(BODY))) == BODY
    assert [one.path for one in server.asked] == ["files.example:443"]
    monkeypatch.setenv("NO_PROXY", ".example")
    with pytest.raises(KeystoneError):
        b"".join(sources.fetch(url, DIGEST, len(BODY)))
    assert len(server.asked) == 1


def test_loopback_never_goes_through_a_proxy(
    server: Faulty, elsewhere: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", elsewhere.address)
    assert fetch(server, Answer(BODY)) == BODY
    assert elsewhere.asked == []


# As commands -----------------------------------------------------------------------------------

HEAD = "apiVersion: keystone/v1alpha1\nmetadata: {name: small}\n"


class Packager(CommandLine):
    """A folder with one definition, and the command line."""

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
        said = self.said(code, *words)
        assert (self.folder / "a.tar").exists() == (code == 0)
        return said


def test_lock_and_create_survive_what_servers_do(server: Faulty, tmp_path: Path) -> None:
    later = Answer(status=429, headers=(("Retry-After", "1"),))
    checksum = Answer(f"{DIGEST.hex}  tool\n".encode())
    server.says("/tool.sha256", Answer(status=503), later, checksum)
    url = server.says("/tool", Answer(BODY))
    packager = Packager(tmp_path, url)
    packager.lock()
    asked = server.of("/tool.sha256")
    assert asked[2].when - asked[1].when >= 1
    server.says("/tool", Answer(BODY, headers=TAGGED, cut=1 << 20), Answer(BODY, headers=TAGGED))
    said = packager.create()
    assert "100 %" in said
    assert server.of("/tool")[-1].headers["If-Range"] == '"one"'


@pytest.mark.parametrize(
    ("answer", "code", "named"),
    [
        (Answer(BODY[::-1]), 5, hashlib.sha256(BODY[::-1]).hexdigest()),
        (Answer(BODY, length=17), 5, "17 bytes"),
        (Answer(status=404), 8, "HTTP 404"),
        (Answer(status=429, headers=(("Retry-After", "86400"),)), 8, "come back"),
        (Answer(status=302, headers=(("Location", "gopher://x/"),)), 8, "gopher"),
    ],
    ids=["digest", "length", "gone", "tomorrow", "redirect"],
)
def test_exit_codes(server: Faulty, tmp_path: Path, answer: Answer, code: int, named: str) -> None:
    server.says("/tool.sha256", Answer(DIGEST.hex.encode()))
    packager = Packager(tmp_path, server.says("/tool", Answer(BODY)))
    packager.lock()
    server.says("/tool", answer)
    assert named in packager.create(code)


@pytest.mark.parametrize("known", ["definition", "published", "nowhere"])
def test_a_binary_whose_size_nobody_tells(server: Faulty, tmp_path: Path, known: str) -> None:
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


def test_a_private_authority_by_option_and_in_the_definition(
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
