"""The role seal on a Primer without peers: it opens for others, and its own keys stay plain."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from testinfra.host import Host


def test_tang_advertises_its_key_at_the_address_of_the_primer(host: Host) -> None:
    address = host.check_output("hostname -I").split()[0]
    assert '"payload"' in host.check_output("curl -sfg http://%s:8445/adv", address)


def test_tang_listens_on_no_other_port(host: Host) -> None:
    assert "*:80" not in host.check_output("systemctl show tangd.socket --property=Listen")


def test_keys_without_peers_stay_plain(host: Host) -> None:
    assert host.file("/etc/keystone/seal.json").content_string == "[]\n"
    assert not host.file("/var/lib/keystone/pki/site.key").is_symlink
    assert host.service("keystone-unseal").is_enabled
