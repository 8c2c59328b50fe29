"""Tokens: one machine, for a while, for one role; whoever guesses learns nothing and waits."""

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


def asked(token: join.Token, *, hostname: str = "w1", key: str = KEY) -> join.Request:
    return join.Request(token, identity.KeyRequest("", hostname, key))


def refused(call: Callable[..., object], *arguments: object, **keywords: object) -> join.Refusal:
    with pytest.raises(join.Refusal) as caught:
        call(*arguments, **keywords)
    return caught.value


@pytest.fixture
def pair() -> tuple[join.Token, join.Record]:
    return join.new("worker", PIN, now=1000, ttl=60)


def test_a_token_survives_its_text(pair: tuple[join.Token, join.Record]) -> None:
    token, record = pair
    assert join.Token.parse(f" {token}\n") == token
    assert token.secret not in json.dumps(record.__dict__)


def test_a_good_token_is_good_until_it_expires(pair: tuple[join.Token, join.Record]) -> None:
    token, record = pair
    join.judge(record, asked(token), role="worker", now=1059)
    assert "expired" in refused(join.judge, record, asked(token), role="worker", now=1060).text


def test_who_does_not_know_the_secret_learns_nothing(pair: tuple[join.Token, join.Record]) -> None:
    token, record = pair
    wrong = join.Token(token.id, "0" * 40, token.pin)
    told = {
        refused(join.judge, given, asked(wrong), role="worker", now=9999).text
        for given in (record, None)
    }
    assert told == {"token unknown on this Primer"}
    assert refused(join.judge, None, asked(token), role="worker", now=1000).status == 403


def test_a_token_is_bound_to_its_role(pair: tuple[join.Token, join.Record]) -> None:
    token, record = pair
    assert "role worker" in refused(join.judge, record, asked(token), role="primer", now=1000).text
    with pytest.raises(UsageError):
        join.new("primer", PIN, now=0, ttl=60)


def test_a_used_token_stays_with_its_key_and_address(
    tmp_path: Path, pair: tuple[join.Token, join.Record]
) -> None:
    token, record = pair
    tokens = join.Tokens(tmp_path)
    tokens.add(record)
    join.judge_claim(tokens.claimed(token.id), asked(token), ADDRESS)
    claim = join.Claim("w1", 1000, KEY, str(ADDRESS))
    tokens.claim(token.id, claim)
    assert tokens.claimed(token.id) == claim
    join.judge_claim(claim, asked(token), ADDRESS)
    for thief, where in (
        (asked(token, key=OTHER), ADDRESS),
        (asked(token, hostname="w2"), ADDRESS),
        (asked(token), IPv4Address("10.77.0.66")),
    ):
        answer = refused(join.judge_claim, claim, thief, where)
        assert answer.status == 403
        assert "by w1" in answer.text
    assert tokens.owns(asked(token))
    assert not tokens.owns(asked(token, key=OTHER))
    # What it was given already gives nothing away.
    join.judge_claim(replace(claim, certificate="PEM"), asked(token), ADDRESS)


