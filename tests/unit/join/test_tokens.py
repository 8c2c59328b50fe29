"""Tokens: for one machine, one role, a limited time; guessing reveals nothing and is slowed."""

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from keystone.errors import HostError, UsageError
from keystone.join import identity
from keystone.join import tokens as join
from keystone.site.model import Networks, Node, Site

PIN = "c" * 64
KEY, OTHER = "1" * 64, "2" * 64
ADDRESS = IPv4Address("10.77.0.21")
SITE = Site(
    "lab",
    (Node("p1", IPv4Address("10.77.0.11")),),
    Networks(IPv4Network("10.77.0.0/24")),
)


def request_with(token: join.Token, *, hostname: str = "w1", key: str = KEY) -> join.Request:
    return join.Request(token, identity.KeyRequest("", hostname, key))


def refused(call: Callable[..., object], *arguments: object, **keywords: object) -> join.Refusal:
    with pytest.raises(join.Refusal) as caught:
        call(*arguments, **keywords)
    return caught.value


@pytest.fixture
def pair() -> tuple[join.Token, join.Record]:
    return join.new("worker", PIN, now=1000, ttl=60)


def test_token_survives_formatting_and_parsing(pair: tuple[join.Token, join.Record]) -> None:
    token, record = pair
    assert join.Token.parse(f" {token}\n") == token
    assert token.secret not in json.dumps(record.__dict__)


def test_token_is_valid_until_it_expires(pair: tuple[join.Token, join.Record]) -> None:
    token, record = pair
    join.require_valid(record, request_with(token), role="worker", now=1059)
    assert (
        "expired"
        in refused(join.require_valid, record, request_with(token), role="worker", now=1060).text
    )


def test_refusal_is_the_same_for_wrong_secret_and_unknown_token(
    pair: tuple[join.Token, join.Record],
) -> None:
    token, record = pair
    wrong = join.Token(token.id, "0" * 40, token.pin)
    texts = {
        refused(join.require_valid, given, request_with(wrong), role="worker", now=9999).text
        for given in (record, None)
    }
    assert texts == {"this Primer does not know the token"}
    assert (
        refused(join.require_valid, None, request_with(token), role="worker", now=1000).status
        == 403
    )


def test_token_for_another_role_is_refused(pair: tuple[join.Token, join.Record]) -> None:
    token, record = pair
    assert (
        "role worker"
        in refused(join.require_valid, record, request_with(token), role="primer", now=1000).text
    )
    with pytest.raises(UsageError):
        join.new("primer", PIN, now=0, ttl=60)


def test_used_token_is_bound_to_name_key_and_address(
    tmp_path: Path, pair: tuple[join.Token, join.Record]
) -> None:
    token, record = pair
    tokens = join.Tokens(tmp_path)
    tokens.add(record)
    join.require_owner(tokens.claimed(token.id), request_with(token), ADDRESS)
    claim = join.Claim("w1", 1000, KEY, str(ADDRESS))
    tokens.claim(token.id, claim)
    assert tokens.claimed(token.id) == claim
    join.require_owner(claim, request_with(token), ADDRESS)
    for thief, where in (
        (request_with(token, key=OTHER), ADDRESS),
        (request_with(token, hostname="w2"), ADDRESS),
        (request_with(token), IPv4Address("10.77.0.66")),
    ):
        answer = refused(join.require_owner, claim, thief, where)
        assert answer.status == 403
        assert "by w1" in answer.text
    assert tokens.owns(request_with(token))
    assert not tokens.owns(request_with(token, key=OTHER))
    # The owner may present it again after it has its certificate.
    join.require_owner(replace(claim, certificate="PEM"), request_with(token), ADDRESS)


def test_token_claimed_under_an_older_installer_is_refused(
    tmp_path: Path, pair: tuple[join.Token, join.Record]
) -> None:
    token, record = pair
    tokens = join.Tokens(tmp_path)
    tokens.add(record)
    old = {"machine_id": "1" * 32, "hostname": "w1", "time": 1000}
    (tmp_path / "tokens" / f"{token.id}.claim").write_text(json.dumps(old))
    claim = tokens.claimed(token.id)
    assert claim is not None
    assert (claim.hostname, claim.time) == ("w1", 1000)
    assert refused(join.require_owner, claim, request_with(token), ADDRESS).status == 403


