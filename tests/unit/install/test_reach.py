"""Which host keys are known, and who confirms the others. Real sshd: tests/lab/test_host_keys."""

from __future__ import annotations

import io
from dataclasses import replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest

from keystone import host_keys
from keystone.errors import RefusedError
from keystone.install import main as install
from keystone.install import reach
from keystone.install.engine import Plan
from keystone.run import Host, run
from keystone.site import introduction
from keystone.site.model import Node

if TYPE_CHECKING:
    from pathlib import Path

ONE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFRVCpaCOa3RqLLhKYYw8A/TzcRgkci5Kat1UZ1z9H5d"
TWO = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHi5IGLLBPn7yrAZgSvCjnsqnsjYWe46TxuDBl9vlOFu"
P2 = Node("p2", IPv4Address("10.77.0.12"))
OPTIONS = install.Options(bundle=None, site=None)  # type: ignore[arg-type] not used here


def test_fingerprint_equals_output_of_ssh_keygen(tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text(f"{ONE} p2\n")
    shown = run(["ssh-keygen", "-lf", tmp_path / "key.pub"]).stdout
    assert shown.split()[1] == host_keys.fingerprint(ONE)


@pytest.mark.parametrize(
    ("in_site", "kept", "expected"),
    [
        ("", "", ""),
        (f"{ONE} p2", "", ONE),
        ("", f"10.77.0.12 {TWO}\n", TWO),
        ("", f"10.77.0.13 {TWO}\n@revoked 10.77.0.12 {TWO}\n|1|a|b {TWO}\n", ""),
        (ONE, f"10.77.0.12 {TWO}\n", ONE),
        (host_keys.fingerprint(ONE), f"10.77.0.12 {TWO[:30]}\n10.77.0.12 {ONE}\n", ONE),
        (host_keys.fingerprint(TWO), f"10.77.0.12 {TWO[:29]}\n", ""),
        ("", f"10.77.0.12 {TWO[:29]}\n", ""),
        (host_keys.fingerprint(TWO), f"10.77.0.12 {TWO}\n", TWO),
        (host_keys.fingerprint(ONE), f"10.77.0.12 {TWO}\n", ""),
    ],
)
def test_key_in_site_file_precedes_kept_key(in_site: str, kept: str, expected: str) -> None:
    assert reach.known_key(replace(P2, host_key=in_site), 22, kept) == expected


def test_introductions_are_written_where_reach_reads_them() -> None:
    found = introduction.state(install.site.Site("s", (P2,), None), {"known_hosts": "x"}, "")  # type: ignore[arg-type] networks are not used
    assert found[str(reach.KNOWN).removeprefix("/")] == ("x", 0o644)


class Terminal(io.StringIO):
    """A person at the keyboard."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> reach.Reach:
    monkeypatch.setattr(reach, "KNOWN", tmp_path / "known_hosts")
    unknown = reach.Unknown("p2", "10.77.0.12", "primers[1].hostKey", ONE)
    return reach.Reach({}, (unknown,), {"10.77.0.12": ONE})


@pytest.mark.parametrize(("typed", "kept"), [("y\n", f"10.77.0.12 {ONE}\n"), ("n\n", "")])
def test_approving_the_plan_confirms_the_host_keys_shown_with_it(
    reached: reach.Reach, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    typed: str, kept: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    plan = Plan(())
    install._show(plan, reached.unknown, [], as_json=False)
    if kept:
        install._approve(plan, reached, OPTIONS)
    else:
        with pytest.raises(RefusedError):
            install._approve(plan, reached, OPTIONS)
    output = capsys.readouterr()
    assert host_keys.fingerprint(ONE) in output.out + output.err
    assert "consoles show these keys" in output.out + output.err
    assert (reach.KNOWN.read_text() if reach.KNOWN.exists() else "") == kept


def test_unknown_host_key_without_terminal_is_refused_with_line_for_site_file(
    reached: reach.Reach, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(RefusedError, match="is not known") as caught:
        install._approve(Plan(()), reached, OPTIONS)
    assert f"primers[1].hostKey: {ONE}" in caught.value.hint
    monkeypatch.setattr(reach, "find", lambda _, **_how: reached)
    with pytest.raises(RefusedError, match="is not known"):
        install._reached(None, replace(OPTIONS, yes=True))  # type: ignore[arg-type] not used
    assert not reach.KNOWN.exists()


def test_host_that_is_asked_soon_has_a_connection_of_its_own_and_a_short_wait() -> None:
    shared = ("-o", "ControlMaster=auto", "-o", "ControlPath=/run/x")
    host = Host("p1", "10.77.0.11", options=shared)
    assert "ConnectTimeout=60" in host.ssh_argv()
    assert "ConnectTimeout=4" in host.soon().ssh_argv()
    assert "ConnectTimeout=30" in host.soon(30).ssh_argv()
    assert "ControlPath=none" in host.soon().ssh_argv()
    assert not any("ControlMaster" in word for word in host.soon().ssh_argv())
