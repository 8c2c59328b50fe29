"""The role names: the site's machines can be resolved without a name server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testinfra.host import Host


def test_every_machine_of_the_site_is_resolved(host: Host, role_variables: dict[str, Any]) -> None:
    assert role_variables["names_lines"]
    for line in role_variables["names_lines"]:
        address, name = line.split()
        assert address in host.check_output("getent ahostsv4 %s", name).split()


def test_other_lines_of_hosts_are_kept(host: Host) -> None:
    assert "localhost" in host.check_output("getent hosts 127.0.0.1")