def test_claim_that_is_a_symbolic_link_is_an_error(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text('{"hostname": "read", "time": 1}')
    claims = tmp_path / "claims"
    claims.mkdir()
    (claims / f"{'0' * 12}.json").symlink_to(secret)
    with pytest.raises(HostError):
        join.Tokens(tmp_path).claimed("0" * 12)


def test_damaged_claims_are_ignored_when_searching_an_owner(
    tmp_path: Path, pair: tuple[join.Token, join.Record]
) -> None:
    token, _ = pair
    tokens = join.Tokens(tmp_path)
    tokens.claim("a" * 12, join.Claim("w1", 1000, KEY))
    for number, text in enumerate(("{", "[1]", '{"hostname": "w1", "time": 1, "new": 2}', "")):
        (tmp_path / "claims" / f"{number:012}.json").write_text(text)
    assert tokens.owns(request_with(token))
    assert not tokens.owns(request_with(token, key=OTHER))


def test_forward_clock_works_and_logs_if_its_file_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(join, "write_whole", full)
    clock = join.ForwardClock(join.Tokens(tmp_path).clock, lambda: 5000.0, lambda: 10.0)
    assert clock.now() == 5000
    output = capsys.readouterr().err
    assert output.count("No space left") == 1, "once a minute, not at each call"
    assert "claims/clock" in output


def test_setting_the_clock_back_does_not_make_an_expired_token_valid(
    tmp_path: Path, pair: tuple[join.Token, join.Record]
) -> None:
    token, record = pair
    wall, monotonic = [5000.0], [10.0]

    def clock() -> join.ForwardClock:
        return join.ForwardClock(join.Tokens(tmp_path).clock, lambda: wall[0], lambda: monotonic[0])

    service = clock()
    wall[0] = 1010
    monotonic[0] = 40
    assert service.now() == 5030
    assert clock().now() >= 5000, "after a restart, too"
    expired = refused(
        join.require_valid, record, request_with(token), role="worker", now=int(service.now())
    )
    assert "expired" in expired.text
    early = refused(join.require_valid, record, request_with(token), role="worker", now=999)
    assert early.status == 503
    assert join.Tokens(tmp_path).now() >= 5000


def test_revoked_token_is_refused(tmp_path: Path, pair: tuple[join.Token, join.Record]) -> None:
    token, record = pair
    tokens = join.Tokens(tmp_path)
    tokens.add(record)
    assert tokens.find(token.id) == record
    gone = tokens.revoke(token.id)
    assert tokens.all() == [gone]
    assert (
        "revoked"
        in refused(join.require_valid, gone, request_with(token), role="worker", now=1000).text
    )
    with pytest.raises(UsageError):
        tokens.revoke("0" * 12)


@pytest.mark.parametrize("token_id", ["../../etc/passwd", "", "x" * 12, "A" * 12])
def test_find_ignores_malformed_ids(tmp_path: Path, token_id: str) -> None:
    assert join.Tokens(tmp_path).find(token_id) is None


@pytest.fixture
def csr(tmp_path: Path) -> str:
    return identity.made("w1.example", tmp_path / "node.key")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"hostname": "$(reboot)"}, "hostname"),
        ({"hostname": "W1"}, "hostname"),
        ({"hostname": "a" * 53}, "53 of 51 characters"),
        ({"hostname": "-w1"}, "hostname"),
        ({"hostname": "w1\n"}, "hostname"),
        ({"hostname": ""}, "hostname"),
        ({"hostname": "localhost"}, "is a name of every machine"),
        ({"hostname": "localhost.localdomain"}, "is an installer's default"),
        ({"hostname": "debian"}, "hostnamectl set-hostname"),
        ({"hostname": "10.77.0.21"}, "read as an address"),
        ({"hostname": "42"}, "read as an address"),
        ({"hostname": "w2"}, "asks for"),
        ({"csr": 7}, "strings"),
        ({"csr": ""}, "PKCS#10"),
        ({"csr": "x" * 5000}, "4096"),
        ({"token": "ks1.x.y.z"}, "token"),
    ],
)
def test_refusal_names_the_malformed_field(
    pair: tuple[join.Token, join.Record], csr: str, change: dict[str, object], word: str
) -> None:
    fields = {"token": str(pair[0]), "hostname": "w1.example", "csr": csr, **change}
    answer = refused(join.parse_request, json.dumps(fields).encode())
    assert answer.status == 400
    assert word in answer.text


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"null", b"\xff", b"[" * 16000, b"7"])
def test_malformed_body_is_refused(body: bytes) -> None:
    assert refused(join.parse_request, body).status == 400