def test_a_token_that_was_used_before_the_update_is_used(
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
    assert refused(join.judge_claim, claim, asked(token), ADDRESS).status == 403


def test_what_the_service_wrote_leads_root_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text('{"hostname": "read", "time": 1}')
    claims = tmp_path / "claims"
    claims.mkdir()
    (claims / f"{'0' * 12}.json").symlink_to(secret)
    with pytest.raises(HostError):
        join.Tokens(tmp_path).claimed("0" * 12)


def test_one_damaged_claim_keeps_nobody_out(
    tmp_path: Path, pair: tuple[join.Token, join.Record]
) -> None:
    token, _ = pair
    tokens = join.Tokens(tmp_path)
    tokens.claim("a" * 12, join.Claim("w1", 1000, KEY))
    for number, text in enumerate(("{", "[1]", '{"hostname": "w1", "time": 1, "new": 2}', "")):
        (tmp_path / "claims" / f"{number:012}.json").write_text(text)
    assert tokens.owns(asked(token))
    assert not tokens.owns(asked(token, key=OTHER))


def test_the_clock_goes_on_when_its_file_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(join, "write_whole", full)
    floor = join.Floor(join.Tokens(tmp_path).clock, lambda: 5000.0, lambda: 10.0)
    assert floor.now() == 5000
    said = capsys.readouterr().err
    assert said.count("No space left") == 1, "once a minute, not at each look"
    assert "claims/clock" in said


def test_a_clock_that_is_set_back_revives_no_token(
    tmp_path: Path, pair: tuple[join.Token, join.Record]
) -> None:
    token, record = pair
    wall, monotonic = [5000.0], [10.0]

    def floor() -> join.Floor:
        return join.Floor(join.Tokens(tmp_path).clock, lambda: wall[0], lambda: monotonic[0])

    service = floor()
    wall[0] = 1010
    monotonic[0] = 40
    assert service.now() == 5030
    assert floor().now() >= 5000, "over a restart, too"
    expired = refused(join.judge, record, asked(token), role="worker", now=int(service.now()))
    assert "expired" in expired.text
    early = refused(join.judge, record, asked(token), role="worker", now=999)
    assert early.status == 503
    assert join.Tokens(tmp_path).now() >= 5000


def test_revoking(tmp_path: Path, pair: tuple[join.Token, join.Record]) -> None:
    token, record = pair
    tokens = join.Tokens(tmp_path)
    tokens.add(record)
    assert tokens.find(token.id) == record
    gone = tokens.revoke(token.id)
    assert tokens.all() == [gone]
    assert "revoked" in refused(join.judge, gone, asked(token), role="worker", now=1000).text
    with pytest.raises(UsageError):
        tokens.revoke("0" * 12)


@pytest.mark.parametrize("token_id", ["../../etc/passwd", "", "x" * 12, "A" * 12])
def test_an_id_never_leads_out_of_the_folder(tmp_path: Path, token_id: str) -> None:
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
        ({"hostname": "localhost"}, "names every machine"),
        ({"hostname": "localhost.localdomain"}, "no name of a machine's own"),
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
def test_malformed_fields_are_named(
    pair: tuple[join.Token, join.Record], csr: str, change: dict[str, object], word: str
) -> None:
    fields = {"token": str(pair[0]), "hostname": "w1.example", "csr": csr, **change}
    answer = refused(join.parse_request, json.dumps(fields).encode())
    assert answer.status == 400
    assert word in answer.text


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"null", b"\xff", b"[" * 16000, b"7"])
def test_malformed_bodies_are_refused(body: bytes) -> None:
    assert refused(join.parse_request, body).status == 400


def test_a_good_request_is_taken(pair: tuple[join.Token, join.Record], csr: str) -> None:
    fields = {"token": str(pair[0]), "hostname": "w1.example", "csr": csr}
    request = join.parse_request(json.dumps(fields).encode())
    assert (request.token, request.hostname) == (pair[0], "w1.example")
    assert len(request.csr.key) == 64


def test_a_request_of_before_is_told_of_its_installer(pair: tuple[join.Token, join.Record]) -> None:
    fields = {"token": str(pair[0]), "hostname": "w1", "machine_id": "1" * 32}
    assert "another release" in refused(join.parse_request, json.dumps(fields).encode()).text


@pytest.mark.parametrize(
    ("hostname", "address"),
    [("p1", "10.77.0.30"), ("w1", "10.77.0.11"), ("w1", "192.0.2.1")],
)
def test_a_worker_never_takes_a_primers_place(
    pair: tuple[join.Token, join.Record], hostname: str, address: str
) -> None:
    request = asked(pair[0], hostname=hostname)
    assert refused(join.judge_place, SITE, request, IPv4Address(address)).status == 409


def test_guessing_is_slow_and_stays_with_the_guesser() -> None:
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
def test_a_claim_that_the_service_made_up_is_an_error_with_its_name(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims/0123456789ab.json").write_text(text)
    with pytest.raises(HostError, match=r"0123456789ab\.json: not what Keystone wrote"):
        join.Tokens(tmp_path).claimed("0123456789ab")


@pytest.mark.parametrize("said", ["1e400", "1" + "0" * 400, "NaN", "-1", '"x"', "null"])
def test_a_clock_that_no_calendar_has_is_an_error(tmp_path: Path, said: str) -> None:
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims/clock").write_text(f'{{"time": {said}}}')
    with pytest.raises(HostError, match="clock: not what Keystone wrote"):
        join.Tokens(tmp_path).now()


def test_a_pipe_for_a_claim_lets_nobody_wait(tmp_path: Path) -> None:
    (tmp_path / "claims").mkdir()
    os.mkfifo(tmp_path / "claims/0123456789ab.json")
    with pytest.raises(HostError, match="not what Keystone wrote"):
        join.Tokens(tmp_path).claimed("0123456789ab")
