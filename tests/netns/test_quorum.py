"""Three real etcd members over TLS, configured by the role's template, with the site's CAs."""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from keystone.ansible.roles import etcd
from keystone.cluster.etcd import parse_status
from keystone.run import Result, spawned

from .conftest import NODES, Lan, Placed, context, render, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

FIRST = "https://10.78.0.11:2379"
ALL = ",".join(f"https://{address}:2379" for address in NODES.values())


@dataclass
class Quorum:
    lan: Lan
    placed: Placed
    programs: Mapping[str, Path]
    folder: Path
    stack: ExitStack
    running: dict[str, Any] = field(default_factory=dict)
    quota: int = 4 << 30

    def start(self, host: str) -> None:
        variables = {
            **etcd.variables(context(self.placed, host)),
            "etcd_data_dir": str(self.folder / host / "data"),
            "etcd_pki_dir": str(self.placed.at(host, "/etc/etcd/pki")),
            "etcd_quota_bytes": self.quota,
        }
        home = self.folder / host
        home.mkdir(exist_ok=True)
        (home / "etcd.yaml").write_text(render("etcd", "etcd.yaml.j2", variables))
        argv = self.lan.at(host, self.programs["etcd"], "--config-file", home / "etcd.yaml")
        self.running[host] = self.stack.enter_context(
            spawned(argv, log_file=home / "log", env={"GOMAXPROCS": "1"})
        )

    def kill(self, host: str) -> None:
        self.running[host].kill()
        self.running[host].wait()

    def ctl(self, *words: str, host: str = "p1", certificate: str | None = "client") -> Result:
        """Run etcdctl on a host, by default with its health-check certificate."""
        folder = self.placed.at(host, "/etc/etcd/pki")
        flags = ["--cacert", f"{folder}/peer-ca.crt"]
        if certificate:
            flags += [
                "--cert",
                f"{folder}/{certificate}.crt",
                "--key",
                f"{folder}/{certificate}.key",
            ]
        return self.lan.run(host, self.programs["etcdctl"], *flags, *words, check=False)

    def healthy(self, host: str = "p1") -> set[str]:
        """Return the addresses of the members that serve, queried from a host."""
        words = ("--endpoints", ALL, "-w", "json", "--command-timeout", "2s")
        done = self.ctl("endpoint", "health", *words, host=host)
        return {entry["endpoint"] for entry in json.loads(done.stdout or "[]") if entry["health"]}

    def log(self, host: str) -> str:
        return (self.folder / host / "log").read_text()


@contextmanager
def running(lan: Lan, placed: Placed, binary: Callable[[str], Path], folder: Path,
            **options: int) -> Iterator[Quorum]:  # fmt: skip
    """Start three members with a tree's files; they end with the block. options: of Quorum."""
    programs = {name: binary(name) for name in ("etcd", "etcdctl")}
    with ExitStack() as stack:
        made = Quorum(lan, placed, programs, folder, stack, **options)
        for host in NODES:
            made.start(host)
        until(lambda: len(made.healthy()) == 3, "three healthy members")
        yield made


@pytest.fixture(scope="module")
def quorum(
    namespaces: Callable[[Mapping[str, str]], Lan],
    pki_site: Placed,
    binary: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Quorum]:
    lan = namespaces({**NODES, "outsider": "10.78.0.66"})
    with running(lan, pki_site, binary, tmp_path_factory.mktemp("etcd")) as made:
        yield made


@pytest.fixture(autouse=True)
def healthy_before_and_after(quorum: Quorum) -> Iterator[None]:
    """Each test begins and ends with three healthy members."""
    yield
    for host, process in quorum.running.items():
        if process.poll() is not None:
            quorum.start(host)
    until(lambda: len(quorum.healthy()) == 3, "the killed members are back")


def test_three_members_serve_and_agree(quorum: Quorum) -> None:
    assert quorum.ctl("put", "where", "p1", "--endpoints", FIRST).returncode == 0
    read = quorum.ctl("get", "where", "--print-value-only", "--endpoints", "https://127.0.0.1:2379",
                      host="p3")  # fmt: skip
    assert read.stdout.strip() == "p1"
    members = json.loads(quorum.ctl("member", "list", "--endpoints", FIRST, "-w", "json").stdout)
    assert {member["name"] for member in members["members"]} == set(NODES)
    assert not any(member.get("isLearner") for member in members["members"])


