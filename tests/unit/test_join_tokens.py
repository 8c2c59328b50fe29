"""Tokens: one machine, for a while, for one role; whoever guesses learns nothing and waits."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from keystone import join
from keystone.errors import HostError, UsageError
from keystone.site import Networks, Node, Site

PIN = "c" * 64
MACHINE, OTHER = "0" * 31 + "1", "0" * 31 + "2"
SITE = Site(
    "lab",
    (Node("p1", IPv4Address("10.77.0.11")),),
    Networks(IPv4Network("10.77.0.0/24")),
)


def asked(token: join.Token, *, hostname: str = "w1", machine_id: str = MACHINE) -> join.Request:
    return join.Request(token, hostname, machine_id)


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


def test_a_used_token_stays_with_its_machine(
    tmp_path: Path, pair: tuple[join.Token, join.Record]
) -> None:
    token, record = pair
    tokens = join.Tokens(tmp_path / "tokens")
    tokens.add(record)
    first = asked(token)
    for now in (1000, 1010):
        owner = tokens.claim(first, now)
        join.judge_claim(owner, first)
        assert owner.time == 1000
    for thief in (asked(token, machine_id=OTHER), asked(token, hostname="w2")):
        answer = refused(join.judge_claim, tokens.claim(thief, 1020), thief)
        assert answer.status == 403
        assert "by w1" in answer.text
    assert sorted(path.name for path in (tmp_path / "tokens").iterdir()) == [
        f"{token.id}.claim",
        f"{token.id}.json",
    ]


def test_of_many_machines_at_once_one_gets_the_token(
    tmp_path: Path, pair: tuple[join.Token, join.Record]
) -> None:
    token, record = pair
    tokens = join.Tokens(tmp_path)
    tokens.add(record)
    crowd = [asked(token, machine_id=f"{number:032x}") for number in range(40)]
    with ThreadPoolExecutor(20) as pool:
        owners = list(pool.map(lambda request: tokens.claim(request, 1000), crowd))
    assert len(set(owners)) == 1


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


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"hostname": "$(reboot)"}, "hostname"),
        ({"hostname": "W1"}, "hostname"),
        ({"hostname": "a" * 254}, "hostname"),
        ({"hostname": "-w1"}, "hostname"),
        ({"hostname": "w1\n"}, "hostname"),
        ({"hostname": ""}, "hostname"),
        ({"machine_id": "../x"}, "machine_id"),
        ({"machine_id": MACHINE + "\n"}, "machine_id"),
        ({"machine_id": 7}, "strings"),
        ({"token": "ks1.x.y.z"}, "token"),
    ],
)
def test_malformed_fields_are_named(
    pair: tuple[join.Token, join.Record], change: dict[str, object], word: str
) -> None:
    fields = {"token": str(pair[0]), "hostname": "w1", "machine_id": MACHINE, **change}
    answer = refused(join.parse_request, json.dumps(fields).encode())
    assert answer.status == 400
    assert word in answer.text


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"null", b"\xff", b"[" * 16000, b"7"])
def test_malformed_bodies_are_refused(body: bytes) -> None:
    assert refused(join.parse_request, body).status == 400


def test_a_good_request_is_taken(pair: tuple[join.Token, join.Record]) -> None:
    fields = {"token": str(pair[0]), "hostname": "w1.example", "machine_id": MACHINE}
    assert join.parse_request(json.dumps(fields).encode()) == asked(pair[0], hostname="w1.example")


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
    failures = join.Failures(per_address=3, overall=100, window=60)
    for now in (0, 1, 2):
        failures.check("10.77.0.66", now)
        failures.note("10.77.0.66", now)
    assert refused(failures.check, "10.77.0.66", 3).status == 429
    failures.check("10.77.0.21", 3)
    failures.check("10.77.0.66", 61)


def test_what_kubeadm_prints_is_read_strictly() -> None:
    line = (
        "kubeadm join 127.0.0.1:7443 --token abcdef.0123456789abcdef "
        f"--discovery-token-ca-cert-hash sha256:{'a' * 64} \n"
    )
    assert join.parse_join_command(line) == join.Bootstrap(
        "abcdef.0123456789abcdef", f"sha256:{'a' * 64}"
    )
    with pytest.raises(HostError):
        join.parse_join_command("kubeadm join 127.0.0.1:7443")