def test_valid_request_is_parsed(pair: tuple[join.Token, join.Record], csr: str) -> None:
    fields = {"token": str(pair[0]), "hostname": "w1.example", "csr": csr}
    request = join.parse_request(json.dumps(fields).encode())
    assert (request.token, request.hostname) == (pair[0], "w1.example")
    assert len(request.csr.key) == 64


def test_request_of_an_older_installer_is_refused_with_hint(
    pair: tuple[join.Token, join.Record],
) -> None:
    fields = {"token": str(pair[0]), "hostname": "w1", "machine_id": "1" * 32}
    assert "another release" in refused(join.parse_request, json.dumps(fields).encode()).text


@pytest.mark.parametrize(
    ("hostname", "address"),
    [("p1", "10.77.0.30"), ("w1", "10.77.0.11"), ("w1", "192.0.2.1")],
)
def test_name_or_address_of_a_primer_or_outside_the_network_is_refused(
    pair: tuple[join.Token, join.Record], hostname: str, address: str
) -> None:
    request = request_with(pair[0], hostname=hostname)
    assert refused(join.require_place, SITE, request, IPv4Address(address)).status == 409


def test_failures_are_limited_by_address_and_window() -> None:
    failures = join.Failures(per_address=3, window=60)
    assert [failures.note("10.77.0.66", now) for now in (0, 1, 2, 3)] == [False] * 3 + [True]
    assert not failures.note("10.77.0.21", 3)
    assert failures.note("10.77.0.66", 4)
    assert not failures.note("10.77.0.66", 65)


@pytest.mark.parametrize(
    "text",
    [
        '{"hostname": "w1", "time": 1e400}',
        '{"hostname": "w1", "time": NaN}',
        f'{{"hostname": "w1", "time": 1{"0" * 400}}}',
        '{"hostname": "w1", "time": 1, "more": 1}',
        '{"hostname": ["w1"], "time": 1}',
        '{"time": 1}',
        '{"hostname": "w1", "time": "1"}',
        "[" * 60000,
    ],
)
def test_claim_with_malformed_content_is_an_error_naming_the_file(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims/0123456789ab.json").write_text(text)
    with pytest.raises(HostError, match=r"0123456789ab\.json: not written by Keystone"):
        join.Tokens(tmp_path).claimed("0123456789ab")


@pytest.mark.parametrize("value", ["1e400", "1" + "0" * 400, "NaN", "-1", '"x"', "null"])
def test_clock_file_with_an_invalid_time_is_an_error(tmp_path: Path, value: str) -> None:
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims/clock").write_text(f'{{"time": {value}}}')
    with pytest.raises(HostError, match="clock: not written by Keystone"):
        join.Tokens(tmp_path).now()


def test_claim_that_is_a_pipe_is_an_error_and_does_not_block(tmp_path: Path) -> None:
    (tmp_path / "claims").mkdir()
    os.mkfifo(tmp_path / "claims/0123456789ab.json")
    with pytest.raises(HostError, match="not written by Keystone"):
        join.Tokens(tmp_path).claimed("0123456789ab")
