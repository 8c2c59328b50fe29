"""What the role packages leaves on a worker: the Primer is where its packages come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testinfra.host import Host

LISTS = "/var/lib/apt/lists"


def test_what_it_was_told_is_installed(host: Host, told: dict[str, Any]) -> None:
    assert [name for name in told["packages_names"] if not host.package(name).is_installed] == []


def test_apt_finds_the_primers_packages(host: Host, told: dict[str, Any]) -> None:
    apt = "apt-get -o Dir::Etc::sourcelist=sources.list.d/keystone.list -o Dir::Etc::sourceparts=-"
    host.check_output(f"{apt} update")
    assert told["packages_server"] in host.check_output("apt-cache policy haproxy")


def test_without_the_sites_authority_apt_believes_nobody(host: Host) -> None:
    apt = "apt-get -o Dir::Etc::sourcelist=sources.list.d/keystone.list -o Dir::Etc::sourceparts=-"
    other = "/etc/ssl/certs/ca-certificates.crt"
    server = "Acquire::https::$(hostname -I | cut -d' ' -f1 | sed 's/[.][0-9]*$/.11/')::CaInfo"
    assert host.run(f"{apt} -o {server}={other} -o APT::Update::Error-Mode=any update").rc != 0