def test_status_shows_the_leader_and_silent_members(quorum: Quorum) -> None:
    def status() -> dict[str, str]:
        listed = quorum.ctl("member", "list", "--endpoints", FIRST, "-w", "json")
        endpoints = quorum.ctl("endpoint", "status", "--endpoints", ALL, "-w", "json",
                          "--command-timeout", "2s")  # fmt: skip
        members = parse_status(json.loads(listed.stdout)["members"], json.loads(endpoints.stdout))
        return {member.name: member.state for member in members}

    assert sorted(status().values()) == ["follower", "follower", "leader"]
    quorum.kill("p3")
    until(lambda: sorted(status().values()) == ["follower", "leader", "silent"], "p3 is silent")
    assert status()["p3"] == "silent"


def test_client_without_certificate_is_refused(quorum: Quorum) -> None:
    refused = quorum.ctl("get", "where", "--endpoints", FIRST, "--command-timeout", "3s",
                         certificate=None)  # fmt: skip
    assert refused.returncode != 0
    until(
        lambda: "client didn't provide a certificate" in quorum.log("p1"),
        "the member says that a certificate was missing",
    )


@pytest.mark.parametrize("certificate", ["peer", "server"])
def test_certificate_for_another_purpose_is_refused(quorum: Quorum, certificate: str) -> None:
    refused = quorum.ctl("get", "where", "--endpoints", FIRST, "--command-timeout", "3s",
                         certificate=certificate)  # fmt: skip
    assert refused.returncode != 0


def dial(quorum: Quorum, machine: str, folder: Path, certificate: str) -> Result:
    """Open TLS to p1's peer port and request /version, which etcd answers to real peers."""
    script = (
        "import http.client, ssl, sys\n"
        "ca, cert, key = sys.argv[1:]\n"
        "context = ssl.create_default_context(cafile=ca)\n"
        "context.load_cert_chain(cert, key)\n"
        "peer = http.client.HTTPSConnection('10.78.0.11', 2380, context=context, timeout=10)\n"
        "peer.request('GET', '/version')\n"
        "print(peer.getresponse().status)\n"
    )
    words = [folder / "peer-ca.crt", folder / f"{certificate}.crt", folder / f"{certificate}.key"]
    return quorum.lan.run(machine, "python3", "-c", script, *words, check=False)


def test_client_certificate_is_refused_on_the_peer_port(quorum: Quorum) -> None:
    folder = quorum.placed.at("p2", "/etc/etcd/pki")
    assert dial(quorum, "p2", folder, "peer").stdout.strip() == "200"
    refused = dial(quorum, "p2", folder, "client")
    assert refused.returncode != 0
    assert "alert" in refused.stderr


def test_peer_certificate_is_accepted_only_from_its_own_address(quorum: Quorum) -> None:
    refused = dial(quorum, "outsider", quorum.placed.at("p2", "/etc/etcd/pki"), "peer")
    assert refused.returncode != 0
    assert "10.78.0.66" in quorum.log("p1")


def test_quorum_serves_without_a_killed_member_which_rejoins(quorum: Quorum) -> None:
    quorum.kill("p3")
    until(lambda: quorum.ctl("put", "during", "yes", "--endpoints", ALL).returncode == 0,
          "writes go on with two members")  # fmt: skip
    quorum.start("p3")
    until(lambda: len(quorum.healthy()) == 3, "p3 is back")
    read = quorum.ctl("get", "during", "--print-value-only", "--endpoints", "https://127.0.0.1:2379",
                      host="p3")  # fmt: skip
    assert read.stdout.strip() == "yes"


def test_write_without_a_majority_fails(quorum: Quorum) -> None:
    assert quorum.ctl("put", "kept", "before", "--endpoints", FIRST).returncode == 0
    quorum.kill("p2")
    quorum.kill("p3")
    refused = quorum.ctl("put", "kept", "after", "--endpoints", FIRST, "--command-timeout", "3s")
    assert refused.returncode != 0
    assert quorum.healthy() == set()
    for host in ("p2", "p3"):
        quorum.start(host)
    until(lambda: len(quorum.healthy()) == 3, "the majority is back")
    assert quorum.ctl("get", "kept", "--print-value-only", "--endpoints", FIRST).returncode == 0


def test_disconnected_member_does_not_affect_the_majority(quorum: Quorum) -> None:
    quorum.lan.link("p1", "down")
    try:
        written = ("put", "after", "yes", "--endpoints", ALL)
        until(lambda: quorum.ctl(*written, host="p2").returncode == 0, "the majority serves")
        # A separate key: a proposal that timed out may still be accepted after the reconnection.
        alone = quorum.ctl("put", "alone", "yes", "--endpoints", "https://127.0.0.1:2379",
                           "--command-timeout", "3s")  # fmt: skip
        assert alone.returncode != 0
    finally:
        quorum.lan.link("p1", "up")
    until(lambda: len(quorum.healthy()) == 3, "the disconnected member has rejoined")
    read = quorum.ctl("get", "after", "--print-value-only", "--endpoints", FIRST)
    assert read.stdout.strip() == "yes"
