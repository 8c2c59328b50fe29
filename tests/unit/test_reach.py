"""Whose host key is believed, and who confirms the others. Real sshd: tests/lab/test_host_keys."""

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
from keystone.run import run
from keystone.site import introduction
from keystone.site.model import Node

if TYPE_CHECKING:
    from pathlib import Path

ONE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFRVCpaCOa3RqLLhKYYw8A/TzcRgkci5Kat1UZ1z9H5d"
TWO = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHi5IGLLBPn7yrAZgSvCjnsqnsjYWe46TxuDBl9vlOFu"
P2 = Node("p2", IPv4Address("10.77.0.12"))
OPTIONS = install.Options(bundle=None, site=None)  # type: ignore[arg-type] not looked at here


def test_a_fingerprint_is_the_one_that_ssh_keygen_prints(tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text(f"{ONE} p2\n")
    shown = run(["ssh-keygen", "-lf", tmp_path / "key.pub"]).stdout
    assert shown.split()[1] == host_keys.fingerprint(ONE)


@pytest.mark.parametrize(
    ("said", "kept", "believed"),
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
def test_the_site_file_is_believed_then_what_was_kept(said: str, kept: str, believed: str) -> None:
    assert reach.vouched(replace(P2, host_key=said), 22, kept) == believed


def test_an_installed_machine_finds_its_introductions() -> None:
    found = introduction.state(install.site.Site("s", (P2,), None), {"known_hosts": "x"}, "")  # type: ignore[arg-type] no network is looked at
    assert found[str(reach.KNOWN).removeprefix("/")] == ("x", 0o644)


class Terminal(io.StringIO):
    """A person at the keyboard."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> reach.Reach:
    monkeypatch.setattr(reach, "KNOWN", tmp_path / "known_hosts")
    stranger = reach.Unknown("p2", "10.77.0.12", "primers[1].hostKey", ONE)
    return reach.Reach({}, (stranger,), {"10.77.0.12": ONE})


@pytest.mark.parametrize(("typed", "kept"), [("y\n", f"10.77.0.12 {ONE}\n"), ("n\n", "")])
def test_who_approves_the_plan_confirms_the_keys_shown_with_it(
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
    said = capsys.readouterr()
    assert host_keys.fingerprint(ONE) in said.out + said.err
    assert "consoles show these keys" in said.out + said.err
    assert (reach.KNOWN.read_text() if reach.KNOWN.exists() else "") == kept


def test_nobody_to_ask_is_a_refusal_with_the_line_to_write(
    reached: reach.Reach, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(RefusedError, match="nobody vouches") as caught:
        install._approve(Plan(()), reached, OPTIONS)
    assert f"primers[1].hostKey: {ONE}" in caught.value.hint
    monkeypatch.setattr(reach, "look", lambda _: reached)
    with pytest.raises(RefusedError, match="nobody vouches"):
        install._reached(None, replace(OPTIONS, yes=True))  # type: ignore[arg-type] not looked at
    assert not reach.KNOWN.exists()
