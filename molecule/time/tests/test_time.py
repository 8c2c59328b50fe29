"""The role time on a Primer: it serves the time to the site, and queries no other server."""

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


def test_answer_has_the_stratum_of_orphan_mode(host: Host) -> None:
    address = host.check_output("hostname -I").split()[0]
    assert host.check_output("python3 -c %s %s", ASK, address).split() == [str(SERVER), "10"]


def test_no_server_outside_the_site_is_configured(host: Host) -> None:
    lines = host.file("/etc/chrony/chrony.conf").content_string.splitlines()
    assert [line for line in lines if line.startswith(("pool ", "server ", "sourcedir "))] == []


def test_chronyd_sets_the_clock_only_if_the_machine_has_its_own(
    host: Host, role_variables: dict[str, Any]
) -> None:
    (words,) = {process.args for process in host.process.filter(comm="chronyd")}
    assert (" -x" in words) != role_variables["time_sets_clock"]


def test_chrony_is_restarted_after_it_was_killed(host: Host) -> None:
    """As the kernel does if memory is short. Debian's unit does not restart it."""
    main = "systemctl show --property MainPID --value chrony"
    before = host.check_output(main)
    host.check_output("systemctl kill --kill-whom main --signal KILL chrony")
    restarted = f"case $({main}) in 0|{before}) false;; esac && systemctl -q is-active chrony"
    host.check_output(f"timeout 60 sh -c 'until {restarted}; do sleep 1; done'")
