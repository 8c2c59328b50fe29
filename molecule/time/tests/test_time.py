"""What the role time leaves on a Primer: a clock that the site follows, and that follows nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testinfra.host import Host

ASK = """
import socket, sys
asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asked.settimeout(10)
asked.sendto(bytes([0x23]) + bytes(47), (sys.argv[1], 123))
answer = asked.recv(48)
print(answer[0] & 7, answer[1])
"""
"""An SNTP client (RFC 4330): mode and stratum of the answer."""
SERVER = 4


def test_it_answers_with_the_stratum_of_an_orphan(host: Host) -> None:
    address = host.check_output("hostname -I").split()[0]
    assert host.check_output("python3 -c %s %s", ASK, address).split() == [str(SERVER), "10"]


def test_it_asks_nobody_outside_the_site(host: Host) -> None:
    lines = host.file("/etc/chrony/chrony.conf").content_string.splitlines()
    assert [line for line in lines if line.startswith(("pool ", "server ", "sourcedir "))] == []


def test_it_sets_the_clock_only_where_the_clock_is_its_own(
    host: Host, told: dict[str, Any]
) -> None:
    (words,) = {process.args for process in host.process.filter(comm="chronyd")}
    assert (" -x" in words) != told["time_sets_clock"]


def test_it_runs_again_after_it_was_killed(host: Host) -> None:
    """As by the kernel, where memory is short. The distribution's unit leaves it dead."""
    main = "systemctl show --property MainPID --value chrony"
    before = host.check_output(main)
    host.check_output("systemctl kill --kill-whom main --signal KILL chrony")
    look = f"case $({main}) in 0|{before}) false;; esac && systemctl -q is-active chrony"
    host.check_output(f"timeout 60 sh -c 'until {look}; do sleep 1; done'")
