"""The role packages on a worker: its packages come from a Primer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testinfra.host import Host

LISTS = "/var/lib/apt/lists"


def test_packages_are_installed(host: Host, role_variables: dict[str, Any]) -> None:
    assert [
        name for name in role_variables["packages_names"] if not host.package(name).is_installed
    ] == []


def test_apt_finds_packages_of_the_primer(host: Host, role_variables: dict[str, Any]) -> None:
    apt = "apt-get -o Dir::Etc::sourcelist=sources.list.d/keystone.list -o Dir::Etc::sourceparts=-"
    host.check_output(f"{apt} update")
    assert role_variables["packages_server"] in host.check_output("apt-cache policy haproxy")


def test_apt_refuses_the_source_without_the_ca_of_the_site(host: Host) -> None:
    apt = "apt-get -o Dir::Etc::sourcelist=sources.list.d/keystone.list -o Dir::Etc::sourceparts=-"
    other = "/etc/ssl/certs/ca-certificates.crt"
    server = "Acquire::https::$(hostname -I | cut -d' ' -f1 | sed 's/[.][0-9]*$/.11/')::CaInfo"
    assert host.run(f"{apt} -o {server}={other} -o APT::Update::Error-Mode=any update").rc != 0
