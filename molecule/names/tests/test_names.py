"""What the role names leaves: the site's machines have addresses without a name server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testinfra.host import Host


def test_every_machine_of_the_site_has_its_address(host: Host, told: dict[str, Any]) -> None:
    assert told["names_lines"]
    for line in told["names_lines"]:
        address, name = line.split()
        assert address in host.check_output("getent ahostsv4 %s", name).split()


def test_other_lines_are_as_they_were(host: Host) -> None:
    assert "localhost" in host.check_output("getent hosts 127.0.0.1")
